"""What every cell of a conflict study starts from: model, tokenizer, tasks, and their rows encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from crosstune.foundation.data import (
    Encoded,
    EncodingReport,
    Row,
    Task,
    check_enough,
    encode,
    read_tasks,
    sample_warnings,
)
from crosstune.foundation.errors import renamed
from crosstune.foundation.models import load_model, load_tokenizer, read_config
from crosstune.foundation.seeds import content_key
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training import StageData, with_lora
from crosstune.merging.stage.in_place import stage_rows
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.models import check_length, find_device, find_model

SIDES = ("train", "test")


@dataclass(frozen=True)
class Bench:
    """The parts of a study that no seed changes.

    Attributes:
        settings: The study's settings.
        source: Folder or hub id of the model before anything was learned.
        tokenizer: Its tokenizer.
        vocabulary: Entries of the model's vocabulary, which may be padded beyond the tokenizer's.
        tasks: The tasks by name, split together.
        encoded: Every row that may be trained on or scored, by task and side.
        evaluation: The evaluation rows, encoded.
        warnings: Sentences about the rows that a user should read.
    """

    settings: ConflictSettings
    source: str
    tokenizer: Any
    vocabulary: int
    tasks: dict[str, Task]
    encoded: dict[tuple[str, str], list[Encoded]]
    evaluation: dict[tuple[str, str], list[Encoded]]
    warnings: tuple[str, ...]

    @property
    def pad_id(self) -> int:
        """The token that fills short rows."""
        return int(self.tokenizer.pad_token_id)

    def stage_data(self, task: str) -> StageData:
        """What the stage of a task trains on and looks at.

        Args:
            task: The task that is learned.

        Returns:
            Its training rows; every task's held-out rows by name.
        """
        return StageData(
            train=self.encoded[task, "train"],
            pad_id=self.pad_id,
            held_out={name: self.evaluation[name, "test"] for name in self.tasks},
            tokenizer=fingerprint(self.tokenizer.get_vocab()),
        )

    def learned_rows(self, number: int) -> dict[str, tuple[Row, ...]]:
        """The training rows of what was learned by the end of a stage.

        Args:
            number: The stage's place among all, from 0.

        Returns:
            Task to rows.
        """
        so_far = self.settings.stage_tasks[: number + 1]
        return {task: self.tasks[task].train for task in so_far}

    def fresh_model(self, seed: int) -> Any:
        """The model before the first stage.

        Args:
            seed: Decides the first values of new adapters.

        Returns:
            A full model, or one with adapters, on the study's device.
        """
        model = self._base()
        lora = self.settings.training.lora
        return model if lora is None else with_lora(model, lora, seed)

    def stage_model(self, folder: Path) -> Any:
        """The model that an earlier stage left.

        Args:
            folder: Where it was saved.

        Returns:
            It, ready to be trained on.
        """
        if self.settings.training.lora is None:
            return load_model(
                folder,
                dtype=self.settings.dtype,
                device=self.device,
                trust_remote_code=self.settings.trust_remote_code,
            )
        return PeftModel.from_pretrained(self._base(), str(folder), is_trainable=True)

    def _base(self) -> Any:
        with renamed("path_or_id", "model"):
            return load_model(
                self.source,
                dtype=self.settings.dtype,
                device=self.device,
                trust_remote_code=self.settings.trust_remote_code,
            )

    @property
    def device(self) -> str:
        """Where the model lives."""
        return find_device(self.settings.device)


def prepare(settings: ConflictSettings) -> Bench:
    """Read and split the tasks, and find the model.

    Args:
        settings: The study's settings.

    Returns:
        What every cell starts from.

    Raises:
        ModelError: The rows are longer than the model can read.
    """
    source = find_model(settings.model)
    with renamed("path_or_id", "model"):
        config = read_config(source, trust_remote_code=settings.trust_remote_code)
        tokenizer = load_tokenizer(source, trust_remote_code=settings.trust_remote_code)
    check_length("training.length", settings.training.length, config, windows="windows")
    tasks = read_tasks(
        settings.tasks,
        test_share=settings.test_share,
        samples=settings.samples,
        seed=settings.data_seed,
    )
    check_enough(tasks, settings.training.batch_rows, "training.batch_rows")
    samples = [
        Task(task.name, _sample(task.train, settings), _sample(task.test, settings))
        for task in tasks
    ]
    encoded = _encode(tasks, tokenizer, settings)
    bench = Bench(
        settings=settings,
        source=source,
        tokenizer=tokenizer,
        vocabulary=int(config.vocab_size),
        tasks={task.name: task for task in tasks},
        encoded=encoded,
        evaluation=_encode(samples, tokenizer, settings),
        warnings=(*sample_warnings(tasks), *_cut_warnings(encoded)),
    )
    _check_repair_rows(bench)
    return bench


def _check_repair_rows(bench: Bench) -> None:
    """Too few rows for the repair of the last stage are told before the first one is trained."""
    for number in range(len(bench.settings.stage_names)):
        repair = bench.settings.repair_settings(number)
        if repair is not None:
            stage_rows(bench.learned_rows(number), bench.tokenizer, repair)


def _encode(
    tasks: Sequence[Task], tokenizer: Any, settings: ConflictSettings
) -> dict[tuple[str, str], list[Encoded]]:
    length, window = settings.training.length, settings.windows
    return {
        (task.name, side): encode(getattr(task, side), tokenizer, length, window=window)
        for task in tasks
        for side in SIDES
    }


def _sample(rows: Sequence[Row], settings: ConflictSettings) -> tuple[Row, ...]:
    """The evaluation rows: chosen by what they say, so that adding rows changes few of them."""
    ordered = sorted(
        rows, key=lambda row: content_key(row.content, "evaluation", settings.data_seed)
    )
    return tuple(ordered[: settings.evaluation_rows])


def _cut_warnings(encoded: dict[tuple[str, str], list[Encoded]]) -> list[str]:
    warnings = []
    for (task, side), rows in encoded.items():
        share = EncodingReport.of(rows).cut_share
        if share > 0.05:
            warnings.append(
                f"{share:.0%} of the {side} rows of {task} are longer than the length and lose their end: "
                "raise `training.length` or set `windows: true`."
            )
    return warnings
