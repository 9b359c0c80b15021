"""One Trainer on one clock: window denominators, a closing ledger, token-exact evaluations, checkpoints that resume to the bit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.errors import DataError, NonFiniteLossError, UnsupportedError
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import measuring, watchable
from crosstune.foundation.ranks import (
    from_first,
    is_first,
    rank,
    sum_over_ranks,
    wait_for_all,
    world_size,
)
from crosstune.foundation.training import checkpoints, trained
from crosstune.foundation.training.arguments import learning_rate_factor, training_arguments
from crosstune.foundation.training.batches import StepBatches
from crosstune.foundation.training.callbacks import Clock, CostMeter, EarlyStopping
from crosstune.foundation.training.checkpoints import stage_identity
from crosstune.foundation.training.ledger import LossLedger
from crosstune.foundation.training.loss import LossModule, MicroLoss
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.training.stage import StageData, StageResult, rows_to_read
from crosstune.foundation.training.terms import (
    NEXT_TOKEN,
    UNITS,
    Group,
    Term,
    Terms,
    is_windowed,
)

ROW_IDS = "row_ids"
"""Where a micro-batch carries the ids of its rows, which no model reads and terms may."""


class StageTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer for one stage, with an account of every optimizer step that closes.

    `train_stage` makes one and runs it.
    """

    # We own every denominator: transformers must not divide by the accumulation (its inference from
    # the model's signature is wrong for a loss that is not the model's).
    loss_is_scaled_for_ga = True
    state: Any
    control: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: nn.Module,
        data: StageData,
        settings: TrainingSettings,
        *,
        output_folder: Path,
        callbacks: Sequence[TrainerCallback] = (),
        seed: int = 0,
        terms: Terms | Sequence[Term | Group] = NEXT_TOKEN,
    ) -> None:
        data = replace(data, train=rows_to_read(data, settings, model))
        self.data = data
        self.terms = terms if isinstance(terms, Terms) else Terms(terms)
        self.settings = settings
        self.stage_seed = seed
        self.output_folder = Path(output_folder)
        self.ledger = LossLedger(self.terms)
        # All steps now: a schedule that cannot be booked is told before the first one.
        present = set().union(*(self.ledger.weights(step) for step in range(settings.steps)))
        self.maps = self.terms.needs(present).maps
        self.meter = CostMeter()
        self.stopping = (
            EarlyStopping(settings.early_stopping, lambda: trained.named_tensors(self.loss_module))
            if settings.early_stopping
            else None
        )
        self._gradient_norm = float("nan")
        self._learning_rate = float("nan")
        own = [
            Clock(len(data.train), settings),
            self.meter,
            *([self.stopping] if self.stopping else []),
        ]
        super().__init__(
            model=model,
            args=training_arguments(
                settings,
                self.output_folder,
                seed,
                evaluates=bool(data.held_out),
                on_cpu=next(model.parameters()).device.type == "cpu",
            ),
            train_dataset=data.train,
            eval_dataset=data.held_out or None,
            callbacks=[*own, *callbacks],
        )
        self.remove_callback(PrinterCallback)
        self._refuse_sharding()
        checkpoints.check_names(self._stateful())
        self.identity = stage_identity(model, data, settings, seed, self.terms)
        self.loss_module = self._whole_loss(model)

    def _whole_loss(self, model: nn.Module) -> LossModule:
        """Model and terms in one module, the second model beside it, where the model is."""
        device = next(model.parameters()).device
        if self.terms.second_model is not None:
            self.terms.second_model.eval().to(device)
        if self.settings.gradient_checkpointing:
            if not hasattr(model, "activation_checkpointing_enable"):
                raise UnsupportedError(
                    "gradient_checkpointing",
                    law="must be left to a model of transformers, which knows its blocks",
                    found=type(model).__name__,
                    remedy="Leave it out, and checkpoint inside the model.",
                )
            # autograd.grad, which measures, cannot pass the reentrant kind.
            model.activation_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        return LossModule(model, self.terms).to(device)

    def _refuse_sharding(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UnsupportedError(
                "accelerate",
                law="must run processes that each hold the whole model (DDP)",
                found="FSDP" if self.is_fsdp_enabled else "DeepSpeed",
                remedy="Launch without sharding; a smaller model or LoRA needs less memory.",
            )

    # ---- running a stage ----

    def run(self) -> StageResult:
        """Train the stage, from its last whole checkpoint if it has one."""
        folder, notes = from_first(checkpoints.latest_whole(self.output_folder))
        finished = folder is not None and checkpoints.check_fits(folder, self.identity)
        if finished:
            self._load_finished(str(folder))
        else:
            # Layers whose maps a term looks at attend as in the forward pass when a backward pass computes them again.
            with watchable(self.model, sorted(self.maps)) if self.maps else nullcontext():
                self.train(resume_from_checkpoint=str(folder) if folder else None)
        if self.stopping:
            self.stopping.restore()
        return StageResult(
            steps=self.state.global_step,
            ledger=self.ledger.table(),
            history=tuple(self.state.log_history),
            cost=self.meter.cost,
            stopped_early=self.state.global_step < self.settings.steps,
            best_step=self.stopping.best_step if self.stopping else None,
            resumed_from=int(folder.name.rpartition("-")[2]) if folder else None,
            pack_lengths=tuple(len(row.input_ids) for row in self.data.train if row.lengths),
            notes=tuple(notes),
        )

    # ---- what is trained ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimizer of the model and its terms; it may begin with what that of another stage knew."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(self.loss_module)
        owners = [*self.terms.members, *self.callback_handler.callbacks]
        trained.check_optimized([(some, trained.parameters_in(some)) for some in owners], optimizer)
        if self.data.optimizer_from is not None:
            before = checkpoints.whole(self.data.optimizer_from)
            trained.load_optimizer(before, self.loss_module, optimizer, carried=True)
        return optimizer

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> Any:
        """The whole loss is one forward of what accelerate wraps; callbacks go on to see the model itself."""
        return self.accelerator.prepare_model(self.loss_module)

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader[Encoded]:
        """The whole stage is one pass over this process's micro-batches.

        accelerate's own sharding would repeat rows at an epoch's end, so it is not asked.
        """
        sampler = StepBatches(
            len(self.data.train),
            steps=self.settings.steps,
            batch_rows=self.settings.batch_rows,
            accumulation=self.settings.accumulation,
            seed=self.stage_seed,
            place=(rank(), world_size()),
        )
        return DataLoader(
            self.data.train,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=self._collate_with_ids,
        )

    def collate(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Rows as a batch of the model, for training and for held-out losses; a subclass may add what its terms need."""
        return collate(rows, self.data.pad_id)

    def _collate_with_ids(self, rows: Sequence[Encoded]) -> dict[str, Any]:
        batch = self.collate(rows)
        if any(row.lengths for row in rows) and "position_ids" not in batch:
            raise DataError(
                "collate",
                law="must keep the positions of packed rows, which keep them apart",
                found=f"{', '.join(batch)}",
                remedy="Hand on the `position_ids` of crosstune's own collate, or leave rows unpacked.",
            )
        return {**batch, ROW_IDS: [row.row_id for row in rows]}

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """Fetch one optimizer step's micro-batches and count, in one reduction, what its sums are divided by."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        units = [sum(unit) for unit in zip(*map(_units_in, batches), strict=True)]
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        positions = sum(batch["labels"].numel() for batch in batches)
        counts = torch.tensor([*units, tokens, positions], device=device)
        *units, tokens, positions = sum_over_ranks(counts).tolist()
        scored, rows, _ = units
        if not scored:
            raise DataError(
                "train",
                law=f"must have a token to predict in optimizer step {self.state.global_step + 1}",
                found=f"{rows} rows without one",
                remedy="Give longer rows, or more of them per step.",
            )
        self.ledger.open(self.state.global_step, dict(zip(UNITS, units, strict=True)))
        self.meter.count(rows, tokens, positions)
        return batches, None

    # ---- loss and step ----

    def compute_loss_context_manager(self) -> Any:
        """Autocast of the forward pass only; losses leave it, and measurements never enter it."""
        return torch.autocast(
            self.args.device.type,
            dtype=torch.bfloat16,
            enabled=self.settings.precision == "bfloat16",
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """The micro-batch's share of the step's loss, added to the ledger as it is formed."""
        micro: MicroLoss = model(inputs, self.ledger.factors, self.state.global_step)
        self.ledger.note(micro, inputs[ROW_IDS])
        # Processes are averaged: each one's share counts once in the sum.
        return (world_size() * micro.loss).float()

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """The norm before clipping; the step's account is closed here, before any weight moves."""
        norm = float(super()._get_grad_norm(model, grad_norm))
        windows = self.ledger.close(self.state.global_step, norm)
        for name, term in self.loss_module.named_learning():
            if is_windowed(term) and name in windows:
                term.renew(windows[name])
        self._gradient_norm = norm
        self._learning_rate = float(self.optimizer.param_groups[0]["lr"])
        return norm

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """The learning rate is a pure function of the optimizer step."""
        if self.lr_scheduler is None:
            factor = partial(
                learning_rate_factor,
                kind=self.settings.schedule,
                steps=self.settings.steps,
                warmup=self.settings.warmup,
            )
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- log ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Check that the account closes, and say what the step just taken was taken with."""
        if "loss" in logs:
            self._complete(logs)
        super().log(logs, start_time)

    def _complete(self, logs: dict[str, float]) -> None:
        own = (self.model, self.model.parameters())
        trained.check_optimized([own], self.optimizer)  # a callback may have unfrozen some
        step, clip = self.state.global_step, self.settings.clip
        began = max(self.ledger.logged_step, self._initial_global_step)
        self.ledger.check(began, step, logs["loss"])
        # A resumed run's Trainer knows only the steps since it resumed; the ledger knows the window.
        means = self.ledger.mean(self.ledger.logged_step, step)
        self.ledger.logged_step = step
        logs["loss"] = sum(parts["weighted"] for parts in means.values())
        for name, parts in means.items():
            logs[f"{name}_raw"] = parts["raw"]
            logs[f"{name}_weighted"] = parts["weighted"]
        logs["grad_norm"] = self._gradient_norm
        logs["grad_norm_clipped"] = min(self._gradient_norm, clip) if clip else self._gradient_norm
        logs["learning_rate"] = self._learning_rate

    # ---- evaluations of held-out rows ----

    def evaluate(
        self,
        eval_dataset: Mapping[str, Sequence[Encoded]] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Each held-out set's loss with the present and with the final weights, for any batch and any number of processes."""
        metrics: dict[str, float] = {}
        final = self.ledger.weights(self.settings.steps - 1)
        for name, rows in (eval_dataset or self.data.held_out).items():
            booked = self._book_held_out(name, rows, final)
            metrics[f"{metric_key_prefix}_{name}_loss"] = sum(row["weighted"] for row in booked)
            metrics[f"{metric_key_prefix}_{name}_loss_final"] = sum(
                final.get(row["term"], 0.0) * row["raw"] for row in booked
            )
            if len(self.ledger.entries) > 1:
                for row in booked:
                    metrics[f"{metric_key_prefix}_{name}_{row['term']}_raw"] = row["raw"]
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _book_held_out(
        self, name: str, rows: Sequence[Encoded], final: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        taken = self.state.global_step
        names = list({**self.ledger.weights(max(taken - 1, 0)), **final})
        sums, counts = self.score_held_out(rows[rank() :: world_size()], names)
        totals = sum_over_ranks(torch.tensor([*sums, *counts], dtype=torch.float64)).tolist()
        found = dict(zip(names, totals, strict=False))
        units = {unit: int(n) for unit, n in zip(UNITS, totals[len(names) :], strict=True)}
        if not units["tokens"]:
            raise DataError(
                f"held_out[{name!r}]",
                law="must hold at least one token to predict",
                found=f"{len(rows)} rows without one",
                remedy="Give longer rows or leave this set out.",
            )
        if not all(map(math.isfinite, found.values())):
            raise NonFiniteLossError(
                f"held_out[{name!r}]",
                law=f"must have a finite loss after optimizer step {taken}",
                found=", ".join(f"{term}: {value}" for term, value in found.items()),
                remedy="The weights have gone astray: lower the learning rate or clip gradients.",
            )
        return self.ledger.book(name, taken, found, units)

    def score_held_out(
        self, rows: Sequence[Encoded], names: Sequence[str], step: int | None = None
    ) -> tuple[list[float], list[int]]:
        """The sum of each named entry over this process's rows, of the last step taken if none is given, and how many of each of `UNITS` there are."""
        sums, counts = np.zeros(len(names)), np.zeros(len(UNITS), dtype=int)
        step = max(self.state.global_step - 1, 0) if step is None else step
        with measuring(self.loss_module), torch.no_grad():
            for places in batches_of(rows, self.settings.evaluation_tokens):
                batch = self._prepare_inputs(self._collate_with_ids([rows[at] for at in places]))
                counts += _units_in(batch)
                micro = self.loss_module(batch, dict.fromkeys(names, 1.0), step)
                sums += [micro.sums[name].item() for name in names]
        return sums.tolist(), counts.tolist()

    # ---- checkpoints ----

    def _stateful(self) -> list[checkpoints.Stateful]:
        callbacks = self.callback_handler.callbacks
        return [
            self.ledger,
            *(some for some in callbacks if isinstance(some, checkpoints.Stateful)),
        ]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write everything, then the manifest, then remove what is older."""
        folder = checkpoints.checkpoint_folder(self.output_folder, self.state.global_step)
        if is_first() and folder.exists():
            shutil.rmtree(folder)  # a half-written one: a whole one would have been resumed from
        wait_for_all()
        with checkpoints.quietly():
            super()._save_checkpoint(model, trial)
        wait_for_all()
        if is_first():
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
            checkpoints.save_states(folder, self._stateful())
            checkpoints.seal(folder, self.identity, finished=self._is_finished())
            checkpoints.keep_newest(self.output_folder, self.settings.keep_checkpoints)
        wait_for_all()

    def _is_finished(self) -> bool:
        stopped = self.stopping is not None and self.stopping.stopped
        return stopped or self.state.global_step >= self.settings.steps

    def _init_training_state(self, max_steps: int, *rest: Any) -> tuple[int, int]:
        """Look, log and save as often as the settings say now, also when a checkpoint said otherwise."""
        begun: tuple[int, int] = super()._init_training_state(max_steps, *rest)
        self.state.compute_steps(self.args, max_steps)
        return begun

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The model alone, as transformers saves it; in a checkpoint, what is trained by name."""
        if not _internal_call:
            super().save_model(output_dir)
        elif is_first():
            folder = Path(str(output_dir))
            folder.mkdir(
                parents=True, exist_ok=True
            )  # another process may have made it for its random state
            trained.save(folder, self.loss_module, self.optimizer)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Saved with the model; the scheduler is a pure function of the step."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take over what was trained."""
        trained.load_tensors(Path(resume_from_checkpoint), self.loss_module)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore optimizer, clock and callbacks, before ``on_train_begin``."""
        if checkpoint is not None:
            folder = Path(checkpoint)
            trained.load_optimizer(folder, self.loss_module, self.optimizer)
            trained.set_clock(self.lr_scheduler, self.optimizer, self.state.global_step)
            checkpoints.load_states(folder, self._stateful())

    def _load_finished(self, checkpoint: str) -> None:
        """Take over the state of a stage that had ended, without a step."""
        self._load_from_checkpoint(checkpoint)
        trained.load_flags(Path(checkpoint), self.loss_module)
        self.state = type(self.state).load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        checkpoints.load_states(Path(checkpoint), self._stateful())


def _units_in(batch: Mapping[str, Any]) -> tuple[int, int, int]:
    """Scored tokens, rows and batches, as `UNITS`; in packed sequences each row begins at position 0."""
    labels, packed = batch["labels"], batch.get("position_ids")
    real = batch["attention_mask"] == 1
    rows = len(labels) if packed is None else int(((packed == 0) & real).sum())
    return int((labels[:, 1:] != UNSCORED).sum()), rows, 1


def train_stage(
    model: nn.Module,
    data: StageData,
    settings: TrainingSettings,
    *,
    output_folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    seed: int = 0,
    terms: Terms | Sequence[Term | Group] = NEXT_TOKEN,
) -> StageResult:
    """The model is trained in place; a stage killed before goes on from its last whole checkpoint.

    Args:
        model: A causal language model, or a PEFT model (see ``with_lora``); as it was when the stage
            first began, also when it is resumed.
        data: Rows to learn and to evaluate.
        settings: What the stage is.
        output_folder: Where checkpoints lie; one folder per stage.
        callbacks: Callbacks of transformers; those that are ``Stateful`` are saved and restored.
        seed: Decides row order and dropout.
        terms: The terms of the loss; as `Terms` with the second model they look at.

    Returns:
        What happened.

    Raises:
        DataError: There is nothing to learn, or early stopping watches a set that is not there.
        CheckpointError: The folder's checkpoint belongs to another stage.
        SettingsError: Terms share a name, or at some step all weights are 0.
        TrainingError: A term has no gradient, or parameters that no optimizer holds.
        LedgerError: A group's scalar is not what its entries add up to.
        NonFiniteLossError: A loss or gradient is NaN or infinite.
    """
    return StageTrainer(
        model,
        data,
        settings,
        output_folder=output_folder,
        callbacks=callbacks,
        seed=seed,
        terms=terms,
    ).run()
