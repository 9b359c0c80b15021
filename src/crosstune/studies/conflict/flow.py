"""The flow of a conflict study: open the run, run its cells, sum up over seeds, say what was found, draw."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from crosstune import report
from crosstune.foundation import ranks
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.records import Run
from crosstune.studies.conflict import page, summary
from crosstune.studies.conflict.cell import Cell, cell_name
from crosstune.studies.conflict.prepare import Bench, prepare
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.opening import is_finished, open_cell, open_run, settings_of
from crosstune.studies.frame.plan import Listener, Progress

_KIND = "conflict"


def run(settings: ConflictSettings, listener: Listener) -> Run:
    """The finished study; cells that were finished before are not run again.

    Args:
        settings: The study's settings.
        listener: Told how far it has come.

    Returns:
        The run, with its page drawn.
    """
    ranks.start()
    _check_workers(settings)
    _quiet()
    bench = prepare(settings)
    opened = open_run(settings, _KIND)
    waiting = [seed for seed in settings.seeds if not is_finished(opened, cell_name(seed))]
    if ranks.is_first():
        summary.write_rows(opened, bench)
        for warning in bench.warnings:
            opened.event("warning", text=warning)
        _tell_all(settings, waiting, listener)
    if min(settings.workers, len(waiting)) > 1:
        _run_in_processes(settings, waiting, opened.folder, listener)
    else:
        for seed in waiting:
            _run_cell(bench, seed, opened.folder, listener)
    if ranks.is_first():
        sum_up(opened)
        opened.finish()
        report.draw(opened)  # of a finished run: before, the page would say that it is not
    ranks.wait_for_all()
    return opened


def _tell_all(settings: ConflictSettings, waiting: Sequence[int], listener: Listener) -> None:
    steps = settings.training.steps * len(settings.stage_names)
    for seed in settings.seeds:
        done = 0 if seed in waiting else steps
        listener(Progress(cell_name(seed), "finished" if done else "waiting", done, steps))


def sum_up(opened: Run) -> None:
    """Sum up the cells there are, and say what the page shows; the cells themselves are not touched.

    Args:
        opened: A run folder with at least one finished cell.
    """
    settings = settings_of(opened, ConflictSettings)
    summary.write(opened, settings)
    page.write(opened, settings)


def _check_workers(settings: ConflictSettings) -> None:
    if settings.workers > 1 and ranks.world_size() > 1:
        raise SettingsError(
            "workers",
            law="must be 1 where a launcher started several processes for each cell",
            found=f"{settings.workers} in {ranks.world_size()} processes",
            remedy="Set `workers: 1`, or start the command without the launcher.",
        )


def _run_cell(bench: Bench, seed: int, folder: Path, listener: Listener) -> None:
    cell = open_cell(Run.open(folder), cell_name(seed), replace(bench.settings, seeds=(seed,)))
    Cell(bench, seed, cell, listener).go()


def _quiet() -> None:
    """Bars of single files would tear the study's own line of progress."""
    transformers.utils.logging.disable_progress_bar()


# ---- several cells at once -------------------------------------------------------------------------


def _run_in_processes(
    settings: ConflictSettings, seeds: Sequence[int], folder: Path, listener: Listener
) -> None:
    """Each cell in a process of its own; what they tell comes through a queue."""
    context = multiprocessing.get_context("spawn")
    workers = min(settings.workers, len(seeds))
    threads = max(1, (os.cpu_count() or 1) // workers)
    with context.Manager() as manager:
        told = manager.Queue()
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            cells = [pool.submit(_work, settings, seed, folder, told, threads) for seed in seeds]
            _listen(cells, told, listener)


def _listen(cells: list[Future[None]], told: Any, listener: Listener) -> None:
    pending: set[Future[None]] = set(cells)
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
        _hand_on(told, listener)
        for cell in done:
            if cell.exception() is not None:
                # Cells that have not begun would only lengthen the wait for the message.
                for other in pending:
                    other.cancel()
            cell.result()


def _hand_on(told: Any, listener: Listener) -> None:
    while True:
        try:
            listener(told.get_nowait())
        except queue.Empty:
            return


def _work(settings: ConflictSettings, seed: int, folder: Path, told: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    _quiet()
    _run_cell(prepare(settings), seed, folder, told.put)
