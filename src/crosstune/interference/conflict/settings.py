"""Settings of the conflict probe and of `measure_conflict`: what is compared, when, how precisely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.settings.options import at_least, one_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

LONG = 16
"""Optimizer steps: most oscillations that were measured are shorter (docs/oscillation.md)."""


@dataclass(frozen=True)
class AgreementSettings:
    """How agreement between tasks is measured at one state of the weights."""

    blocks: int | Literal["auto"] = 16
    """Blocks of rows per task; `auto` lets a pilot run at the first state choose the number once."""
    rows_per_block: int = 4
    """Rows in each block."""
    length: int = 128
    """Tokens kept of a row (or of each window of it)."""
    window_rows: bool = False
    """Whether a long row is scored in windows of `length` tokens instead of being cut."""
    seed: int = 0
    """Changes which rows are chosen, how they fall into blocks, and at which steps a probe looks."""
    precision: str = "float32"
    """`float32`: weights kept in half precision are evaluated as float32; `model`: as they are."""
    batch_tokens: int = 4096
    """Padded tokens of one forward pass; changes speed and memory, never a figure."""
    keep_gib: float = 2.0
    """Block gradients are computed once and stored while all fit into this, else computed twice."""
    layers: tuple[int, ...] | None = None
    """Only these layers (embedding, last norm and head then take no part); None for all."""
    components: tuple[str, ...] | None = None
    """Only these components; None for all."""
    weights: Literal["trained", "effective"] = "trained"
    """`trained`: gradients of the parameters that move; those of LoRA's factors A and B depend on their gauge;
    `effective`: of the weight that an adapter adds to, which do not. Without an adapter both are the same."""
    level: float = 0.95
    """Confidence level of every interval."""
    interval_width: float = 0.2
    """For `blocks: auto`: the wanted full width of the corrected cosine's interval."""
    max_blocks: int = 64
    """For `blocks: auto`: the budget, as the most blocks per task."""

    def __post_init__(self) -> None:
        if isinstance(self.blocks, str) and self.blocks != "auto":
            raise SettingsError(
                "blocks",
                law="must be a whole number or 'auto'",
                found=repr(self.blocks),
                remedy="Use 16, or 'auto' to let a pilot choose.",
            )
        self.block_settings(2 if self.blocks == "auto" else self.blocks)
        at_least("keep_gib", self.keep_gib, 0)
        self.gradient_settings()
        at_least("max_blocks", self.max_blocks, 8)
        remedy = "Use 'effective' to compare LoRA models free of their gauge."
        one_of("weights", self.weights, ("trained", "effective"), remedy)
        if not 0 < self.level < 1:
            raise SettingsError(
                "level", law="must lie between 0 and 1", found=self.level, remedy="Use 0.95."
            )
        if not self.interval_width > 0:
            raise SettingsError(
                "interval_width",
                law="must be above 0",
                found=self.interval_width,
                remedy="Use 0.2: a corrected cosine known to ± 0.1.",
            )

    def block_settings(self, blocks: int) -> BlockSettings:
        """How rows become this many blocks."""
        return BlockSettings(blocks, self.rows_per_block, self.length, self.window_rows, self.seed)

    def gradient_settings(self) -> GradientSettings:
        """How a block's gradient is evaluated."""
        stacked = min(GradientSettings.stack_bytes, int(self.keep_gib * 2**30))
        return GradientSettings(self.precision, self.batch_tokens, stacked)


@dataclass(frozen=True)
class MeasureSettings(AgreementSettings):
    """Whether `measure_conflict` looks at one state or at a burst of them, and what the burst learns."""

    burst: int | None = None
    """Consecutive states that a copy of the model goes through, so that a verdict can be given (64 is enough for most
    oscillations); none measures the one state. A burst takes the memory of four models beside the gradients."""
    every: int = 4
    """Of so many states of the burst one is measured, as a probe would."""
    learning: str | None = None
    """The task whose rows the burst learns; none learns all tasks, as many rows of each."""
    learning_rate: float = 2e-4
    """Learning rate of the burst: that of your training, for the oscillation depends on it."""
    batch_rows: int = 8
    """Rows of one step of the burst."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("every", self.every, 1)
        at_least("batch_rows", self.batch_rows, 1)
        if not self.learning_rate > 0:
            raise SettingsError(
                "learning_rate",
                law="must be above 0",
                found=self.learning_rate,
                remedy="Use the rate that you train at.",
            )


@dataclass(frozen=True)
class ProbeSettings(AgreementSettings):
    """When the probe measures during training, and what it compares with."""

    every: int = 25
    """Of so many optimizer steps one probe looks: the first at step 0, each other where the seed puts it, so that no
    oscillation keeps step with the probes."""
    burst: int = 1
    """Consecutive states measured by one probe; as many single states tell as much or more (docs/oscillation.md)."""
    window: int = 20
    """Probes that make one window; conflict is said only of window means."""
    reference: Literal["current", "frozen"] = "current"
    """`frozen` shows beside the current comparison what a stale first gradient would have said."""
    stage: str = "train"
    """The name of the training stage in every table."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("every", "burst", "window"):
            at_least(name, getattr(self, name), 1)
        remedy = "Leave it out to compare all tasks at the same state."
        one_of("reference", self.reference, ("current", "frozen"), remedy)

    @property
    def states_a_burst(self) -> int:
        """How many states a whole burst has: at most all."""
        return min(self.burst, self.every)

    @property
    def caution(self) -> str:
        """What every verdict over a window must add; empty where it spans more than the oscillations measured so far."""
        span = self.every * self.window
        return "" if span >= LONG else f"its {span} steps may lie within one oscillation"

    def first_step(self, probe: int) -> int:
        """The step at which a probe begins: the same for all seeds of a study, whose windows are compared step by step."""
        room = self.every - self.states_a_burst + 1
        return probe * self.every + (Seeds(self.seed).derive("probe", probe) % room if probe else 0)

    def measures(self, step: int) -> bool:
        """Whether the state after this many optimizer steps belongs to a probe's burst."""
        return 0 <= step - self.first_step(self.probe_at(step)) < self.states_a_burst

    def probe_at(self, step: int) -> int:
        """The number, from 0, of the probe whose burst this step belongs to."""
        return step // self.every

    def window_at(self, step: int) -> int:
        """The number, from 0, of the window that this step's probe belongs to."""
        return self.probe_at(step) // self.window

    def ends_burst(self, step: int) -> bool:
        """Whether the next state does not belong to this step's probe."""
        return not self.measures(step + 1) or self.probe_at(step + 1) != self.probe_at(step)

    def ends_window(self, step: int) -> bool:
        """Whether this step ends the burst of a window's last probe."""
        return self.ends_burst(step) and (self.probe_at(step) + 1) % self.window == 0

    def states(self, steps: int) -> int:
        """How many states a training of this many optimizer steps is measured at, step 0 included."""
        return sum(self.measures(step) for step in range(steps + 1))
