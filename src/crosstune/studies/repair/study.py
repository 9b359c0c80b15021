"""The repair study: what a fine-tune forgot is given back, at what price, and where.

Coefficients of single pieces stay in the cells: they are long, and what is drawn of them are means by component.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.merging import tables as names
from crosstune.studies.frame.opening import seeds_of
from crosstune.studies.frame.over_seeds import together
from crosstune.studies.frame.plan import Plan
from crosstune.studies.repair import fronts, page, why
from crosstune.studies.repair.cell import RepairCell
from crosstune.studies.repair.costs import plan_of
from crosstune.studies.repair.prepare import Prepared
from crosstune.studies.repair.settings import RepairStudySettings

# Tables of a cell that are kept as they are, with the seed in front.
KEPT = (
    *(names.POINTS, names.TASKS, names.HYPERVOLUME, names.RIVALS, names.LINE, names.COST),
    *(names.GENERATIONS, "forgetting_sites", "forgetting_totals", "rollback"),
)


class Repair(Prepared):
    """One fine-tune and its repair a seed, or one repair of two given models."""

    kind = "repair"
    question = "How much of what a fine-tune forgot can be given back, at what price, and where?"
    settings_class = RepairStudySettings
    cell = RepairCell

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The fronts over seeds, and why the coefficients are what they are."""
        seeds = seeds_of(done, self.settings)
        over = together(done, seeds, (*KEPT, names.COEFFICIENTS))
        coefficients = over.pop(names.COEFFICIENTS, None)
        means = [fronts.front(over[names.POINTS]), fronts.by_task(over[names.TASKS])]
        figures: list[Measurement] = []
        if names.HYPERVOLUME in over:
            means.append(fronts.fronts(over[names.HYPERVOLUME]))
            if self.settings.repair.exchange_rates:  # single points are no front
                figures += _room(means[-1], () if self.settings.after is not None else seeds)
        if names.RIVALS in over:
            means.append(fronts.answers(over[names.RIVALS]))
        if coefficients is not None:
            means += _reasons(over, coefficients)
        return [table for table in (*over.values(), *means) if len(table)], figures

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        return page.page(run, self.settings)

    def plan(self) -> Plan:
        """Train for one segment where the fine-tune is made here, open both models, and evaluate twice."""
        return plan_of(self)


def _reasons(over: dict[str, Table], coefficients: Table) -> list[Table]:
    maps = why.coefficient_maps(coefficients)
    accounts = why.ledger(over.get("forgetting_sites"), over.get(names.LINE))
    back = why.rollback(over["rollback"]) if "rollback" in over else None
    agreement = why.agreement(maps[0], accounts, back, fronts.forgotten(over[names.TASKS]))
    return [*maps, accounts, *([] if back is None else [back]), agreement]


def _room(opened: Table, seeds: tuple[int, ...]) -> Iterator[Measurement]:
    """How much of the area between before and after the front of each method dominates, by `repair_fronts`."""
    for row in opened.rows():
        if not math.isnan(row["value"]):  # with nothing to repair there is no area
            yield Measurement(
                name=f"room opened up by {row['method']}",
                value=row["value"],
                low=row["value_low"],
                high=row["value_high"],
                n=row["n"],
                unit="",
                how=f"{names.AREA} On test rows; interval over rows, and over seeds where there are several",
                seeds=seeds,
                n_unit=row["n_unit"],
            )
