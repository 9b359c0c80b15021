"""Procedure: a study as prepare, cells, tables and page. Running, resuming, workers and the report are the same for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import transformers

from crosstune import report
from crosstune.foundation import ranks
from crosstune.foundation.data import Task, read_tasks
from crosstune.foundation.errors import SettingsError, UnsupportedError
from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.findings import ranked
from crosstune.foundation.records.page import PAGE_FILE, Page, Statement
from crosstune.foundation.storage import write_json
from crosstune.studies.frame import cluster, processes
from crosstune.studies.frame.cell import Cell
from crosstune.studies.frame.costs import as_plan, time_training
from crosstune.studies.frame.loading import code_of
from crosstune.studies.frame.opening import (
    finished_cells,
    open_cell,
    open_run,
    seeds_of,
    settings_of,
)
from crosstune.studies.frame.over_seeds import together
from crosstune.studies.frame.plan import Listener, Plan, Progress, silent
from crosstune.studies.frame.settings import StudySettings

S = TypeVar("S", bound=StudySettings)


class Procedure(Generic[S]):
    """A study: subclasses say what it is called, its settings, what a cell does, and what is made of the cells."""

    kind: ClassVar[str]
    """What its runs are called."""
    question: ClassVar[str]
    """What it asks, as a sentence."""
    settings_class: ClassVar[type[StudySettings]]
    """Its settings."""
    cell: ClassVar[type[Cell[Any]]]
    """What is done for each cell."""

    file: ClassVar[str] = ""
    """The file that a study outside the package was loaded from."""

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @classmethod
    def where(cls) -> str:
        """Where another process finds the study: its file, or `module:name`."""
        return cls.file or f"{cls.__module__}:{cls.__qualname__}"

    # ---- what a study says itself --------------------------------------------------------------------

    def prepare(self) -> Sequence[str]:
        """Read rows and find models, as attributes of this value; refuse what cannot be run; return warnings to be read."""
        raise NotImplementedError

    @property
    def cell_names(self) -> tuple[str, ...]:
        """The names of its cells; where the settings alone do not say, the study must be prepared."""
        return self.settings.cell_names

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """Cells that share what is in memory, and so run one after another in one process."""
        return [[name] for name in names]

    def begin(self, opened: Run) -> None:
        """Write what follows from the rows alone, in the first process, before any cell."""

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The tables over all finished cells, and the headline figures; with a cell a seed, every table of theirs."""
        settings: Any = self.settings
        names = dict.fromkeys(name for cell in done for name in cell.tables())
        return together(done, seeds_of(done, settings), tuple(names)).values(), ()

    def page(self, run: Run) -> Page:
        """What the report says and draws, from the tables of the study's run."""
        raise NotImplementedError

    def plan(self) -> Plan:
        """What it will cost; nothing is left on disk, and no run folder is made.

        A study whose cells train a model of `self.start` on `self.data`, as `prepare` left them, needs no plan of its own.
        """
        warnings, settings = self.prepare(), self.settings
        start, data = getattr(self, "start", None), getattr(self, "data", None)
        training = getattr(settings, "training", None)
        if start is None or data is None or training is None:
            raise UnsupportedError(
                "plan",
                law=f"must be written by the study {self.kind!r} itself",
                found="a study without a plan",
                remedy="Write its `plan` with `time_training` and `as_plan`, or run it with fewer steps first.",
            )
        timing = time_training(start.load(training.lora), data, training)
        costs = {"training": training.steps * timing.step_seconds, "loading": timing.warm_seconds}
        cells, workers = len(self.cell_names), settings.workers
        return as_plan(costs, cells=cells, workers=workers, peak_bytes=timing.peak_bytes).warned(
            warnings
        )

    # ---- what all studies share ----------------------------------------------------------------------

    def read_tasks(self, samples: int | None = None) -> list[Task]:
        """The tasks of the settings, split together into train and test rows; at most `samples` train rows a task."""
        own: Any = self.settings
        share, seed = own.test_share, own.data_seed
        return list(read_tasks(own.tasks, test_share=share, samples=samples, seed=seed))

    def run(self, listener: Listener = silent) -> Run:
        """The finished study with its page drawn; cells that were finished before are not run again."""
        ranks.start()
        self._check_workers()
        # Bars of single files would tear the study's own line of progress.
        transformers.utils.logging.disable_progress_bar()
        warnings = self.prepare()
        opened = open_run(self.settings, self.kind, code_of(self.file) if self.file else "")
        if ranks.is_first():
            for text in warnings:
                opened.event("warning", text=text)
            self.begin(opened)
        finished = {cell.folder.name for cell in finished_cells(opened, self.cell_names)}
        missing = [name for name in self.cell_names if name not in finished]
        for name in self.cell_names:
            steps = self.cell(self, self.settings.of_cell(name), name, opened, listener).steps
            doing, done = ("waiting", 0) if name in missing else ("finished", steps)
            if ranks.is_first():
                listener(Progress(name, doing, done, steps, earlier=done))
        groups = self.groups(missing)
        if self.settings.engine == "ray" and groups:
            cluster.run_groups(self, groups, opened.folder, listener)
        elif min(self.settings.workers, len(groups)) > 1:
            processes.run_groups(self, groups, opened.folder, listener)
        else:
            for group in groups:
                self.run_group(group, opened.folder, listener)
        if ranks.is_first():
            whole = copy(self)  # as it was prepared, with the seeds of every call
            whole.settings = settings_of(opened, type(self.settings))
            whole.sum_up(opened)
            opened.finish()
            report.draw(opened)  # of a finished run: before, the page would say that it is not
        ranks.wait_for_all()
        return opened

    def run_group(self, names: Sequence[str], folder: Path, listener: Listener) -> None:
        """Run cells one after another, from where they were stopped; the study is prepared."""
        for name in names:
            settings = self.settings.of_cell(name)
            cell = open_cell(Run.open(folder), name, settings)
            self.cell(self, settings, name, cell, listener).go()

    def sum_up(self, opened: Run) -> None:
        """Write tables, measurements and the page from the cells that are finished; these are not touched."""
        tables, measurements = self.summarise(finished_cells(opened, self.cell_names))
        for table in tables:
            opened.write_table(table)
        for found in measurements:
            opened.measure(found)
        write_json(opened.folder / PAGE_FILE, _answered(self.page(opened)).to_json())

    def _check_workers(self) -> None:
        alone = self.settings.workers == 1 and self.settings.engine == "local"
        if not alone and ranks.world_size() > 1:
            raise SettingsError(
                "workers",
                law="must be 1, with the local engine, where a launcher started several processes for each cell",
                found=f"{self.settings.workers} with engine {self.settings.engine} in {ranks.world_size()} processes",
                remedy="Set `workers: 1` and `engine: local`, or start the command without the launcher.",
            )


def _answered(page: Page) -> Page:
    """The page with its findings in order; one without an answer of its own opens with its first verdict."""
    verdicts = (one for one in page.statements if one.tone in ("shown", "not_shown", "too_noisy"))
    answer = page.answer or next(verdicts, None)
    others = (one for one in ranked(page.statements) if one != answer)
    return replace(page, answer=answer, statements=tuple(others))


def warnings_of(run: Run) -> list[Statement]:
    """What the latest call of a study warned of."""
    events = [event for event in run.all_events() if event["kind"] == "warning"]
    latest = max((event["attempt"] for event in events), default=0)
    texts = [str(event["text"]) for event in events if event["attempt"] == latest]
    return [Statement(text, "warning") for text in dict.fromkeys(texts)]
