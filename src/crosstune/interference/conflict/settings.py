"""Settings of the conflict probe and of `measure_conflict`: what is compared, when, how precisely."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings
from crosstune.foundation.settings.options import at_least, one_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


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
    """Changes which rows are chosen and how they fall into blocks."""
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
class ProbeSettings(AgreementSettings):
    """When the probe measures during training, and what it compares with."""

    every: int = 100
    """A probe starts at optimizer step 0, `every`, 2 × `every`, …"""
    burst: int = 4
    """Consecutive states measured by one probe: the optimizer's oscillation, which a single state shows, cancels in an
    even number. An odd burst with an even `every` sees even steps more often, at 1 no others: every verdict says so."""
    window: int = 5
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
        """How many states a whole burst has; a burst ends where the next probe begins."""
        return min(self.burst, self.every)

    @property
    def caution(self) -> str:
        """What every verdict over several states must add; empty where even and odd steps are measured equally often."""
        if self.states_a_burst % 2 == 0 or self.every % 2 == 1:
            return ""
        seen = "only even steps were" if self.states_a_burst == 1 else "even steps were more often"
        return f"{seen} seen, so an oscillation does not cancel"

    def measures(self, step: int) -> bool:
        """Whether the state after this many optimizer steps belongs to a probe's burst."""
        return step % self.every < self.burst

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
