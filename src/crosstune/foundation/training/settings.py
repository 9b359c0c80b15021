"""What a training stage is: optimizer, schedule, batch, adapters, and when to evaluate, stop and save. No torch here."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings.options import one_of

_PACKAGES = {"azure_ml": "azureml", "flyte": "flytekit", "tensorboard": "tensorboardX"}
"""Names of trackers' packages, where they may be others than the trackers'."""


def check_trackers(names: Sequence[str], installed: Collection[str] | None = None) -> None:
    """Refuse trackers that are not installed: not among those, or else without a package, which needs no library to be loaded."""

    def is_there(name: str) -> bool:
        packages = (name.replace(".", "_"), _PACKAGES.get(name, name))
        return any(map(find_spec, packages)) if installed is None else name in installed

    missing = [name for name in names if not is_there(name)]
    if missing:
        known = "" if installed is None else f"; installed are {', '.join(installed) or 'none'}"
        raise SettingsError(
            "report_to",
            law="must name trackers that are installed",
            found=f"{', '.join(missing)}{known}",
            remedy="Install the tracker's package, or leave it out: tables are written all the same.",
        )


@dataclass(frozen=True)
class LoraSettings:
    """A low-rank adapter that is trained in place of the whole model."""

    rank: int = 8
    """Columns of A and B."""
    alpha: int = 16
    """The update is scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout before A."""
    targets: tuple[str, ...] | str = "all-linear"
    """Names of the modules that get an adapter, or ``all-linear``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        _require(self.rank >= 1, "lora.rank", "must be at least 1", self.rank)
        _require(0.0 <= self.dropout < 1.0, "lora.dropout", "must lie in [0, 1)", self.dropout)
        _require(len(self.targets) > 0, "lora.targets", "must name at least one module", "none")


@dataclass(frozen=True)
class StoppingSettings:
    """When a stage ends before its last step: a held-out loss has not improved for a while."""

    metric: str
    """Name of the held-out set whose nats per token decide."""
    patience: int = 3
    """Evaluations without improvement that are tolerated."""
    min_delta: float = 0.0
    """An improvement is a fall by more than this many nats per token."""
    restore_best: bool = True
    """Whether the stage ends with the best state instead of the last."""

    def __post_init__(self) -> None:
        """Refuse what can never stop."""
        _require(bool(self.metric), "early_stopping.metric", "must name a held-out set", "''")
        _require(self.patience >= 1, "early_stopping.patience", "must be at least 1", self.patience)
        _require(
            self.min_delta >= 0.0,
            "early_stopping.min_delta",
            "must not be negative",
            self.min_delta,
        )


@dataclass(frozen=True)
class TrainingSettings:
    """One stage of training, counted in optimizer steps."""

    learning_rate: float = 2e-4
    """Peak learning rate."""
    steps: int = 200
    """Optimizer steps of a stage; rows are cycled through, each once per epoch."""
    batch_rows: int = 8
    """Rows of one optimizer step, over all micro-batches and processes: the split changes nothing."""
    accumulation: int = 1
    """Micro-batches that each process splits its share of a step into; more of them need less memory."""
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    """The optimizer's name."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: int = 0
    """Steps over which the learning rate rises to its peak."""
    weight_decay: float = 0.0
    """Decoupled weight decay of matrices; biases and norms are left out."""
    clip: float = 1.0
    """Largest gradient norm of a step; 0 leaves the gradient as it is."""
    length: int = 128
    """Tokens of a row at most; longer rows are cut or windowed when they are encoded."""
    packing: bool = False
    """Put short rows side by side in sequences of at most `length`: less padding; rows of a step are then such sequences."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the training forward pass; weights, losses and every measurement stay as loaded."""
    lora: LoraSettings | None = None
    """Train adapters of this shape; none trains the whole model."""
    deterministic: bool = False
    """Ask CUDA for kernels that give the same bits every time (slower); one CPU with the same threads does so anyway."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    evaluate_every: int = 0
    """Steps between evaluations of the held-out sets; 0: none."""
    evaluation_tokens: int = 4096
    """Positions that go through the model at once when it is evaluated."""
    early_stopping: StoppingSettings | None = None
    """End the stage when a held-out loss stops falling; none runs every step."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 writes none."""
    keep_checkpoints: int = 2
    """Whole checkpoints that are kept; older ones are removed."""
    log_every: int = 10
    """Steps between lines of the training log; the loss ledger has every step all the same."""
    report_to: tuple[str, ...] = ()
    """Trackers by their transformers names (wandb, trackio, tensorboard)."""

    def __post_init__(self) -> None:
        """Refuse what is impossible before anything is loaded."""
        _require(
            math.isfinite(self.learning_rate) and self.learning_rate > 0.0,
            "learning_rate",
            "must be a positive number",
            self.learning_rate,
        )
        for name in (
            "steps",
            "batch_rows",
            "accumulation",
            "evaluation_tokens",
            "keep_checkpoints",
            "log_every",
        ):
            _require(getattr(self, name) >= 1, name, "must be at least 1", getattr(self, name))
        for name in ("warmup", "weight_decay", "clip", "evaluate_every", "checkpoint_every"):
            _require(getattr(self, name) >= 0, name, "must not be negative", getattr(self, name))
        _require(
            self.length >= 2, "length", "must leave a token to predict (at least 2)", self.length
        )
        _require(
            self.accumulation <= self.batch_rows,
            "accumulation",
            f"must not exceed batch_rows ({self.batch_rows}): no micro-batch may be empty",
            self.accumulation,
        )
        _require(
            self.warmup <= self.steps,
            "warmup",
            f"must not exceed steps ({self.steps})",
            self.warmup,
        )
        _require(
            self.early_stopping is None or self.evaluate_every > 0,
            "early_stopping",
            "needs evaluate_every to be at least 1",
            f"evaluate_every: {self.evaluate_every}",
        )
        one_of("optimizer", self.optimizer, ("adamw", "sgd", "adafactor"))
        one_of("schedule", self.schedule, ("constant", "linear", "cosine"))
        one_of("precision", self.precision, ("float32", "bfloat16"))


def _require(holds: bool, argument: str, law: str, found: object) -> None:
    if not holds:
        raise SettingsError(
            argument, law=law, found=found, remedy="Change it in the settings file or command."
        )
