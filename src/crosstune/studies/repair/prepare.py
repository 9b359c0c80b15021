"""What every cell of a repair study starts from: the model before, rows to learn from, validation rows and test rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.data import Row, Task, TaskSettings, check_enough, large_rows, read_rows
from crosstune.foundation.errors import renamed
from crosstune.foundation.records import Run
from crosstune.foundation.training import StageData
from crosstune.interference import ForgettingLedger
from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints
from crosstune.merging.selection import as_tasks
from crosstune.merging.settings import RepairSettings
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel, check_length
from crosstune.studies.repair.settings import RepairStudySettings

# The id of a row that brings none says where it stands.
_PLACE = re.compile(r"(test )?(line|row) \d+")
_FEW_TESTED = 50  # below this many test rows a task the intervals are wide


class Prepared(Procedure[RepairStudySettings]):
    """The part of the study that its cells and its plan use."""

    start: StartModel
    """The model before."""
    learn: Sequence[Row]
    """The rows that a fine-tune made here learns from; none for a pair of given models."""
    keep: dict[str, Task]
    """The tasks to keep, with validation rows (`train`) and test rows; no fine-tune made here learns either."""

    def prepare(self) -> Sequence[str]:
        """Read and split the tasks, and find the model before."""
        settings = self.settings
        self.start = StartModel(settings, "before")
        for name in ("repair",) if settings.after is not None else ("training", "repair"):
            length = getattr(settings, name).length
            check_length(f"{name}.length", length, self.start.config, windows="repair.windows")
        held_out: Mapping[str, object]
        if settings.after is None:
            tasks = self.read_tasks()
            learned = next(task for task in tasks if task.name == settings.learn_task)
            check_enough([learned], settings.training.batch_rows, "training.batch_rows")
            held_out, self.learn = {task.name: task.test for task in tasks}, learned.train
        else:
            held_out, self.learn = {task.name: _rows(task) for task in settings.tasks}, ()
        with renamed("keep", "tasks"):
            self.keep = as_tasks(held_out, settings.part("repair"))
        large = large_rows({name: (*one.train, *one.test) for name, one in self.keep.items()})
        return [*_few_rows(self.keep, settings.repair), *_untied_rows(self.keep), *large]

    @property
    def repair(self) -> RepairSettings:
        """The repair, where the models live."""
        found: RepairSettings = self.settings.part("repair", device=self.start.device)
        return found

    def open_endpoints(self, after: Any) -> Endpoints:
        """The model before and a model or folder after, compared."""
        return open_endpoints(
            self.start.place,
            after,
            between=self.settings.between,
            tokenizer=None if isinstance(after, str) else self.start.tokenizer,
            device=self.start.device,
            precision=self.settings.repair.precision,
            trust_remote_code=self.settings.trust_remote_code,
        )

    def stage_data(self) -> StageData:
        """What the fine-tune learns; of every task its validation rows are evaluated on the way, never its test rows."""
        length, windows = self.settings.training.length, self.settings.repair.windows
        return self.start.stage_data(self.learn, self._validation, length, windows=windows)

    def ledgers(self, run: Run | None = None, **settings: Any) -> list[ForgettingLedger]:
        """The forgetting ledger, if there is one, on the validation rows; `settings` replace those of the ledger."""
        ledger = self.settings.part("ledger", **settings)
        if ledger is None:
            return []
        return [
            ForgettingLedger(
                self._validation,
                tokenizer=self.start.tokenizer,
                blocks=self.settings.part("blocks"),
                gradients=self.settings.gradient_settings(),
                settings=ledger,
                run=run,
            )
        ]

    @property
    def _validation(self) -> dict[str, Any]:
        return {name: task.train for name, task in self.keep.items()}


def _rows(task: TaskSettings) -> object:
    """Rows to be split, or a `Task` where the user has made the split."""
    rows = read_rows(task, task.source, task.split)
    if task.test_source is None:
        return rows
    tested = read_rows(task, task.test_source, task.test_split, numbered="test ")
    return Task(task.name, rows, tested)


def _few_rows(keep: Mapping[str, Task], repair: RepairSettings) -> Iterator[str]:
    """What a task with few rows costs: coefficients that fit them by chance, or wide intervals."""
    for name, task in keep.items():
        if len(task.train) < repair.rows:
            yield (
                f"Task {name} has {len(task.train)} validation rows, fewer than repair.rows ({repair.rows}): "
                "fine granularities may fit them by chance."
            )
        if len(task.test) < min(_FEW_TESTED, repair.reported_rows):
            yield f"Task {name} has {len(task.test)} test rows: its intervals are wide."


def _untied_rows(keep: Mapping[str, Task]) -> Iterator[str]:
    """That rows which may be translations or parts of one document are taken for independent ones."""
    homes: dict[str, list[str]] = {}
    untied = set()
    for name, task in keep.items():
        for row in (*task.train, *task.test):
            if _PLACE.fullmatch(row.id) is None:
                homes.setdefault(row.id, []).append(name)
            if row.group is None:
                untied.add(row.id)
    shared = {at: names for at, names in homes.items() if len(names) > 1 and at in untied}
    if shared:
        names = [name for name in keep if any(name in tasks for tasks in shared.values())]
        yield (
            f"Rows of {', '.join(names[:-1])} and {names[-1]} share {len(shared):,} ids but no group. If they are "
            "translations or parts of the same documents, say so with `group` (`--group id`, or the field of the "
            "document): until then the split and the intervals treat them as independent."
        )
