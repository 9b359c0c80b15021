"""The settings of a repair at the end of a stage of training. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from crosstune.foundation.errors import SettingsError, renamed
from crosstune.merging.settings import RepairSettings


@dataclass(frozen=True)
class StageRepairSettings:
    """One point between the weights at a stage's start and at its end: its trade-off, and how it is searched."""

    granularity: str = "component"
    """What shares a coefficient: global, ramp, layer, component, expert, tensor, embedding_rows, kv_head, head,
    singular."""
    exchange_rate: float = 1.0
    """The trade-off weight: how many nats of the learned tasks one nat of the forgotten ones is worth."""
    max_loss: Mapping[str, float] = field(default_factory=dict)
    """Instead of a trade-off weight: the nats per token that named tasks may lose against the model as trained."""
    low: float = 0.0
    """The smallest coefficient; below 0 the change is turned around."""
    high: float = 1.0
    """The largest coefficient; above 1 the change is overdone."""
    directions: int = 4
    """Leading singular directions of each matrix that get a coefficient, for the granularity `singular`."""
    rows: int = 64
    """Rows a task that choose the coefficients."""
    length: int = 128
    """Tokens kept of a row."""
    windows: bool = False
    """Whether a longer row is scored in windows of `length` tokens instead of being cut."""
    folds: int = 3
    """Folds of the rows, by group, by which the penalty is chosen."""
    penalties: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0)
    """Strengths of the pull towards the model as trained, as shares of what was forgotten."""
    evaluations: int = 24
    """Most evaluations (forward and backward passes over the rows) for the point."""
    batch_tokens: int = 4096
    """Padded tokens of one forward pass; a smaller number needs less memory."""
    precision: Literal["float32", "model"] = "float32"
    """Arithmetic of an evaluation: half-precision weights as float32, or as they are."""
    seed: int = 0
    """Changes which rows choose, and the folds."""
    stage: str = "train"
    """The name of the stage in every table."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched, under the names used here."""
        if self.exchange_rate <= 0:
            raise SettingsError(
                "exchange_rate",
                law="must be positive",
                found=self.exchange_rate,
                remedy="Use 1.0 where old and new count the same.",
            )
        with renamed("exchange_rates", "exchange_rate"):
            self.search()

    def search(self) -> RepairSettings:
        """The same as a search of one granularity, without rivals and without test rows."""
        of_a_search = {of.name for of in fields(RepairSettings)} - {"granularity"}
        alike = {name: value for name, value in vars(self).items() if name in of_a_search}
        return RepairSettings(
            granularity=(self.granularity,),
            baselines=(),
            replay=False,
            exchange_rates=(self.exchange_rate,),
            budgets=(),
            **alike,
        )
