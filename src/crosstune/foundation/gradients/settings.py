"""Settings of blocks, of their gradients, and of the ledger that sums them. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings.options import at_least, one_of


@dataclass(frozen=True)
class BlockSettings:
    """How a task's rows become blocks, the statistical units of every interval."""

    blocks: int = 16
    """How many blocks; below 8 only point estimates are worth reading, below 16 no peak verdicts."""
    rows_per_block: int = 4
    """Rows in each block."""
    length: int = 128
    """Tokens kept of a row (or of each window of it)."""
    window: bool = False
    """Whether a long row is scored in windows of `length` tokens instead of being cut."""
    seed: int = 0
    """Changes which rows are chosen and how they fall into blocks."""

    def __post_init__(self) -> None:
        at_least("blocks", self.blocks, 2)
        at_least("rows_per_block", self.rows_per_block, 1)
        at_least("length", self.length, 2)


@dataclass(frozen=True)
class GradientSettings:
    """How a block's gradient is evaluated; none of it changes a figure beyond rounding."""

    precision: str = "float32"
    """`float32`: weights kept in half precision are evaluated as float32; `model`: as they are."""
    batch_tokens: int = 4096
    """Padded tokens of one forward pass; a smaller number needs less memory and more passes."""
    stack_bytes: int = 2**28
    """Gradients of small blocks are computed together while they need no more than this; 0: one by one."""

    def __post_init__(self) -> None:
        at_least("batch_tokens", self.batch_tokens, 1)
        at_least("stack_bytes", self.stack_bytes, 0)
        remedy = "Use 'float32' unless a float32 copy of the weights does not fit."
        one_of("precision", self.precision, ("float32", "model"), remedy)


@dataclass(frozen=True)
class LedgerSettings:
    """How finely the forgetting ledger follows the path of the weights."""

    every: int = 10
    """Optimizer steps of one segment (m); 1 is the path itself."""
    stage: str = "train"
    """The name of the training stage in every table."""
    copy_device: str = "cpu"
    """Where the copy of a segment's first weights lives: `cpu`, or `model` for the model's device."""
    keep_bytes: int = 2**30
    """End gradients of a segment are kept as the next segment's start while they need no more than this."""
    max_panels: int = 64
    """Simpson panels a segment may be divided into before the account is declared broken."""
    absolute: float | None = None
    """Nats per token a segment may miss by; None: by the precision of the weights."""
    relative: float | None = None
    """Share of the segment's loss change it may miss by; None: by the precision of the weights."""
    by_head: bool = False
    """Whether contributions of attention are given head by head as well, in the table `forgetting_heads`."""
    track: bool = True
    """Whether the running change of every loss goes to the trainer's trackers and log."""
    level: float = 0.95
    """Level of the intervals over blocks."""

    def __post_init__(self) -> None:
        at_least("every", self.every, 1)
        at_least("max_panels", self.max_panels, 1)
        at_least("keep_bytes", self.keep_bytes, 0)
        remedy = "Use 'cpu' unless the accelerator has room for one more copy."
        one_of("copy_device", self.copy_device, ("cpu", "model"), remedy)
        if not 0 < self.level < 1:
            raise SettingsError(
                "level", law="must lie between 0 and 1", found=self.level, remedy="Use 0.95."
            )
