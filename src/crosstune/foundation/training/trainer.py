"""One Trainer on one clock: window denominators, a closing ledger, token-exact evaluations, checkpoints that resume to the bit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback

from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import DataError, NonFiniteLossError, UnsupportedError
from crosstune.foundation.evaluation.scoring import score_rows
from crosstune.foundation.ranks import (
    from_first,
    is_first,
    rank,
    sum_over_ranks,
    wait_for_all,
    world_size,
)
from crosstune.foundation.training import checkpoints
from crosstune.foundation.training.arguments import learning_rate_factor, training_arguments
from crosstune.foundation.training.batches import StepBatches
from crosstune.foundation.training.callbacks import Clock, CostMeter, EarlyStopping
from crosstune.foundation.training.checkpoints import stage_identity
from crosstune.foundation.training.ledger import LossLedger, NextToken, Term
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.training.stage import StageData, StageResult, check_rows


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
    ) -> None:
        check_rows(data, settings)
        self.data = data
        self.settings = settings
        self.stage_seed = seed
        self.output_folder = Path(output_folder)
        self.ledger = LossLedger(self.terms())
        self.meter = CostMeter()
        self.stopping = EarlyStopping(settings.early_stopping) if settings.early_stopping else None
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
        self.identity = stage_identity(model, data, settings, seed)
        if settings.gradient_checkpointing:
            # transformers 5.23 renamed it; autograd.grad, which measures, cannot pass the reentrant kind.
            newest = getattr(self.model, "activation_checkpointing_enable", None)
            (newest or self.model.gradient_checkpointing_enable)({"use_reentrant": False})

    def _refuse_sharding(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UnsupportedError(
                "accelerate",
                law="must run processes that each hold the whole model (DDP)",
                found="FSDP" if self.is_fsdp_enabled else "DeepSpeed",
                remedy="Launch without sharding; a smaller model or LoRA needs less memory.",
            )

    def terms(self) -> Sequence[Term]:
        """The parts of the training loss; a distilling trainer has more."""
        return (NextToken(),)

    # ---- running a stage ----

    def run(self) -> StageResult:
        """Train the stage, from its last whole checkpoint if it has one."""
        folder, notes = from_first(checkpoints.latest_whole(self.output_folder))
        finished = folder is not None and checkpoints.check_fits(folder, self.identity)
        if finished:
            self._load_finished(str(folder))
        else:
            self.train(resume_from_checkpoint=str(folder) if folder else None)
        if self.stopping:
            self.stopping.restore(self.model)
        return StageResult(
            steps=self.state.global_step,
            ledger=self.ledger.table(),
            history=tuple(self.state.log_history),
            cost=self.meter.cost,
            stopped_early=self.state.global_step < self.settings.steps,
            best_step=self.stopping.best_step if self.stopping else None,
            resumed_from=int(folder.name.rpartition("-")[2]) if folder else None,
            notes=tuple(notes),
        )

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
            collate_fn=partial(_collate, pad_id=self.data.pad_id),
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """Fetch one optimizer step's micro-batches and count, in one reduction, what its sums are divided by."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        counts = torch.tensor(
            [
                sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches),
                len(batches),
                sum(len(batch["labels"]) for batch in batches),
                sum(int(batch["attention_mask"].sum()) for batch in batches),
                sum(batch["labels"].numel() for batch in batches),
            ],
            device=device,
        )
        scored, micro, rows, tokens, positions = sum_over_ranks(counts).tolist()
        if not scored:
            raise DataError(
                "train",
                law=f"must have a token to predict in optimizer step {self.state.global_step + 1}",
                found=f"{rows} rows without one",
                remedy="Give longer rows, or more of them per step.",
            )
        self.ledger.open(self.state.global_step, {"tokens": scored, "microbatch": micro})
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
        return self.ledger.micro_loss(model, inputs, world_size(), inputs["row_ids"])

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """The norm before clipping; the step's account is closed here, before any weight moves."""
        norm = float(super()._get_grad_norm(model, grad_norm))
        self.ledger.close(self.state.global_step, norm)
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
        """Nats per token of each held-out set, sum over sum, for any batch and any number of processes."""
        metrics = {
            f"{metric_key_prefix}_{name}_loss": self._held_out_loss(name, rows)
            for name, rows in (eval_dataset or self.data.held_out).items()
        }
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _held_out_loss(self, name: str, rows: Sequence[Encoded]) -> float:
        mine = rows[rank() :: world_size()]
        sums = torch.zeros(2, dtype=torch.float64)
        if mine:
            scores = score_rows(
                self.model,
                mine,
                pad_id=self.data.pad_id,
                batch_tokens=self.settings.evaluation_tokens,
            )
            sums = torch.stack([scores.nats.sum(), scores.tokens.sum().double()])
        nats, tokens = sum_over_ranks(sums).tolist()
        if not tokens:
            raise DataError(
                f"held_out[{name!r}]",
                law="must hold at least one token to predict",
                found=f"{len(rows)} rows without one",
                remedy="Give longer rows or leave this set out.",
            )
        if not math.isfinite(nats):
            raise NonFiniteLossError(
                f"held_out[{name!r}]",
                law=f"must have a finite loss after optimizer step {self.state.global_step}",
                found=nats,
                remedy="The weights have gone astray: lower the learning rate or clip gradients.",
            )
        return float(nats / tokens)

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
        trained: tuple[int, int] = super()._init_training_state(max_steps, *rest)
        self.state.compute_steps(self.args, max_steps)
        return trained

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore the callbacks together with the optimizer, before ``on_train_begin``."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            checkpoints.load_states(Path(checkpoint), self._stateful())

    def _load_finished(self, checkpoint: str) -> None:
        """Take over the state of a stage that had ended, without a step."""
        self._load_from_checkpoint(checkpoint)
        self.state = type(self.state).load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        checkpoints.load_states(Path(checkpoint), self._stateful())


def _collate(rows: list[Encoded], pad_id: int) -> dict[str, Any]:
    return {**collate(rows, pad_id), "row_ids": [row.row_id for row in rows]}


def train_stage(
    model: nn.Module,
    data: StageData,
    settings: TrainingSettings,
    *,
    output_folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    seed: int = 0,
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

    Returns:
        What happened.

    Raises:
        DataError: There is nothing to learn, or early stopping watches a set that is not there.
        CheckpointError: The folder's checkpoint belongs to another stage.
        NonFiniteLossError: A loss or gradient is NaN or infinite.
    """
    return StageTrainer(
        model, data, settings, output_folder=output_folder, callbacks=callbacks, seed=seed
    ).run()
