"""What a repair study found, in sentences: the answer first (what came back, its price, and whether that pays), then all else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.records.page import Statement
from crosstune.merging.findings import sentences as words
from crosstune.merging.points import Point
from crosstune.studies.frame.opening import finished_cells
from crosstune.studies.frame.over_seeds import PLAIN
from crosstune.studies.frame.procedure import warnings_of
from crosstune.studies.repair.cell import PICKED, REPAIRED
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.why import LINE, PATH, ROLLED


def picked(run: Run, settings: RepairStudySettings) -> Point | None:
    """The point that the first cell saved; none where there was nothing to repair."""
    for cell in finished_cells(run, settings.cell_names):
        for event in cell.events(PICKED):
            method, label = event["method"], event["label"]
            kind = run.table("repair_front").where(method=method, label=label).column("kind")[0]
            limits = settings.repair.max_loss if kind == "asked" else {}
            asked: Any = {kind: float(label.split()[-1])} if kind in ("rate", "budget") else {}
            return Point(method, kind, limits=limits, **asked)
    return None


def statements(run: Run, settings: RepairStudySettings) -> list[Statement]:
    """The findings with their figures; the first is the answer."""
    cells = finished_cells(run, settings.cell_names)
    pick = picked(run, settings)
    if pick is None:  # why not, in the words of the first cell
        events = cells[0].events("statement")
        said = [Statement(event["text"], event["tone"], event["detail"]) for event in events]
        return [*said, *warnings_of(run)]
    repair, tasks = settings.repair, run.table("repair_by_task")
    own = {"method": pick.method, "label": pick.label}
    place = tasks.where(**own).column("point")[0]
    rivals = run.table("repair_answers") if run.has_table("repair_answers") else None
    found = [
        words.trade_off(pick, tasks, place, repair.target, rivals),
        *words.ends(tasks, named=bool(repair.learned)),
        *words.constraints(pick, tasks, place, repair.max_loss, repair.target),
    ]
    if len(cells) > 1:
        basis = f"{words.picked_as(pick.label, repair.target)}, at every seed anew. Differences to the model after, paired."
        found[0] = replace(found[0], detail=basis)
    if rivals is not None:
        found += words.answers(rivals, pick.method, repair.target)
    if repair.exchange_rates:  # single points are no front
        found += _comparisons(run.table("repair_fronts"), settings, pick)
    if run.has_table("repair_why"):
        found += _why(run.table("repair_why").where(**own))
    first, *others = (_with_seeds(statement, len(cells), settings) for statement in found)
    saved = ", ".join(f"cells/{cell.folder.name}/{REPAIRED}" for cell in cells)
    where = Statement(
        f"The repaired model is saved in this run's folder: {saved}.",
        "info",
        "An ordinary model or adapter with its tokenizer; repair.json says what it is made of.",
    )
    return [first, *warnings_of(run), *others, where]


def _comparisons(fronts: Table, settings: RepairStudySettings, pick: Point) -> Iterator[Statement]:
    """Whether each granularity that was asked for dominates more of the area than its rivals; the picked one first."""
    asked = [name for name in settings.repair.methods if name in settings.repair.granularity]
    pairs = [(pick.method, "global"), (pick.method, "replay")]
    pairs += [(name, "global") for name in asked if name != pick.method]
    for method, other in pairs:
        if other in fronts.column("method") and method != other:
            yield words.comparison(fronts, method, other)


def _why(agreement: Table) -> Iterator[Statement]:
    """Whether most was taken back where most was forgotten."""
    for row in agreement.rows():
        rho, what = Estimate.of(row, "rank_correlation", PLAIN), _ACCOUNTS[row["account"]]
        if rho.has_interval:
            claim = rho.says(
                f"Most was taken back where {what} says that most was forgotten",
                f"Least was taken back where {what} says that most was forgotten",
                f"That more was taken back where {what} says that more was forgotten is not shown",
            )
            figure = f"rank correlation {rho} over {row['sites']} components"
            yield Statement(f"{claim.text}: {figure}.", claim.tone, _GUIDE)


_ACCOUNTS = {
    PATH: "the forgetting ledger of the fine-tune",
    LINE: "the ledger of the straight line",
    ROLLED: "rollback of single components",
}
_GUIDE = (
    "The interval treats components as independent, so it is a guide. A coefficient also weighs what the component had "
    "learned, which neither ledger nor rollback of the forgotten tasks knows."
)


def _with_seeds(statement: Statement, seeds: int, settings: RepairStudySettings) -> Statement:
    if settings.after is not None:
        return statement
    said = (
        f"Means over {seeds} fine-tunes; intervals hold seeds and rows."
        if seeds > 1
        else "One fine-tune: the intervals hold rows, not seeds."
    )
    return replace(statement, detail=f"{statement.detail} {said}".strip())
