"""Writes the parts of README and docs that the code already knows: the map of the house, the help texts, the tables.

``make docs`` runs it; a test fails while a written page differs from what stands here.
"""

from __future__ import annotations

import ast
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from crosstune.foundation.records import Column

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "src" / "crosstune"

# Reading order of the map: from the front door down, as the imports go.
FLOORS = [
    "cli",
    "studies",
    "interference",
    "circuits",
    "merging",
    "experts",
    "distillation",
    "wiring",
    "auditing",
    "report",
    "foundation",
]
FOUNDATION = [
    "worlds", "training", "gradients", "evaluation", "data", "models", "records",
    "statistics", "settings", "storage", "ranks",
]  # fmt: skip
COMMANDS: list[list[str]] = [
    [],
    ["run"],
    ["run", "conflict"],
    ["run", "conflict", "--help", "all"],
    ["run", "repair"],
    ["run", "repair", "--help", "all"],
    ["run", "circuits"],
    ["run", "circuits", "--help", "all"],
    ["run", "ranks"],
    ["run", "ranks", "--help", "all"],
    ["run", "distill"],
    ["run", "distill", "--help", "all"],
    ["plan"],
    ["repair"],
    ["repair", "--help", "all"],
    ["replay"],
    ["bundle"],
    ["cache-teacher"],
    ["show"],
    ["list"],
]

# What one row of each table is, in the order in which a reader meets them. The columns come from the code.
STUDY_ROWS = {
    "closing": "the account of one stage, task and side, over seeds",
    "forgetting_components": "one component, its layers added up, of one stage, task and side",
    "forgetting": "one site of one stage, task and side",
    "forgetting_head_means": "one attention head of one stage, task and side, over seeds (option `ledger.by_head`)",
    "forgetting_course": "what a component had cost by the end of a segment, from the stage's start",
    "rollback_means": "one component of one layer put back, over seeds",
    "ledger_rollback_agreement": "how ledger and rollback rank the sites, at one seed",
    "agreement": "one site and pair of tasks in one window, or over the whole stage, over seeds",
    "agreement_at_one_state": "one site and pair at one state of the first seed",
    "peaks_over_seeds": "the verdict on one pair in one scope, over a whole stage and all seeds",
    "movement_over_seeds": "the verdict on one pair in one stage of at least ten probes, over seeds",
    "stage_repair_means": "what a repair between stages did to one task and side, over seeds (option `repair`)",
    "retention": "what was known of one task and side after one stage (0-base: before any), over seeds",
    "chance": "what a model that knows only token frequencies would pay on one task and side",
    "references": "the reference blocks of one task and side",
}
CELL_ROWS = {
    "scores": "what was known of one task and side after one stage",
    "evaluation": "one look at a task's held-out rows during a stage",
    "learning": "one line of the training log",
    "loss_ledger": "one term of the training loss in one optimizer step",
    "cost": "one figure of what a stage cost",
    "forgetting_path": "one site on one segment",
    "forgetting_segments": "one segment of one account",
    "forgetting_totals": "the whole account of one task and side",
    "forgetting_sites": "one site over the whole stage",
    "forgetting_heads": "one attention head over the whole stage (option `ledger.by_head`); rows without a head hold the rest of a projection",
    "rollback": "one thing put back; `all` puts everything back, `none` nothing",
    "stage_repair": "one task on the rows that chose a stage's repair (option `repair`)",
    "stage_repair_trade": "one task and side before and after a stage's repair",
    "stage_repair_coefficients": "one parameter's part and the share of its change that a repair kept",
    "agreement_windows": "one site and pair over one window of states",
    "agreement_states": "one site and pair at one state",
    "peaks": "the verdict on one pair in one scope and window",
    "movement": "the verdict on one pair in this run alone",
}
# Likewise of a repair study; tables that a conflict study's cell has too are not said twice.
REPAIR_ROWS = {
    "repair_front": "one point of one method over seeds, once among all and once among all but before",
    "repair_by_task": "one task at one point of one method, over seeds",
    "repair_fronts": "one method, over seeds",
    "repair_answers": "one question that a method and a rival answered, over seeds",
    "repair_map": "one component of one layer at one point of one method, over seeds",
    "repair_map_rows": "one class of embedding rows at one point, over seeds",
    "repair_map_heads": "one attention head of one layer at one point of a method that tells heads apart, over seeds",
    "repair_map_directions": "one singular direction of a component at one point, over layers and seeds",
    "repair_ledger": "one component of one layer and task in one account, over seeds",
    "repair_rollback": "one component of one layer put back, of one task, over seeds",
    "repair_why": "one account that is compared with the coefficients of one point, over seeds",
}
REPAIR_CELL_ROWS = {
    "repair_points": "one point of one method",
    "repair_tasks": "one task at one point of one method",
    "repair_coefficients": "one piece (a part, class of rows, head or direction of a parameter) at one point",
    "repair_hypervolume": "one method",
    "repair_rivals": "one question that a method and a rival answered",
    "repair_line": "one site and task on the straight line from before to after",
    "repair_generations": "one prompt",
    "repair_cost": "one method",
}
# Likewise of a circuit study; the cells have heads, slices and ablation, without checkpoint and pair.
CIRCUIT_ROWS = {
    "circuit_heads": "one head of one block under one variant, at one checkpoint, of one pair of tasks",
    "circuit_pairs": "one pair of samples that stands out in one head",
    "circuit_matrices": "where the scores of all pairs of samples in one head lie",
    "circuit_rows": "one sample, a row or column of the matrices of its cell",
    "circuit_slices": "the Fisher of one head's slice",
    "circuit_ablation": "two forms (variant under a Fisher) of one block (option `ablate`)",
    "circuit_checkpoints": "one block and variant at a later checkpoint, held against the first",
    "circuit_changes": "one head at a later checkpoint, held against the first",
}
RANK_ROWS = {
    "rank_losses": "one rank at one seed; a cell has it without the seed",
    "rank_curve": "one rank: the mean over seeds, or what the fit says",
    "rank_gains": "one step from a rank to the next larger one, over seeds",
}
SKILL_ROWS = {
    "arms": "one arm: its mean over skills, seeds and orders",
    "forgotten": "one arm, and who forgot",
    "learned": "one new skill at its first arrival, in the first order, over seeds",
    "retention": "one skill after one arrival, over seeds",
    "handled": "one skill and who answers it, over seeds and orders",
    "places": "one stretch of places in a row, over skills, seeds and orders",
    "took": "one figure of what learning a skill took",
    "losses": "one skill after one arrival; a cell has it without seed and order, as the tables below",
    "births": "one arrival of a skill",
    "usage": "one skill and one that answers it, at the end",
    "positions": "one skill and stretch of places in a row, at the end",
    "tokens": "one token of a held-out row and one that may answer it",
    "costs": "one figure of what learning one arrival took",
}
DISTILL_ROWS = {
    "students": "one beginning and arm, over seeds",
    "curves": "one student after some steps, over seeds",
    "shares": "one term of one student at a step of the first seed",
    "weights": "one term's weight at a step of the first seed, expected or actual",
    "norms": "one term at a step, over seeds",
    "cosines": "two terms of one student, over steps and seeds",
    "took": "one figure of what a student took, over seeds",
    "scored": "one student, or its teacher, on one set; a cell has it without the seed, as the tables below",
    "learned": "one evaluation of a student on one set",
    "loss_ledger": "one term of one student at a step, on one side",
    "pulls": "two terms of one student at a step",
    "checked": "one question to the books of one student",
    "costs": "one figure of what one student took",
}
ALONE_ROWS = {
    "measurements": "one headline figure of a study (`measurements.parquet`)",
}
# Columns whose name says enough in the code, and a sentence for those who read it here.
MEANINGS = {
    "stage": "Number and task of the stage.",
    "task": "The task whose rows are scored.",
    "task_a": "The first task of the pair.",
    "task_b": "The second task of the pair.",
    "step": "Optimizer steps taken.",
    "start_step": "The first step of the span.",
    "stop_step": "The last step of the span.",
    "component": "The component; see the glossary.",
    "seeds": "Seeds the row rests on.",
    "rows_low": "Lower end of the interval over rows, mean of the seeds'.",
    "rows_high": "Upper end of the interval over rows, mean of the seeds'.",
    "reference": "current, or frozen: the first task's gradient is that of the first state.",
    "perplexity": "exp of the nats.",
    "rows": "Rows the figure rests on.",
    "tokens": "Scored tokens.",
    "bytes": "Bytes that the scored tokens spell.",
    "training_rows": "Rows that the task may be trained on.",
    "held_out_rows": "Rows that are never trained on.",
    "blocks": "Blocks of the task.",
    "what": "Which figure.",
    "value": "The figure.",
    "unit": "Its unit.",
    "term": "The term's name.",
    "weight": "The term's weight.",
    "sum": "The term's sum over the step.",
    "reliability_b": "Likewise of the second task.",
    "norm_b": "Likewise of the second task.",
    "signal_to_noise_b": "Likewise of the second task.",
    "noise_scale_b": "Likewise of the second task.",
    "note": "A caution, or empty.",
    "kind": "conflict peak, most dissimilar, no peak, unresolved, or too few blocks.",
    "p": "Of the smallest standardised difference, two-sided.",
    "words": "The verdict as a sentence.",
    "indistinguishable": "Sites that may be the largest.",
    "verdict": "The verdict in a few words.",
    "excluded_above": "A larger change, either way, is excluded.",
    "relevant": "The change that was to be found: a peak of the profile's height moving three layers.",
    "needs_seeds": "Seeds that would settle it; unmeasured where unknown.",
    "probes": "Probes the verdict rests on.",
    "sites": "Sites above the noise floor at every probe.",
    "states": "States in the window.",
    "agree": "Lower bound of U_AB above 0 after Holm over the sites.",
    "agree_p": "One-sided, Holm-adjusted over the sites.",
    "name": "What was measured.",
    "how": "How estimate and interval were made.",
    "n_unit": "What `n` counts.",
}
# Where a table takes over another's column and it then means less.
THERE = {
    ("agreement_at_one_state", "corrected"): "Cosine at this state.",
    ("agreement_at_one_state", "resolved"): "Above the noise floor at this state.",
    ("agreement_at_one_state", "stop_step"): "The state's optimizer step.",
    ("agreement_at_one_state", "scope"): "Always window, to lie behind the lines of windows.",
}
BY_ROLE = {
    "low": "Lower end of the interval of `{of}`.",
    "high": "Upper end of the interval of `{of}`.",
    "mask": "Whether `{of}` may be read.",
    "chance": "What an uninformed answer would give for `{of}`.",
}


def door_sign(path: Path) -> str:
    """The first line of a file's docstring, without its full stop."""
    sign = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return sign.splitlines()[0].rstrip(".")


def rooms() -> Iterator[tuple[str, Path]]:
    """Every built room, as it is drawn and where its face is."""
    for floor in FLOORS:
        if (PACKAGE / floor / "__init__.py").is_file():
            yield f"{floor}/", PACKAGE / floor / "__init__.py"
    for room in FOUNDATION:
        if (PACKAGE / "foundation" / room / "__init__.py").is_file():
            yield f"    {room}/", PACKAGE / "foundation" / room / "__init__.py"
    for file in ("seeds", "errors"):
        yield f"    {file}.py", PACKAGE / "foundation" / f"{file}.py"


def house_map() -> str:
    """The map of the house: each room beside the sign on its door."""
    lines = [f"{name:<18}{door_sign(face)}" for name, face in rooms()]
    return "```\nsrc/crosstune/\n" + "\n".join(lines) + "\n```"


def help_text(words: list[str]) -> str:
    """What ``crosstune WORDS --help`` prints, or that of all options if the words ask for it, at a width of 100 columns and without colour."""
    from crosstune.cli.main import main

    page = io.StringIO()
    plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    with patch.dict(os.environ, plain), redirect_stdout(page), suppress(SystemExit):
        main(words if "--help" in words else [*words, "--help"])
    return page.getvalue().rstrip()


def commands_page() -> str:
    """The page of all help texts."""
    parts = [
        "# Commands\n\nThis page is written by `make docs` from the code. `crosstune plan STUDY` takes the words of "
        "`crosstune run STUDY`. In the name of an option `-` is `_`: `--max-loss` is `--max_loss`."
    ]
    for words in COMMANDS:
        line = " ".join(["crosstune", *words])
        parts.append(f"## `{line}`\n\n```text\n{help_text(words)}\n```")
    return "\n\n".join(parts) + "\n"


def study_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a conflict study writes over its seeds."""
    from crosstune.foundation.records import Table
    from crosstune.interference.ledger.rollback import AGREEMENT, ROLLBACK
    from crosstune.interference.ledger.tables import PATH, SEGMENTS, SITES, TOTALS
    from crosstune.studies.conflict import (
        accounts,
        agreement,
        depth,
        repairs,
        retention,
        summary,
        tables,
    )
    from crosstune.studies.frame.over_seeds import SEED

    # Summing up nothing gives the columns of the sum.
    sites, path = Table("forgetting_sites", SITES), Table("forgetting_path", PATH)
    found = [
        accounts.closing(
            Table("forgetting_segments", SEGMENTS), Table("forgetting_totals", TOTALS)
        ),
        *accounts.account(sites),
        accounts.by_head(Table("forgetting_heads", SITES)),
        accounts.course(path),
        accounts.rollback(Table("rollback", ROLLBACK)),
        repairs.means(Table(repairs.TRADE, repairs._TRADE)),
        retention.retention(Table("scores", tables.SCORES)),
        agreement.agreement([]),
        agreement.at_one_state([]),
        depth.peaks([]),
        depth.movement([]),
        Table("ledger_rollback_agreement", (tables.STAGE, SEED, *AGREEMENT)),
        Table("chance", summary._CHANCE),
        Table("references", summary._REFERENCES),
    ]
    return {table.name: table.columns for table in found}


def cell_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that one cell of a conflict study writes."""
    from crosstune.foundation.training import ledger
    from crosstune.interference.conflict import tables as probe_tables
    from crosstune.interference.ledger import rollback
    from crosstune.interference.ledger import tables as account_tables
    from crosstune.merging.stage import in_place as stage_repair
    from crosstune.studies.conflict import repairs, tables

    return {
        "scores": tables.SCORES,
        "evaluation": tables.EVALUATION,
        "learning": tables.LEARNING,
        "loss_ledger": (tables.STAGE, *ledger.COLUMNS),
        "cost": tables.COST,
        "forgetting_path": account_tables.PATH,
        "forgetting_segments": account_tables.SEGMENTS,
        "forgetting_totals": account_tables.TOTALS,
        "forgetting_sites": account_tables.SITES,
        "forgetting_heads": account_tables.SITES,
        "rollback": (tables.STAGE, *rollback.ROLLBACK),
        "stage_repair": stage_repair.LOSSES_COLUMNS,
        "stage_repair_trade": repairs._TRADE,
        "stage_repair_coefficients": stage_repair.STAGE_COEFFICIENTS_COLUMNS,
        "agreement_windows": probe_tables.WINDOWS_COLUMNS,
        "agreement_states": probe_tables.STATES_COLUMNS,
        "peaks": probe_tables.PEAKS_COLUMNS,
        "movement": probe_tables.MOVEMENT_COLUMNS,
    }


def repair_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a repair study writes over its seeds."""
    from crosstune.studies.repair import fronts, why

    return {
        "repair_front": fronts.FRONT,
        "repair_by_task": fronts.BY_TASK,
        "repair_fronts": fronts.FRONTS,
        "repair_answers": fronts.ANSWERS,
        **why.MAPS,
        "repair_ledger": why.LEDGER.columns,
        "repair_rollback": why.ROLLBACK.columns,
        "repair_why": why.AGREEMENT,
    }


def repair_cell_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a repair writes."""
    from crosstune.merging import tables

    return {
        tables.POINTS: tables.POINTS_COLUMNS,
        tables.TASKS: tables.TASKS_COLUMNS,
        tables.COEFFICIENTS: tables.COEFFICIENTS_COLUMNS,
        tables.HYPERVOLUME: tables.HYPERVOLUME_COLUMNS,
        tables.RIVALS: tables.RIVALS_COLUMNS,
        tables.LINE: tables.LINE_COLUMNS,
        tables.GENERATIONS: tables.GENERATIONS_COLUMNS,
        tables.COST: tables.COST_COLUMNS,
    }


def circuit_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a circuit study writes."""
    from crosstune.circuits import tables
    from crosstune.studies.circuits import head_pairs, prepare, summary

    return {
        tables.HEADS: (*prepare.AXES, *tables.HEADS_COLUMNS, head_pairs.STANDS_OUT),
        tables.PAIRS: head_pairs.PAIRS_COLUMNS,
        head_pairs.MATRICES: head_pairs.MATRICES_COLUMNS,
        head_pairs.ROWS: head_pairs.ROWS_COLUMNS,
        tables.SLICES: (*prepare.AXES, *tables.SLICES_COLUMNS),
        tables.ABLATION: (*prepare.AXES, *tables.ABLATION_COLUMNS),
        summary.CHECKPOINTS: summary.CHECKPOINTS_COLUMNS,
        tables.CHANGES: (*prepare.AXES, *tables.CHANGES_COLUMNS),
    }


def rank_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a rank study writes."""
    from crosstune.studies.frame.over_seeds import SEED
    from crosstune.studies.ranks import study

    return {
        study.LOSSES: (SEED, *study.LOSSES_COLUMNS),
        study.CURVE.name: study.CURVE.columns,
        study.GAINS.name: study.GAINS.columns,
    }


def skill_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a study of skills writes."""
    from crosstune.studies.skills import summary, tables

    place = (summary.SEED, summary.ORDER)
    return {
        "arms": summary.ARMS,
        "forgotten": summary.FORGOTTEN,
        "learned": summary.LEARNED.columns,
        **summary.MEANS,
        "losses": (*place, *tables.LOSSES),
        "births": (*place, *tables.BIRTHS),
        "usage": (*place, *tables.USAGE),
        "positions": (*place, *tables.PLACES),
        "tokens": (*place, *tables.TOKENS),
        "costs": (*place, *tables.COST),
    }


def distill_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of every table that a study of distillation writes."""
    from crosstune.distillation import progress, stage
    from crosstune.foundation.training import ledger
    from crosstune.studies.distill import cell, summary
    from crosstune.studies.frame.over_seeds import SEED

    place = (SEED, cell.BEGIN, cell.ARM)
    return {
        "students": summary.STUDENTS,
        "curves": summary.CURVES,
        "shares": summary.SHARES,
        "weights": summary.WEIGHTS,
        "norms": summary.NORMS,
        "cosines": summary.COSINES,
        "took": summary.TOOK,
        "scored": (SEED, *cell.SCORED),
        "learned": (*place, *progress.LEARNED),
        "loss_ledger": (*place, *ledger.COLUMNS),
        "pulls": (*place, *stage.PULLS),
        "checked": (SEED, *cell.CHECKED),
        "costs": (SEED, *cell.COSTS),
    }


def other_tables() -> dict[str, tuple[Column, ...]]:
    """The columns of a table that is no part of ``tables/``."""
    from crosstune.foundation.records import run

    return {"measurements": run._MEASUREMENT_COLUMNS}


def meaning(table: str, column: Column) -> str:
    """What a column of a table holds, in a sentence; empty where nobody has said it."""
    by_role = BY_ROLE.get(column.role, "").format(of=column.of)
    about = THERE.get((table, column.name), column.about)
    said = f"{by_role} {about}".strip() if about else by_role or MEANINGS.get(column.name, "")
    return f"{said[:1].upper()}{said[1:].rstrip('.')}.".replace("|", "\\|") if said else ""


def tables_section(rows: Mapping[str, str], columns: Mapping[str, tuple[Column, ...]]) -> str:
    """A heading, the sentence on its rows and the columns of each table."""
    parts = []
    for name, row in rows.items():
        lines = [f"#### `{name}`", "", f"One row is {row}.", ""]
        lines += ["| column | role | unit | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            f"| `{c.name}` | {c.role} | {c.unit} | {meaning(name, c)} |" for c in columns[name]
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def tables_page(page: str) -> str:
    """The page of tables with its generated parts as the code has them now."""
    page = between(page, "study", tables_section(STUDY_ROWS, study_tables()))
    page = between(page, "cell", tables_section(CELL_ROWS, cell_tables()))
    page = between(page, "repair", tables_section(REPAIR_ROWS, repair_tables()))
    page = between(page, "repair cell", tables_section(REPAIR_CELL_ROWS, repair_cell_tables()))
    page = between(page, "circuits", tables_section(CIRCUIT_ROWS, circuit_tables()))
    page = between(page, "ranks", tables_section(RANK_ROWS, rank_tables()))
    page = between(page, "skills", tables_section(SKILL_ROWS, skill_tables()))
    page = between(page, "distill", tables_section(DISTILL_ROWS, distill_tables()))
    return between(page, "alone", tables_section(ALONE_ROWS, other_tables()))


def between(page: str, mark: str, inner: str) -> str:
    """The page with what stands between ``<!-- mark -->`` and ``<!-- /mark -->`` replaced."""
    before, _, rest = page.partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not end:
        raise ValueError(f"the page has no <!-- {mark} --> ... <!-- /{mark} -->")
    return f"{before}<!-- {mark} -->\n{inner}\n{end}{after}"


def pages() -> dict[Path, str]:
    """Every generated page and what should stand in it."""
    readme, tables = CHECKOUT / "README.md", CHECKOUT / "docs" / "tables.md"
    return {
        readme: between(readme.read_text(encoding="utf-8"), "map", house_map()),
        CHECKOUT / "docs" / "commands.md": commands_page(),
        tables: tables_page(tables.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
