"""Repairs of the tiny pair that the laws of killing and of two processes run in processes of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import processes
from tests.merging import tuned

from crosstune.merging import RepairSettings, Watch, repair_endpoints
from crosstune.merging.evaluations import Evaluator
from crosstune.merging.result import Repair
from crosstune.merging.selection import as_tasks

SETTINGS = replace(tuned.SMALL, exchange_rates=(2.0,), max_loss={"bn": 0.05}, evaluations=2)


class Killed(Exception):
    """What the listener dies of."""


def run(
    folder: Path | None = None,
    settings: RepairSettings = SETTINGS,
    *,
    evaluations: int = 10**9,
    by_signal: bool = False,
    pair: Any = None,
) -> Repair:
    """A repair that dies once so many evaluations are announced."""

    def listen(doing: str, done: int, total: int) -> None:
        if done >= evaluations and by_signal:
            processes.die()
        if done >= evaluations:
            raise Killed(doing)

    ends = tuned.opened(*(pair or tuned.pair()))
    return repair_endpoints(ends, as_tasks(tuned.keep(), settings), settings, Watch(folder, listen))


def evaluator_of(found: Repair) -> Evaluator:
    assert found.found is not None
    return found.found.session.evaluator


def work(rank: int, folder: Path, names: tuple[str, ...]) -> None:
    """One of two processes: every name is a target to repair by, its coefficients are written down."""
    for name in names:
        found = run(folder / f"evaluations-{name}", targeting(name))
        lines = [
            f"{point.label} {told}" for point, told in zip(found.points, bits(found), strict=True)
        ]
        (folder / f"{rank}-{name}.txt").write_text("\n".join(lines), encoding="utf-8")


def targeting(name: str) -> RepairSettings:
    learned = ("bn",) if name == "checkpoints" else ()
    return replace(SETTINGS, target=name, learned=learned)  # type: ignore[arg-type]


def bits(found: Repair) -> list[str]:
    """Coefficients and selection losses of every point, to the bit."""
    return [
        " ".join(
            [
                "" if point.coefficients is None else point.coefficients.numpy().tobytes().hex(),
                *(loss.hex() for loss in point.validation.values()),
            ]
        )
        for point in found.points
    ]
