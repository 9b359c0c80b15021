"""What every cell of a conflict study starts from: the model, the tasks, their rows encoded, and the callbacks that measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
    sample_warnings,
)
from crosstune.foundation.models import load_model
from crosstune.foundation.records import Run
from crosstune.foundation.seeds import content_key
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training import StageData
from crosstune.interference import ConflictProbe, ForgettingLedger
from crosstune.interference.conflict.settings import ProbeSettings
from crosstune.merging.stage.in_place import stage_rows
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.tables import SIDES
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel, check_length


class Prepared(Procedure[ConflictSettings]):
    """The part of the study that its cells and its plan use."""

    start: StartModel
    """The model before anything was learned."""
    tasks: dict[str, Task]
    """The tasks by name, split together."""
    encoded: dict[tuple[str, str], list[Encoded]]
    """Every row that may be trained on or scored, by task and side."""
    evaluation: dict[tuple[str, str], list[Encoded]]
    """The evaluation rows."""

    def prepare(self) -> Sequence[str]:
        """Read and split the tasks, and find the model."""
        settings = self.settings
        self.start = StartModel(settings, "model")
        length = settings.training.length
        check_length("training.length", length, self.start.config, windows="windows")
        tasks = self.read_tasks(settings.samples)
        check_enough(tasks, settings.training.batch_rows, "training.batch_rows")
        self.tasks = {task.name: task for task in tasks}
        self.encoded = self._encode(tasks)
        self.evaluation = self._encode(
            [Task(one.name, self._sample(one.train), self._sample(one.test)) for one in tasks]
        )
        for number in range(len(settings.stage_names)):
            repair = settings.repair_settings(number)
            if repair is not None:  # too few rows are refused before the first stage is trained
                stage_rows(self.learned_rows(number), self.start.tokenizer, repair)
        return [*sample_warnings(tasks), *self._cut_warnings()]

    def _encode(self, tasks: Sequence[Task]) -> dict[tuple[str, str], list[Encoded]]:
        length, window = self.settings.training.length, self.settings.windows
        tokenizer = self.start.tokenizer
        return {
            (task.name, side): encode(getattr(task, side), tokenizer, length, window=window)
            for task in tasks
            for side in SIDES
        }

    def _sample(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        """The evaluation rows: chosen by what they say, so that adding rows changes few of them."""
        seed = self.settings.data_seed
        ordered = sorted(rows, key=lambda row: content_key(row.content, "evaluation", seed))
        return tuple(ordered[: self.settings.evaluation_rows])

    def _cut_warnings(self) -> list[str]:
        shares = {key: EncodingReport.of(rows).cut_share for key, rows in self.encoded.items()}
        return [
            f"{share:.0%} of the {side} rows of {task} are longer than the length and lose their end: "
            "raise `training.length` or set `windows: true`."
            for (task, side), share in shares.items()
            if share > 0.05
        ]

    @property
    def references(self) -> dict[str, Task]:
        """The tasks whose loss is followed."""
        return {name: self.tasks[name] for name in self.settings.reference_tasks}

    def stage_data(self, task: str) -> StageData:
        """What the stage of a task learns; every task's held-out rows are evaluated."""
        return StageData(
            train=self.encoded[task, "train"],
            pad_id=self.start.pad_id,
            held_out={name: self.evaluation[name, "test"] for name in self.tasks},
            tokenizer=fingerprint(self.start.tokenizer.get_vocab()),
        )

    def stage_model(self, folder: Path) -> Any:
        """The model that an earlier stage left, ready to be trained on."""
        if self.settings.training.lora is not None:
            return PeftModel.from_pretrained(self.start.load(), str(folder), is_trainable=True)
        return load_model(
            folder,
            dtype=self.settings.dtype,
            device=self.start.device,
            trust_remote_code=self.settings.trust_remote_code,
        )

    def learned_rows(self, number: int) -> dict[str, tuple[Row, ...]]:
        """The training rows of what was learned by the end of stage `number`, from 0."""
        so_far = self.settings.stage_tasks[: number + 1]
        return {task: self.tasks[task].train for task in so_far}

    def ledger(self, run: Run | None = None, **settings: Any) -> ForgettingLedger:
        """The account of the references; `settings` replace those of the ledger."""
        return ForgettingLedger(
            self.references,
            tokenizer=self.start.tokenizer,
            blocks=self.settings.part("blocks"),
            gradients=self.settings.gradient_settings(),
            settings=replace(self.settings.ledger, **settings),
            run=run,
        )

    def probe(self, settings: ProbeSettings, run: Run | None = None) -> ConflictProbe:
        """The probe of the references."""
        return ConflictProbe(self.references, settings, tokenizer=self.start.tokenizer, run=run)
