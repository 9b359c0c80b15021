"""What every cell of a repair study starts from: the model before, rows to learn from, rows that choose and rows that report."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from crosstune.foundation.data import (
    Encoded,
    Row,
    Task,
    TaskSettings,
    check_enough,
    encode,
    read_rows,
    read_tasks,
)
from crosstune.foundation.errors import renamed
from crosstune.foundation.models import load_model, load_tokenizer, read_config
from crosstune.foundation.storage import fingerprint, read_json
from crosstune.foundation.training import StageData, with_lora
from crosstune.merging.selection import as_tasks
from crosstune.studies.frame.models import check_length, find_device, find_model
from crosstune.studies.repair.settings import RepairStudySettings

_ADAPTER = "adapter_config.json"
# The id of a row that brings none says where it stands.
_PLACE = re.compile(r"(test )?(line|row) \d+")
_FEW_REPORTED = 50  # below this many reported rows a task the intervals are wide


@dataclass(frozen=True)
class Bench:
    """The parts of a study that no seed changes.

    Attributes:
        settings: The study's settings.
        before: Folder or hub id of the model before.
        learn: The rows that a fine-tune made here learns from; none for a pair of given models.
        keep: The tasks to keep: `train` rows choose, `test` rows report; no fine-tune made here learns either.
        warnings: Sentences about the rows that a user should read.
    """

    settings: RepairStudySettings
    before: str
    learn: tuple[Row, ...]
    keep: dict[str, Task]
    warnings: tuple[str, ...]

    @property
    def device(self) -> str:
        """Where the models live."""
        return find_device(self.settings.device)

    @property
    def base(self) -> str:
        """The whole model: `before` itself, or the model that its adapter belongs to."""
        return _whole(self.before)

    def tokenizer(self) -> Any:
        """The tokenizer of the model before."""
        with renamed("path_or_id", "before"):
            return load_tokenizer(self.base, trust_remote_code=self.settings.trust_remote_code)

    def stage_data(self, tokenizer: Any) -> StageData:
        """What the fine-tune trains on, and looks at on the way.

        Args:
            tokenizer: The tokenizer of the model before.

        Returns:
            Its rows; of every task the rows that choose, never those that report.
        """
        return StageData(
            train=self._encoded(self.learn, tokenizer),
            pad_id=int(tokenizer.pad_token_id),
            held_out={
                name: self._encoded(task.train, tokenizer) for name, task in self.keep.items()
            },
            tokenizer=fingerprint(tokenizer.get_vocab()),
        )

    def _encoded(self, rows: tuple[Row, ...], tokenizer: Any) -> list[Encoded]:
        settings = self.settings
        return encode(rows, tokenizer, settings.training.length, window=settings.repair.windows)

    def fresh_model(self, seed: int) -> Any:
        """The model before, ready to be fine-tuned.

        Args:
            seed: Decides the first values of new adapters.

        Returns:
            A full model, or one with its adapters, on the study's device.
        """
        with renamed("path_or_id", "before"):
            model = load_model(
                self.base,
                dtype=self.settings.dtype,
                device=self.device,
                trust_remote_code=self.settings.trust_remote_code,
            )
        if self.base != self.before:
            return PeftModel.from_pretrained(model, self.before, is_trainable=True)
        lora = self.settings.training.lora
        return model if lora is None else with_lora(model, lora, seed)


def prepare(settings: RepairStudySettings) -> Bench:
    """Read and split the tasks, and find the model before.

    Args:
        settings: The study's settings.

    Returns:
        What every cell starts from.
    """
    before = find_model(settings.before)
    with renamed("path_or_id", "before"):
        config = read_config(_whole(before), trust_remote_code=settings.trust_remote_code)
    for name in ("repair",) if settings.after is not None else ("training", "repair"):
        length = getattr(settings, name).length
        check_length(f"{name}.length", length, config, windows="repair.windows")
    if settings.after is None:
        tasks = read_tasks(
            settings.tasks, test_share=settings.test_share, samples=None, seed=settings.data_seed
        )
        learned = next(task for task in tasks if task.name == settings.learn_task)
        check_enough([learned], settings.training.batch_rows, "training.batch_rows")
        held_out: Mapping[str, object] = {task.name: task.test for task in tasks}
        learn = learned.train
    else:
        held_out, learn = {task.name: _rows(task) for task in settings.tasks}, ()
    with renamed("keep", "tasks"):
        keep = as_tasks(held_out, settings.repair_settings("cpu"))
    warnings = (*_few_rows(keep, settings), *_untied_rows(keep))
    return Bench(settings, before, learn, keep, warnings)


def _rows(task: TaskSettings) -> object:
    """Rows to be split, or a `Task` where the user has made the split."""
    rows = read_rows(task, task.source, task.split)
    if task.test_source is None:
        return rows
    return Task(
        task.name, rows, read_rows(task, task.test_source, task.test_split, numbered="test ")
    )


def _whole(before: str) -> str:
    place = Path(before) / _ADAPTER
    return str(read_json(place)["base_model_name_or_path"]) if place.is_file() else before


def _few_rows(keep: Mapping[str, Task], settings: RepairStudySettings) -> list[str]:
    """What a task with few rows costs: coefficients that fit them by chance, or wide intervals."""
    wanted, warnings = settings.repair.rows, []
    for name, task in keep.items():
        if len(task.train) < wanted:
            warnings.append(
                f"Task {name} has {len(task.train)} rows that choose, fewer than repair.rows ({wanted}): "
                "fine granularities may fit them by chance."
            )
        if len(task.test) < min(_FEW_REPORTED, settings.repair.reported_rows):
            warnings.append(
                f"Task {name} has {len(task.test)} rows that report: its intervals are wide."
            )
    return warnings


def _untied_rows(keep: Mapping[str, Task]) -> list[str]:
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
    if not shared:
        return []
    names = [name for name in keep if any(name in tasks for tasks in shared.values())]
    return [
        f"Rows of {', '.join(names[:-1])} and {names[-1]} share {len(shared):,} ids but no group. If they are translations "
        "or parts of the same documents, say so with `group` (`--group id`, or the field of the document): until then "
        "the split and the intervals treat them as independent."
    ]
