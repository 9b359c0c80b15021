"""The flow of a circuit study: open the run, score its cells checkpoint by checkpoint, sum up, say what was found, draw."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import transformers

from crosstune import report
from crosstune.foundation import ranks
from crosstune.foundation.records import Run
from crosstune.studies.circuits import page, summary
from crosstune.studies.circuits.cell import Place, Sitting, captures, places, scorings
from crosstune.studies.circuits.prepare import Bench, Checkpoint, prepare
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.frame.opening import is_finished, open_cell, open_run
from crosstune.studies.frame.plan import Listener, Progress

KIND = "circuits"
FACTORS = "factors"


def run(settings: CircuitStudySettings, listener: Listener) -> Run:
    """The finished study; cells that were finished before are not scored again, and factors that are there are taken.

    Args:
        settings: The study's settings.
        listener: Told how far it has come.

    Returns:
        The run, with its page drawn.
    """
    ranks.start()
    transformers.utils.logging.disable_progress_bar()  # bars of single files would tear our own line
    bench = prepare(settings)
    opened = open_run(settings, KIND)
    if ranks.is_first():
        for warning in bench.warnings:
            opened.event("warning", text=warning)
    cells = places(bench)
    told = _Told(listener, _layers(bench, cells))
    for checkpoint, own in groupby(cells, key=lambda place: place.checkpoint):
        _run_checkpoint(bench, checkpoint, tuple(own), opened, told)
    if ranks.is_first():
        sum_up(opened, bench)
        opened.finish()
        report.draw(opened)  # of a finished run: before, the page would say that it is not
        if not settings.keep_factors and settings.factors is None:
            shutil.rmtree(opened.folder / FACTORS, ignore_errors=True)
    ranks.wait_for_all()
    return opened


def sum_up(opened: Run, bench: Bench) -> None:
    """Sum up the cells there are, and say what the page shows; the cells themselves are not touched.

    Args:
        opened: A run folder with at least one finished cell.
        bench: What its cells share.
    """
    finished = [place for place in places(bench) if is_finished(opened, place.name)]
    summary.write(opened, finished, bench.settings)
    page.write(opened, finished, bench.settings)


class _Told:
    """Adds up layers of work, captured and scored, over the whole study."""

    def __init__(self, listener: Listener, total: int) -> None:
        self._listener, self._total = listener, total
        self._done = 0

    def __call__(self, where: str, doing: str, layers: int) -> None:
        self._done += layers
        if ranks.is_first():
            self._listener(Progress(KIND, f"{where}: {doing}", self._done, self._total))


def _layers(bench: Bench, cells: Sequence[Place]) -> int:
    """Layers of work: one for each task that is captured and each pair that is scored, at each checkpoint."""
    captured = sum(len(captures(own, bench.settings.measurement)) for own in _by_checkpoint(cells))
    return bench.layers * (captured + len(cells) * scorings(bench))


def _by_checkpoint(cells: Sequence[Place]) -> Iterator[tuple[Place, ...]]:
    return (tuple(own) for _, own in groupby(cells, key=lambda place: place.checkpoint))


def _run_checkpoint(
    bench: Bench,
    checkpoint: Checkpoint,
    cells: tuple[Place, ...],
    opened: Run,
    told: _Told,
) -> None:
    missing = [place for place in cells if not is_finished(opened, place.name)]
    settings = bench.settings
    spared = len(captures(cells, settings.measurement)) - len(
        captures(missing, settings.measurement)
    )
    behind = spared + (len(cells) - len(missing)) * scorings(bench)
    if behind:
        told(checkpoint.name, "finished before", behind * bench.layers)
    if not missing:
        return
    folder = opened.folder if settings.factors is None else Path(settings.factors)
    with Sitting(
        bench, checkpoint, folder, lambda doing, layers: told(checkpoint.name, doing, layers)
    ) as sitting:
        for place in missing:
            sitting.go(place, open_cell(opened, place.name, settings))
