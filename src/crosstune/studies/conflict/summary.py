"""What the cells found, over seeds: every table of a cell with its seed, and the means with their intervals.

The loss ledger and the agreement at single states stay in the cells: they are long, and nothing is averaged from them here
(`agreement_at_one_state` keeps of the first seed what is drawn).
"""

from __future__ import annotations

from collections.abc import Sequence

from crosstune.foundation.evaluation import chance_lines
from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.interference.ledger.rollback import compare_with_ledger
from crosstune.studies.conflict import accounts, agreement, depth, repairs, retention
from crosstune.studies.conflict.prepare import Prepared
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.tables import NATS, SIDE, SIDES, STAGE, TASK
from crosstune.studies.frame.opening import seeds_of

SEED = Column.axis("seed", "int64", about="The cell's seed.")
# Tables of a cell that are kept as they are, with the seed in front.
_KEPT = (
    "scores",
    "learning",
    "evaluation",
    "cost",
    "forgetting_path",
    "forgetting_segments",
    "forgetting_totals",
    "forgetting_sites",
    "forgetting_heads",
    "rollback",
    "stage_repair",
    "stage_repair_coefficients",
    repairs.TRADE,
)
_PROBED = ("agreement_windows", "peaks", "movement")
_REFERENCES = (
    TASK,
    SIDE,
    Column.value("blocks", "int64", unit="blocks"),
    Column.value("rows", "int64", unit="rows"),
    Column.value("tokens", "int64", unit="tokens"),
    Column.value(
        "bytes_per_token", unit="bytes/token", about="1 where a tokenizer spells in bytes."
    ),
    Column.label("training_rows", "int64", unit="rows"),
    Column.label("held_out_rows", "int64", unit="rows"),
)
_CHANCE = (
    TASK,
    SIDE,
    *Column.interval(
        "nats", names=("low", "high"), unit=NATS, about="Unigram model of the task's train rows."
    ),
    Column.chance("uniform", of="nats", unit=NATS, about="ln V."),
)


def over_seeds(
    done: Sequence[Run], settings: ConflictSettings
) -> tuple[list[Table], list[Measurement]]:
    """The tables and headline figures of a study.

    Args:
        done: Its finished cells.
        settings: Its settings.

    Returns:
        Every kept table with its seed and the means; the closing of the ledger, and what was retained.
    """
    seeds = seeds_of(done, settings)
    cells = list(zip(seeds, done, strict=True))
    kept = [name for name in (*_KEPT, *_PROBED) if all(cell.has_table(name) for cell in done)]
    over = {name: _together(name, cells) for name in kept}
    means = [
        retention.retention(over["scores"]),
        *accounts.account(over["forgetting_sites"]),
        accounts.course(over["forgetting_path"]),
        accounts.closing(over["forgetting_segments"], over["forgetting_totals"]),
    ]
    if "forgetting_heads" in over and len(over["forgetting_heads"]):
        means.append(accounts.by_head(over["forgetting_heads"]))
    if "rollback" in over:
        means += [accounts.rollback(over["rollback"]), _instruments(over, settings)]
    if repairs.TRADE in over:
        means.append(repairs.means(over[repairs.TRADE]))
    if settings.probe is not None:
        probes = agreement.read_probes(done, settings)
        means += [
            agreement.agreement(probes),
            agreement.at_one_state(probes),
            depth.peaks(probes),
            depth.movement(probes),
        ]
    closed = next(table for table in means if table.name == "closing")
    found = [
        *accounts.measurements(closed, seeds),
        *retention.measurements(over["scores"], settings.stage_names),
    ]
    return [*over.values(), *means], found


def of_rows(study: Prepared) -> list[Table]:
    """What follows from the rows alone: the tables `references` and `chance`."""
    return [_references(study), _chance(study)]


def _references(study: Prepared) -> Table:
    """Blocks, rows and tokens that ledger and rollback stand on."""
    settings, rows = study.settings, []
    for task in settings.reference_tasks:
        for side in SIDES:
            blocks = make_blocks(
                task,
                getattr(study.tasks[task], side),
                study.start.tokenizer,
                settings.part("blocks"),
            )
            encoded = [row for block in blocks for row in block.rows]
            tokens = sum(row.scored_tokens for row in encoded)
            rows.append(
                {
                    "task": task,
                    "side": side,
                    "blocks": len(blocks),
                    "rows": len({row.row_id for row in encoded}),
                    "tokens": tokens,
                    "bytes_per_token": sum(row.scored_bytes for row in encoded) / tokens,
                    "training_rows": len(study.tasks[task].train),
                    "held_out_rows": len(study.tasks[task].test),
                }
            )
    return Table("references", _REFERENCES, rows)


def _chance(study: Prepared) -> Table:
    """What a model that knows only token frequencies would pay."""
    rows = []
    for task in study.tasks:
        for side in SIDES:
            lines = chance_lines(
                study.encoded[task, "train"],
                study.evaluation[task, side],
                int(study.start.config.vocab_size),
            )
            unigram = lines.unigram
            rows.append(
                {
                    "task": task,
                    "side": side,
                    "nats": unigram.value,
                    "low": unigram.low,
                    "high": unigram.high,
                    "uniform": lines.uniform.value,
                }
            )
    return Table("chance", _CHANCE, rows)


def _together(name: str, cells: Sequence[tuple[int, Run]]) -> Table:
    return Table.concat([cell.table(name).with_columns({SEED: seed}) for seed, cell in cells])


def _instruments(over: dict[str, Table], settings: ConflictSettings) -> Table:
    """How ledger and rollback agree in rank, for each stage and seed."""
    found = []
    for stage in settings.stage_names:
        for seed in settings.seeds:
            rollback = over["rollback"].where(stage=stage, seed=seed)
            sites = over["forgetting_sites"].where(stage=stage, seed=seed)
            if len(rollback):
                table = compare_with_ledger(rollback, sites)
                found.append(table.with_columns({STAGE: stage, SEED: seed}))
    return Table.concat(found)
