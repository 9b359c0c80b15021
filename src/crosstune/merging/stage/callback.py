"""Fine-tune, repair, go on: a callback that repairs the live model at the end of any transformers or TRL training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import CheckpointError, MeasurementError
from crosstune.foundation.gradients.blocks import sides_of
from crosstune.foundation.records import Run
from crosstune.foundation.settings.options import with_options
from crosstune.foundation.storage import atomic_write
from crosstune.merging.checkpoints.live import at_start, snapshot
from crosstune.merging.stage.in_place import StageRepair, repair_in_place, stage_rows
from crosstune.merging.stage.settings import StageRepairSettings

_FILE = "start.safetensors"


class RepairAtStageEnd(TrainerCallback):  # type: ignore[misc]
    """Replaces the model's weights at the end of a training by the best trade-off between its start and its end.

    Training itself is left as it was. The last checkpoint of a trainer holds the model as trained; what is saved
    after `train()` is repaired. The coefficients are chosen on the rows given, all of which choose: judge the
    model on other rows.

    Args:
        tasks: Name to rows of every task that matters, the learned one among them; of a `Task` the train rows.
        settings: The trade-off and how it is searched; by default `StageRepairSettings()`.
        tokenizer: Encodes the rows; by default the trainer's processing class.
        run: A run folder that gets the tables `stage_repair` and `stage_repair_coefficients`.
        options: Single fields of the settings, such as ``granularity="layer"`` or ``max_loss={"bn": 0.02}``.

    Attributes:
        outcome: What was chosen; None before the end of a training.

    Raises:
        SettingsError: A setting is unknown or impossible.
    """

    state_name = "stage_repair"

    def __init__(
        self,
        tasks: Mapping[str, object],
        settings: StageRepairSettings | None = None,
        *,
        tokenizer: Any = None,
        run: Run | None = None,
        **options: Any,
    ) -> None:
        self.settings = with_options(settings or StageRepairSettings(), options)
        self.outcome: StageRepair | None = None
        self._tasks = {
            name: sides_of(value, f"tasks[{name!r}]")["train"] for name, value in tasks.items()
        }
        self._tokenizer = tokenizer
        self._run = run
        self._rows: dict[str, list[Encoded]] = {}
        self._start: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Keep the weights a stage starts from, and refuse now what could not be repaired at its end."""
        model = given["model"]
        self._tokenizer = self._tokenizer or given.get("processing_class")
        if self._tokenizer is None:
            raise MeasurementError(
                "tokenizer",
                law="must be known, since the rows are text",
                found="a trainer without a processing class",
                remedy="Give RepairAtStageEnd(..., tokenizer=...).",
            )
        self._rows = stage_rows(self._tasks, self._tokenizer, self.settings)
        if state.global_step > 0 and not self._start:
            self.load_state(_place(args, state, self.state_name))
        if self._start:
            snapshot(model, self._start)
        else:
            self._start = at_start(model, by_head=self.settings.search().by_head)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Write the first weights into a checkpoint of a trainer that knows no callbacks with state."""
        place = _place(args, state, self.state_name)
        if ranks.is_first() and place.parents[1].is_dir() and not place.exists():
            place.mkdir(parents=True)
            self.save_state(place)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Repair the live model, and write the tables."""
        start, self._start = self._start, {}
        self.outcome = repair_in_place(
            given["model"], start, self._rows, self._tokenizer, self.settings
        )
        if self._run is not None and ranks.is_first():
            self._run.add_rows(self.outcome.losses, self.settings.stage)
            self._run.add_rows(self.outcome.coefficients, self.settings.stage)
            self._run.event(self.state_name, stage=self.settings.stage, text=self.outcome.words)

    def save_state(self, folder: Path) -> None:
        """Write the weights the stage started from; called on the first process only.

        Args:
            folder: An existing folder of a checkpoint.
        """
        with atomic_write(Path(folder) / _FILE) as scratch:
            save_file({name: value.contiguous() for name, value in self._start.items()}, scratch)

    def load_state(self, folder: Path) -> None:
        """Go on from a checkpoint; call it before training goes on.

        Args:
            folder: The folder that `save_state` wrote to.

        Raises:
            CheckpointError: It holds no weights of a stage's start.
        """
        file = Path(folder) / _FILE
        if not file.is_file():
            raise CheckpointError(
                str(file),
                law="must hold the weights that the stage started from, which a repair goes back towards",
                found="no such file",
                remedy="Call `load_state` with the folder that `save_state` wrote to, or start the stage anew.",
            )
        self._start = load_file(file)


def _place(args: TrainingArguments, state: TrainerState, name: str) -> Path:
    """Where a checkpoint of this step keeps a callback's state."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}" / "crosstune" / name
