"""The flow of a repair study: open the run, run its cells, sum up over seeds, say what was found, draw."""

from __future__ import annotations

from dataclasses import replace

import transformers

from crosstune import report
from crosstune.foundation import ranks
from crosstune.foundation.records import Run
from crosstune.studies.frame.opening import is_finished, open_cell, open_run, settings_of
from crosstune.studies.frame.plan import Listener, Progress
from crosstune.studies.repair import page, summary
from crosstune.studies.repair.cell import Cell
from crosstune.studies.repair.prepare import Bench, prepare
from crosstune.studies.repair.settings import RepairStudySettings

KIND = "repair"


def run(settings: RepairStudySettings, listener: Listener) -> Run:
    """The finished study; cells that were finished before are not run again.

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
    for name, seed in zip(settings.cell_names, settings.seeds, strict=True):
        if is_finished(opened, name):
            listener(Progress(name, "finished", 1, 1))
        else:
            _run_cell(bench, name, seed, opened, listener)
    if ranks.is_first():
        sum_up(opened)
        opened.finish()
        report.draw(opened)  # of a finished run: before, the page would say that it is not
    ranks.wait_for_all()
    return opened


def sum_up(opened: Run) -> None:
    """Sum up the cells there are, and say what the page shows; the cells themselves are not touched.

    Args:
        opened: A run folder with at least one finished cell.
    """
    settings = settings_of(opened, RepairStudySettings)
    summary.write(opened, settings)
    page.write(opened, settings)


def _run_cell(bench: Bench, name: str, seed: int, opened: Run, listener: Listener) -> None:
    cell = open_cell(opened, name, replace(bench.settings, seeds=(seed,)))
    Cell(bench, seed, cell, listener).go()
