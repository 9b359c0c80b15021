"""What the cells found, over seeds: every table of a cell with its seed, and the means with their intervals.

The loss ledger and the agreement at single states stay in the cells: they are long, and nothing is averaged from them here
(`agreement_at_one_state` keeps of the first seed what is drawn).
"""

from __future__ import annotations

from collections.abc import Sequence

from crosstune.foundation.evaluation import chance_lines
from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.interference.conflict.movement import MIN_PROBES
from crosstune.interference.ledger.rollback import compare_with_ledger
from crosstune.studies.conflict import accounts, agreement, depth, repairs, retention
from crosstune.studies.conflict.prepare import Prepared
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.tables import NATS, SIDE, SIDES, STAGE, TASK
from crosstune.studies.frame.opening import seeds_of
from crosstune.studies.frame.over_seeds import SEED, together

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
    "agreement_windows",
    "peaks",
    "movement",
)
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
    """Every kept table with its seed and the means; the closing of the ledger, and what was retained."""
    seeds = seeds_of(done, settings)
    over = together(done, seeds, _KEPT)
    closed = accounts.closing(over["forgetting_segments"], over["forgetting_totals"])
    means = [
        retention.retention(over["scores"]),
        *accounts.account(over["forgetting_sites"]),
        accounts.course(over["forgetting_path"]),
        closed,
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
        ]
        if settings.training.steps // settings.probe.every >= MIN_PROBES:
            means.append(depth.movement(probes))
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
            split = study.tasks[task]
            distinct = len({row.row_id for row in encoded})
            spelled = sum(row.scored_bytes for row in encoded) / tokens
            counts = (len(blocks), distinct, tokens, spelled, len(split.train), len(split.test))
            rows.append((task, side, *counts))
    return Table.of_tuples("references", _REFERENCES, rows)


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
            found = lines.unigram
            figures = (found.value, found.low, found.high, lines.uniform.value)
            rows.append((task, side, *figures))
    return Table.of_tuples("chance", _CHANCE, rows)


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
