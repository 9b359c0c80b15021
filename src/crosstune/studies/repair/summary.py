"""What the cells found, over seeds: tables of the cells with their seed, and the means with their intervals.

Coefficients of single pieces stay in the cells: they are long, and what is drawn of them are means by component.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.merging import tables as names
from crosstune.studies.frame.opening import seeds_of
from crosstune.studies.repair import fronts, why
from crosstune.studies.repair.settings import RepairStudySettings

SEED = Column.axis("seed", "int64", about="The cell's seed.")
PICKED = "picked"  # the event that says which point a cell saved
REPAIRED = "repaired"  # the folder of the model that it saved
# Tables of a cell that are kept as they are, with the seed in front.
KEPT = (
    names.POINTS,
    names.TASKS,
    names.HYPERVOLUME,
    names.RIVALS,
    names.LINE,
    names.GENERATIONS,
    names.COST,
    "forgetting_sites",
    "forgetting_totals",
    "rollback",
)


def over_seeds(
    done: Sequence[Run], settings: RepairStudySettings
) -> tuple[list[Table], list[Measurement]]:
    """The tables and headline figures of a study.

    Args:
        done: Its finished cells, at least one.
        settings: Its settings.

    Returns:
        The cells' tables with their seed and the means; how much of the room each front opens up.
    """
    cells = list(zip(seeds_of(done, settings), done, strict=True))
    over = {name: _together(name, cells) for name in KEPT if _all_have(name, cells)}
    means = [
        fronts.front(over[names.POINTS]),
        fronts.by_task(over[names.TASKS]),
    ]
    if names.HYPERVOLUME in over:
        means.append(fronts.fronts(over[names.HYPERVOLUME]))
    if names.RIVALS in over:
        means.append(fronts.answers(over[names.RIVALS]))
    if _all_have(names.COEFFICIENTS, cells):
        means += list(_why(over, _together(names.COEFFICIENTS, cells)))
    tables = [table for table in (*over.values(), *means) if len(table)]
    return tables, measurements(means, tuple(seed for seed, _ in cells), settings)


def _why(over: dict[str, Table], coefficients: Table) -> Sequence[Table]:
    found = why.coefficient_map(coefficients)
    accounts = why.ledger(over.get("forgetting_sites"), over.get(names.LINE))
    back = why.rollback(over["rollback"]) if "rollback" in over else None
    return [
        found,
        why.coefficient_rows(coefficients),
        why.coefficient_heads(coefficients),
        why.coefficient_directions(coefficients),
        accounts,
        *([] if back is None else [back]),
        why.agreement(found, accounts, back, forgotten(over[names.TASKS])),
    ]


def forgotten(tasks: Table) -> tuple[str, ...]:
    """The tasks whose loss rose from before to after at any seed.

    Args:
        tasks: `repair_tasks`, or `repair_by_task`.

    Returns:
        Their names, in order.
    """
    rows = [row["task"] for row in tasks.rows() if "forgotten" in row["role"]]
    return tuple(dict.fromkeys(rows))


def measurements(
    means: Sequence[Table], seeds: tuple[int, ...], settings: RepairStudySettings
) -> list[Measurement]:
    """How much of the room between before and after each front opens up: the headline figures of a study.

    Args:
        means: The tables over seeds.
        seeds: The seeds they stand on.
        settings: The study's settings.

    Returns:
        One for each method.
    """
    return [
        Measurement(
            name=f"room opened up by {row['method']}",
            value=row["value"],
            low=row["value_low"],
            high=row["value_high"],
            n=row["n"],
            unit="",
            how=f"{names.AREA} On reported rows; interval over rows, and over seeds where there are several",
            seeds=() if settings.after is not None else seeds,
            n_unit=row["n_unit"],
        )
        for table in means
        if table.name == "repair_fronts"
        for row in table.rows()
        if not math.isnan(row["value"])  # with nothing to repair there is no room to open up
    ]


def _all_have(name: str, cells: Sequence[tuple[int, Run]]) -> bool:
    return all(cell.has_table(name) for _, cell in cells)


def _together(name: str, cells: Sequence[tuple[int, Run]]) -> Table:
    return Table.concat([cell.table(name).with_columns({SEED: seed}) for seed, cell in cells])
