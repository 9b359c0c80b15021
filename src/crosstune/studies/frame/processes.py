"""Several cells at once, each in a process of its own on this machine; what they tell comes through a queue."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
import transformers

from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.studies.frame.loading import load_procedure
from crosstune.studies.frame.plan import Listener


def run_groups(
    study: Any, groups: Sequence[Sequence[str]], folder: Path, listener: Listener
) -> None:
    """Run groups of cells beside each other, as many as the settings allow."""
    # A server that has loaded the libraries forks the workers, where the system can; no worker loads them again.
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(
            ["crosstune.studies.frame.procedure", type(study).__module__]
        )
    workers = min(study.settings.workers, len(groups))
    threads = max(1, (os.cpu_count() or 1) // workers)
    where = (type(study).where(), to_yaml(study.settings))
    with context.Manager() as manager:
        updates, before = manager.Queue(), set(multiprocessing.active_children())
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            cells = [pool.submit(work, where, group, folder, updates, threads) for group in groups]
            try:
                _listen(cells, updates, listener)
            except KeyboardInterrupt:
                # A worker takes its interrupt for the result of a cell, and would begin the next one.
                for process in set(multiprocessing.active_children()) - before:
                    process.terminate()
                raise


def _listen(cells: list[Future[None]], updates: Any, listener: Listener) -> None:
    pending: set[Future[None]] = set(cells)
    while pending:
        done, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
        pass_on(updates, listener)
        for cell in done:
            if cell.exception() is not None:
                # Cells that have not begun would only lengthen the wait for the message.
                for other in pending:
                    other.cancel()
            cell.result()


def pass_on(updates: Any, listener: Listener) -> None:
    """Pass on what the cells reported."""
    while True:
        try:
            listener(updates.get_nowait())
        except queue.Empty:
            return


def work(
    study: tuple[str, str], names: Sequence[str], folder: Path, updates: Any, threads: int
) -> None:
    """Run a group of cells in this process; `study` says where the `Procedure` is, with its settings as YAML."""
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    where, settings = study
    procedure = load_procedure(where)
    prepared = procedure(from_yaml(procedure.settings_class, settings))
    prepared.prepare()
    prepared.run_group(names, folder, updates.put)
