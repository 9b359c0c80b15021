"""What a repair study found, in sentences: the trade first, then cautions, what was lost, whether it pays, and why there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Statement
from crosstune.merging.findings import sentences as rival_words
from crosstune.merging.findings import sentences as words
from crosstune.merging.findings.sentences import picked_as
from crosstune.merging.points import Point
from crosstune.studies.frame.opening import finished_cells
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.summary import PICKED, REPAIRED


@dataclass(frozen=True)
class Pick:
    """The point that was saved.

    Attributes:
        method: Its granularity.
        label: What it answers.
        place: Its place in the method's list.
        kind: The kind of question it answers.
    """

    method: str
    label: str
    place: int
    kind: str


def picked(run: Run, settings: RepairStudySettings) -> Pick | None:
    """The point that the cells saved.

    Returns:
        The pick of the first seed, or None where there was nothing to repair.
    """
    for cell in finished_cells(run, settings.cell_names):
        for event in cell.events(PICKED):
            own = {"method": event["method"], "label": event["label"]}
            rows = run.table("repair_by_task").where(**own).rows()
            (kind, *_) = run.table("repair_front").where(**own).column("kind")
            return Pick(**own, place=rows[0]["point"], kind=kind)
    return None


def statements(run: Run, settings: RepairStudySettings) -> list[Statement]:
    """The findings of a study.

    Args:
        run: The study's run, with its tables over seeds.
        settings: Its settings.

    Returns:
        Sentences with their figures, the most important first.
    """
    pick = picked(run, settings)
    cautions = [Statement(text, "warning") for text in _warnings(run)]
    if pick is None:
        return [*_of_first_cell(run, settings), *cautions]
    tasks, seeds = run.table("repair_by_task"), len(finished_cells(run, settings.cell_names))
    point = Point(pick.method, pick.kind, **_asked(pick, settings))  # type: ignore[arg-type]
    found = [
        _trade(point, tasks, pick, seeds, settings),
        *words.ends(tasks, named=bool(settings.repair.learned)),
        *_limits(point, tasks, pick, settings),
        *_answers(run, pick, settings),
        *_comparisons(run, settings, pick),
        *_why(run, pick),
    ]
    first, *others = (_with_seeds(statement, seeds, settings) for statement in found)
    return [first, *cautions, *others, _where(run, settings)]


def _trade(
    point: Point, tasks: Table, pick: Pick, seeds: int, settings: RepairStudySettings
) -> Statement:
    chose = settings.repair.target
    found = words.trade_off(point, tasks, pick.place, chose)
    if seeds == 1:
        return found
    basis = f"{picked_as(pick.label, chose)}, at every seed anew. Differences to the model after, paired."
    return replace(found, detail=basis)


def _where(run: Run, settings: RepairStudySettings) -> Statement:
    names = [cell.folder.name for cell in finished_cells(run, settings.cell_names)]
    places = ", ".join(f"cells/{name}/{REPAIRED}" for name in names)
    return Statement(
        f"The repaired model is saved in this run's folder: {places}.",
        "info",
        "An ordinary model or adapter with its tokenizer; repair.json says what it is made of.",
    )


def _asked(pick: Pick, settings: RepairStudySettings) -> dict[str, Any]:
    if pick.kind == "asked":
        return {"limits": settings.repair.max_loss}
    return {"rate": float(pick.label.split()[-1])} if pick.kind == "rate" else {}


def _warnings(run: Run) -> list[str]:
    """What the rows made the study warn of, said once however often it was gone on with."""
    return list(dict.fromkeys(event["text"] for event in run.events("warning")))


def _of_first_cell(run: Run, settings: RepairStudySettings) -> list[Statement]:
    """Why there is nothing to repair, in the words of the first cell."""
    cell = finished_cells(run, settings.cell_names)[0]
    events = cell.events("statement")
    return [Statement(event["text"], event["tone"], event["detail"]) for event in events]


def _limits(
    point: Point, tasks: Table, pick: Pick, settings: RepairStudySettings
) -> list[Statement]:
    limits, chose = settings.repair.max_loss, settings.repair.target
    return words.constraints(point, tasks, pick.place, limits, chose) if limits else []


def _answers(run: Run, pick: Pick, settings: RepairStudySettings) -> list[Statement]:
    """The picked method against its rivals at the same question."""
    if not run.has_table("repair_answers"):
        return []
    return rival_words.answers(run.table("repair_answers"), pick.method, settings.repair.target)


def _comparisons(run: Run, settings: RepairStudySettings, pick: Pick) -> Iterator[Statement]:
    """Whether each granularity that was asked for opens up more room than its rivals; the picked one first."""
    table = run.table("repair_fronts")
    there = table.column("method")
    asked = [name for name in settings.repair.methods if name in settings.repair.granularity]
    others = [name for name in asked if name != pick.method]
    pairs = [
        (pick.method, "global"),
        (pick.method, "replay"),
        *((name, "global") for name in others),
    ]
    for method, other in pairs:
        if other in there and method != other:
            yield words.comparison(table, method, other)


def _why(run: Run, pick: Pick) -> Iterator[Statement]:
    """Whether most was taken back where most was forgotten."""
    if not run.has_table("repair_why"):
        return
    for row in run.table("repair_why").where(method=pick.method, label=pick.label).rows():
        rho, low, high = (row[name] for name in ("rank_correlation", "low", "high"))
        if math.isnan(low):
            continue
        figure = (
            f"rank correlation {rho:.2f} [{low:.2f}, {high:.2f}] over {row['sites']} components"
        )
        what = _ACCOUNTS[row["account"]]
        if low > 0:
            text = f"Most was taken back where {what} says that most was forgotten: {figure}."
            yield Statement(text, "shown", _GUIDE)
        elif high < 0:
            text = f"Least was taken back where {what} says that most was forgotten: {figure}."
            yield Statement(text, "shown", _GUIDE)
        else:
            text = f"That more was taken back where {what} says that more was forgotten is not shown: {figure}."
            yield Statement(text, "not_shown", _GUIDE)


_ACCOUNTS = {
    "along the training": "the forgetting ledger of the fine-tune",
    "along the straight line": "the ledger of the straight line",
    "rollback": "rollback of single components",
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
