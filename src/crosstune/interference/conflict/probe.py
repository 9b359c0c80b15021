"""ConflictProbe: a callback that measures, while any trainer trains, whether tasks' gradients agree, and where.

One state, or a burst of consecutive ones, is measured in every stretch of so many optimizer steps, where the seed puts it;
conflict, peak and movement are said of means over a window of probes. Training itself is bit for bit what it would be without the probe.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from crosstune.foundation import ranks
from crosstune.foundation.errors import CheckpointError, MeasurementError, ModelError
from crosstune.foundation.records import Run, Table
from crosstune.foundation.settings.options import with_options
from crosstune.foundation.storage import atomic_write, fingerprint
from crosstune.foundation.training.trackers import Trackers
from crosstune.interference.conflict.collect import FrozenGradients
from crosstune.interference.conflict.comparison import (
    Comparison,
    Tasks,
    choose_blocks,
    read_comparable,
)
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.settings import ProbeSettings
from crosstune.interference.conflict.tables import (
    burst_scalars,
    movement_table,
    peaks_table,
    states_table,
    windows_table,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, TrainerState, TrainingArguments


class ConflictProbe(TrainerCallback):  # type: ignore[misc]
    """Measures the agreement of every pair of tasks during training, per layer and component.

    Put it into ``callbacks=[...]`` of any transformers or TRL trainer. Tables grow in
    ``agreement_states`` (each at one state, without a verdict), ``agreement_windows``, ``peaks`` and
    ``movement``, and in the run folder, if one is given; a few scalars of each probe go to the
    trainer's trackers and log history.

    Args:
        tasks: At least two: name to rows, or `Task`s (their train rows). No row is trained on here.
        settings: When and how to measure; the default is `ProbeSettings()`.
        run: The run folder that gets the tables.
        tokenizer: The model's tokenizer; by default the trainer's.
        options: Single settings by name: ``every=25, window=20, blocks=16, reference="frozen", …``.
    """

    state_name = "conflict_probe"

    def __init__(
        self,
        tasks: Tasks,
        settings: ProbeSettings | None = None,
        *,
        run: Run | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **options: Any,
    ) -> None:
        self.settings = with_options(settings or ProbeSettings(), options)
        self.history = ProbeHistory(self.settings)
        self.seconds = 0.0
        self._rows = read_comparable(tasks)
        self._run, self._tokenizer = run, tokenizer
        self._comparison: Comparison | None = None
        self._frozen: dict[str, FrozenGradients] = {}
        self._trackers = Trackers()
        self._restored: tuple[str, Path] | None = None
        self._reported = -1  # step of the newest state that trackers know of

    # ---- what was measured ----

    @property
    def comparison(self) -> Comparison:
        """The blocks and sites, fixed when training begins.

        Raises:
            MeasurementError: Training has not begun.
        """
        if self._comparison is None:
            raise MeasurementError(
                "probe",
                law="must have seen the beginning of a training",
                found="no training yet",
                remedy="Put the probe into the trainer's callbacks and train.",
            )
        return self._comparison

    @property
    def agreement_states(self) -> Table:
        """The agreement at each measured state."""
        return states_table(self.history, self.comparison.sites, self.history.states)

    @property
    def agreement_windows(self) -> Table:
        """The agreement over each window's whole bursts, the unfinished window included."""
        return windows_table(self.history, self.comparison.sites, self.history.windows())

    @property
    def peaks(self) -> Table:
        """The verdict on the peak of each window."""
        return peaks_table(self.history, self.comparison.sites, self.history.windows())

    @property
    def movement(self) -> Table:
        """The verdict on movement through depth, of this run alone."""
        return movement_table(self.history, self.comparison.sites)

    # ---- events of a trainer ----

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Fix the blocks; measure the first state, or go on where a checkpoint was written."""
        model, tokenizer = kwargs["model"], self._tokenizer or kwargs.get("processing_class")
        if tokenizer is None:
            raise ModelError(
                "tokenizer",
                law="must be known to the probe",
                found="a trainer without a processing_class",
                remedy="Give the probe its tokenizer: ConflictProbe(tasks, tokenizer=tokenizer).",
            )
        if self._restored is None and state.global_step > 0:
            self._find_state(args, state)
        if self._restored is None:
            self.history = ProbeHistory(self.settings)
            self._frozen = {}
        if self.history.states:
            first = self.history.states[0].sums["current"]
            blocks = next(iter(first.values())).sizes[0]
        else:
            blocks = choose_blocks(model, tokenizer, self._rows, self.settings)
        self._comparison = Comparison.prepare(model, tokenizer, self._rows, self.settings, blocks)
        if self._restored is not None:
            self._resume(*self._restored)
        self._reported = self.history.last_step
        self._measure_if_due(args, state, model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Measure this state if it belongs to a probe."""
        self._measure_if_due(args, state, kwargs["model"])

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Write the history into the checkpoint of a trainer that does not call `save_state` itself."""
        checkpoint = _checkpoint(args, state)
        place = checkpoint / "crosstune" / self.state_name
        if ranks.is_first() and checkpoint.is_dir() and not place.exists():
            place.mkdir(parents=True)
            self.save_state(place)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any
    ) -> None:
        """Write the unfinished window and the verdict on movement; report a burst that was cut short."""
        if not self.history.states:
            return
        if self._reported < self.history.last_step:
            self._report(args, state, kwargs.get("model"))
        if not self.settings.ends_window(self.history.last_step):
            self._write_window()
        if self._written is not None:
            self._written.add_rows(self.movement, self.settings.stage)
        self._restored = None

    # ---- measuring ----

    def measure(self, model: nn.Module, step: int) -> State:
        """The sums of all pairs at the state the model is in, added to the history.

        May be called from any event of a trainer, also where ``.grad`` holds accumulated values.

        Args:
            model: The model that the training began with.
            step: Optimizer steps taken so far.

        Returns:
            The state.

        Raises:
            MeasurementError: A gradient is not finite.
        """
        if self.settings.reference == "frozen" and not self._frozen:
            self._frozen = self.comparison.snapshot(model)
        state = State(step, self.comparison.sums(model, self._frozen))
        self.history.states.append(state)
        return state

    def _measure_if_due(
        self, args: TrainingArguments, state: TrainerState, model: nn.Module
    ) -> None:
        step = state.global_step
        if step <= self.history.last_step or not self.settings.measures(step):
            return
        began = time.perf_counter()
        self.measure(model, step)
        # Trackers may close their runs when training ends: its last step is reported before.
        if self.settings.ends_burst(step) or step == state.max_steps:
            self._report(args, state, model)
        if self.settings.ends_window(step):
            self._write_window()
        self.seconds += time.perf_counter() - began

    def _report(
        self, args: TrainingArguments, state: TrainerState, model: nn.Module | None
    ) -> None:
        """Send the scalars of the newest burst to trackers and log history."""
        self._reported = self.history.last_step
        burst = self.history.bursts()[-1]
        scalars = burst_scalars(self.history, self.comparison.sites, burst)
        self._trackers.send(scalars, self._reported, args, state, model)

    # ---- the run folder ----

    @property
    def _written(self) -> Run | None:
        """The run folder, in the process that writes it."""
        return self._run if ranks.is_first() else None

    def _write_window(self) -> None:
        if self._written is None:
            return
        history, sites = self.history, self.comparison.sites
        states = history.newest_window()
        judged = [w for w in history.windows() if w[0].step >= states[0].step]
        tables = [states_table(history, sites, states)]
        if judged:
            tables += [windows_table(history, sites, judged), peaks_table(history, sites, judged)]
        for table in tables:
            self._written.add_rows(table, f"{self.settings.stage}-{states[0].step:08d}")

    # ---- checkpoints ----

    def save_state(self, folder: Path) -> None:
        """Write the history and any frozen gradients; called on the first process only."""
        self.history.save(folder, self._identity())
        for place, snapshot in enumerate(self._frozen.values()):
            tensors = {
                f"{block}.{name}": value
                for block, gradient in enumerate(snapshot.gradients)
                for name, value in gradient.items()
            }
            with atomic_write(folder / f"frozen-{place}.safetensors") as temporary:
                save_file(tensors, temporary)

    def load_state(self, folder: Path) -> None:
        """Take over what `save_state` wrote; `on_train_begin` then checks that it belongs to this probe."""
        self.history = ProbeHistory(self.settings)
        self._restored = (self.history.load(folder), folder)

    def _resume(self, identity: str, folder: Path) -> None:
        """Check that a restored history belongs to this comparison, and restore its frozen gradients."""
        if identity != self._identity():
            raise CheckpointError(
                str(folder),
                law="must hold the history of this probe: same settings, tasks, blocks and sites",
                found=f"identity {identity} instead of {self._identity()}",
                remedy="Resume with the probe that was used before, or start anew elsewhere.",
            )
        self._frozen = {}
        for place, task in enumerate(dict.fromkeys(a for a, _ in self.comparison.pairs)):
            file = folder / f"frozen-{place}.safetensors"
            if file.is_file():
                tensors, blocks = load_file(file), self.comparison.blocks[task]
                gradients = [
                    {name: tensors[f"{block}.{name}"] for name in self.comparison.parameters}
                    for block in range(len(blocks))
                ]
                self._frozen[task] = FrozenGradients(task, blocks, gradients)

    def _find_state(self, args: TrainingArguments, state: TrainerState) -> None:
        """Load the history from the checkpoint that a stock trainer resumed from."""
        place = _checkpoint(args, state) / "crosstune" / self.state_name
        if place.is_dir():
            self.load_state(place)
        elif self.settings.reference == "frozen":
            raise CheckpointError(
                str(place),
                law="must hold the first gradients, which a frozen reference needs",
                found="no such folder",
                remedy="Start anew, or use reference='current'.",
            )
        else:
            warnings.warn(
                f"The probe's history begins at step {state.global_step}: the checkpoint that the "
                "training resumed from holds none.",
                stacklevel=2,
            )

    def _identity(self) -> str:
        comparison = self.comparison
        rows = {
            task: [[row.row_id for row in block.rows] for block in blocks]
            for task, blocks in comparison.blocks.items()
        }
        when = [getattr(self.settings, name) for name in ("stage", "every", "burst", "window")]
        sites = [str(site) for site in comparison.sites]
        return fingerprint([rows, sites, when, self.settings.reference])


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
