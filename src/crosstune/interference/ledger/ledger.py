"""The forgetting ledger: where, when and through which component a task's loss changed, in nats that add up.

L_A(θ_T) − L_A(θ_0) = Σ over segments and sites of ∫⟨g_A, dθ⟩: a callback for any transformers or TRL trainer.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from crosstune.foundation import ranks
from crosstune.foundation.errors import LedgerError, MeasurementError
from crosstune.foundation.gradients.blocks import make_blocks, sides_of
from crosstune.foundation.gradients.gradients import evaluating, trainable_names
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings, LedgerSettings
from crosstune.foundation.models import check_supported, gradient_sites
from crosstune.foundation.records import Run, Table
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training.trackers import Trackers
from crosstune.interference.ledger.accounts import Account, Reference, RunningAccount
from crosstune.interference.ledger.integrator import Integrator, WeightSegment, copy_weights
from crosstune.interference.ledger.quadrature import Tolerance
from crosstune.interference.ledger.state import LedgerState
from crosstune.interference.ledger.tables import (
    heads_table,
    path_table,
    segments_table,
    sites_table,
    totals_table,
)


class ForgettingLedger(TrainerCallback):  # type: ignore[misc]
    """Attributes every change of the reference tasks' losses to the components that caused it (loss change allocation).

    It follows the weights in segments of `every` optimizer steps and leaves training as it was, bit for bit. One ledger
    keeps the account of one training. The new task may be one of `tasks`: then its learning is accounted for too.

    Args:
        tasks: Name to rows (the side `train`) or to a `Task` (its sides `train` and `test`).
        every: Optimizer steps of a segment; overrides `settings.every`.
        tokenizer: Encodes the rows; by default the trainer's processing class.
        blocks: How rows become blocks.
        gradients: How a block's gradient is evaluated.
        settings: Segments, tolerance, memory and the stage's name.
        run: A run folder that gets the tables `forgetting_path`, `_segments`, `_totals` and `_sites`, and `_heads`
            where `settings.by_head` asks for them.

    Raises:
        DataError: A task has no usable rows.
    """

    state_name = "forgetting"

    def __init__(
        self,
        tasks: Mapping[str, object],
        every: int | None = None,
        *,
        tokenizer: Any = None,
        blocks: BlockSettings | None = None,
        gradients: GradientSettings | None = None,
        settings: LedgerSettings | None = None,
        run: Run | None = None,
    ) -> None:
        settings = settings or LedgerSettings()
        self.settings = settings if every is None else replace(settings, every=every)
        self._rows = {
            (name, side): rows
            for name, value in tasks.items()
            for side, rows in sides_of(value, f"tasks[{name!r}]").items()
        }
        self._tokenizer = tokenizer
        self._blocks = blocks or BlockSettings()
        self._gradients = gradients or GradientSettings()
        self._run = run
        self._trackers = Trackers()
        self._accounts: list[RunningAccount] = []
        self._integrator: Integrator | None = None
        self._start: dict[str, Tensor] = {}
        self._steps = (0, 0)
        self._loaded: LedgerState | None = None
        self._finished = False

    # ---- events of the trainer ---------------------------------------------------------------------

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Make the blocks and keep the first weights, or go on from a loaded state."""
        if self._finished:
            raise MeasurementError(
                "ForgettingLedger",
                law="must keep the account of one training",
                found="a second one",
                remedy="Make a new ledger, with a new `stage`, for each training.",
            )
        model, tokenizer = given["model"], self._tokenizer or given.get("processing_class")
        check_supported(model)
        anatomy = gradient_sites(model)
        if self.settings.by_head:
            anatomy = anatomy.by_head()
        names = trainable_names(model)
        references = self._references(tokenizer)
        self._accounts = [RunningAccount(reference, anatomy.sites) for reference in references]
        self._integrator = Integrator(
            anatomy,
            names,
            self._gradients,
            self._tolerance(model),
            self.settings.max_panels,
            keep=self._fits(model, names, references),
        )
        self._begin(model, state.global_step)
        if self._loaded is not None:
            self._restore(self._loaded)
            self._loaded = None
        elif state.global_step > 0:
            warnings.warn(
                f"The forgetting ledger begins at step {state.global_step}: what came before "
                "is not accounted for. Call `load_state` with the folder that `save_state` wrote to.",
                stacklevel=2,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Close the segment when it has its steps, or when this was the last step."""
        self._steps = (self._steps[0], state.global_step)
        is_full = self._steps[1] - self._steps[0] >= self.settings.every
        if is_full or control.should_training_stop or state.global_step >= state.max_steps:
            self._close_segment(args, state, given["model"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Close the last segment where training stops early, before best weights may be put back."""
        if control.should_training_stop:
            self._close_segment(args, state, given["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Close what is open and write the tables."""
        self._close_segment(args, state, given["model"])
        self._finished = True
        self._start = {}
        self._write_tables()

    # ---- the account -------------------------------------------------------------------------------

    def close(self) -> Account:
        """The account as it stands: what each task lost or gained, and through which components.

        Returns:
            The account; its text says that it adds up.

        Raises:
            MeasurementError: Training has not begun.
        """
        if not self._accounts:
            raise MeasurementError(
                "ForgettingLedger",
                law="must have followed a training",
                found="none",
                remedy="Give it to a trainer: callbacks=[ledger], and train.",
            )
        tasks = tuple(account.close(self.settings.level) for account in self._accounts)
        return Account(self.settings.stage, self.settings.every, tasks)

    def path(self) -> Table:
        """One row for each segment and site: `forgetting_path`."""
        return path_table(self.close(), self._accounts)

    def segments(self) -> Table:
        """One row for each segment, with its residual: `forgetting_segments`."""
        return segments_table(self.close())

    def totals(self) -> Table:
        """One row for each task and side, with its interval over blocks: `forgetting_totals`."""
        return totals_table(self.close())

    def sites(self) -> Table:
        """One row for each component, with its interval over blocks: `forgetting_sites`."""
        return sites_table(self.close())

    def heads(self) -> Table:
        """One row for each attention head, with its interval over blocks: `forgetting_heads`; none without `by_head`."""
        return heads_table(self.close())

    def _write_tables(self) -> None:
        if self._run is not None and ranks.is_first():
            tables = [self.path(), self.segments(), self.totals(), self.sites()]
            if self.settings.by_head:
                tables.append(self.heads())
            for table in tables:
                self._run.add_rows(table, self.settings.stage)

    # ---- resuming ----------------------------------------------------------------------------------

    def save_state(self, folder: Path) -> None:
        """Write what an uninterrupted ledger would remember; the first process writes.

        The run folder's tables are brought up to date as well: after its last step a killed training calls no more events.

        Args:
            folder: An existing folder of a checkpoint.
        """
        start, stop = self._steps
        weights = self._start if stop > start else {}
        if ranks.is_first():
            LedgerState(
                steps=self._steps,
                identity=self._identity(),
                tensors=tuple(account.tensors() for account in self._accounts),
                facts=tuple(account.facts() for account in self._accounts),
                weights=weights,
            ).write(Path(folder))
            self._write_tables()

    def load_state(self, folder: Path) -> None:
        """Go on from a checkpoint; call it before training begins.

        Args:
            folder: The folder that `save_state` wrote to.
        """
        self._loaded = LedgerState.read(Path(folder))

    def _restore(self, loaded: LedgerState) -> None:
        loaded.check(self._identity(), self._steps[1])
        for account, sums, facts in zip(self._accounts, loaded.tensors, loaded.facts, strict=True):
            account.restore(sums, facts)
        self._steps = loaded.steps
        if loaded.weights:
            self._start = {
                name: loaded.weights[name].to(value) for name, value in self._start.items()
            }

    def _identity(self) -> dict[str, str]:
        """Fingerprints of what must be the same to go on from a checkpoint."""
        identity = {
            "stage": self.settings.stage,
            "every": self.settings.every,
            "precision": self._gradients.precision,
            "sites": [str(site) for site in self._accounts[0].sites],
            "references": {
                str(account.reference): [
                    [row.input_ids for row in block.rows] for block in account.reference.blocks
                ]
                for account in self._accounts
            },
        }
        return {name: fingerprint(value) for name, value in identity.items()}

    # ---- segments ----------------------------------------------------------------------------------

    def _begin(self, model: nn.Module, step: int) -> None:
        assert self._integrator is not None
        self._steps = (step, step)
        self._start = copy_weights(model, self._integrator.names, self.settings.copy_device)

    def _close_segment(
        self, args: TrainingArguments, state: TrainerState, model: nn.Module
    ) -> None:
        start, stop = self._steps
        if self._integrator is None or stop == start:
            return
        with evaluating(model, self._gradients):
            segment = WeightSegment(model, self._start)
            for account in self._accounts:
                began = time.perf_counter()
                found, evaluations = self._integrator.integrate(model, segment, account.reference)
                if not found.closed:
                    raise LedgerError(
                        f"{account.reference}, steps {start} to {stop}",
                        law=f"must close within {found.allowed:.3g} nats per token",
                        found=f"a residual of {found.miss:.3g} after {found.panels} Simpson panels",
                        remedy="Use a smaller `every`, or a larger `max_panels`; weights in half precision need "
                        "precision='float32' or a larger `absolute`.",
                    )
                account.add(found, self._steps, evaluations, time.perf_counter() - began)
        self._begin(model, stop)
        self._report(args, state, model)

    def _report(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        changes = {
            f"forgetting/{account.reference.task}/{account.reference.side}": account.change.mean().item()
            for account in self._accounts
        }
        if self._run is not None and ranks.is_first():
            self._run.event(f"forgetting/{self.settings.stage}", self._steps[1], nats=changes)
        if self.settings.track:
            self._trackers.send(changes, self._steps[1], args, state, model)

    # ---- before the first step ---------------------------------------------------------------------

    def _references(self, tokenizer: Any) -> list[Reference]:
        if tokenizer is None:
            raise MeasurementError(
                "tokenizer",
                law="must be known, since the rows are text",
                found="a trainer without a processing class",
                remedy="Give ForgettingLedger(..., tokenizer=...).",
            )
        return [
            Reference(
                task,
                side,
                make_blocks(
                    task, rows, tokenizer, self._blocks, argument=f"tasks[{task!r}] ({side} rows)"
                ),
            )
            for (task, side), rows in self._rows.items()
        ]

    def _tolerance(self, model: nn.Module) -> Tolerance:
        half = {torch.float16, torch.bfloat16}
        # Of frozen weights as well: a float32 adapter on a half-precision model is evaluated in half precision.
        dtypes = [parameter.dtype for parameter in model.parameters()]
        if self._gradients.precision == "float32":
            dtypes = [torch.float32 if dtype in half else dtype for dtype in dtypes]
        coarsest = Tolerance.of_dtype(max(dtypes, key=lambda dtype: torch.finfo(dtype).eps))
        chosen = self.settings
        return Tolerance(
            coarsest.absolute if chosen.absolute is None else chosen.absolute,
            coarsest.relative if chosen.relative is None else chosen.relative,
        )

    def _fits(self, model: nn.Module, names: tuple[str, ...], references: list[Reference]) -> bool:
        known = dict(model.named_parameters())
        numbers = sum(known[name].numel() for name in names)
        blocks = sum(len(reference.blocks) for reference in references)
        share = -(-blocks // ranks.world_size())
        return share * numbers * 4 <= self.settings.keep_bytes
