"""The settings of a repair: how finely it cuts, the trade-offs, and which rows choose and report. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.settings.options import at_least

GRANULARITIES = (
    "global",
    "ramp",
    "layer",
    "component",
    "expert",
    "tensor",
    "embedding_rows",
    "kv_head",
    "head",
    "singular",
)
"""From coarse to fine: each is started from what the coarser ones found."""
BY_HEAD = ("kv_head", "head")
"""Those that cut the components of attention by head."""


@dataclass(frozen=True)
class RepairSettings:
    """How the coefficients between two checkpoints are chosen, and on which rows they are judged."""

    granularity: tuple[str, ...] = ("component",)
    """What shares a coefficient: global, ramp, layer, component, expert, tensor, embedding_rows, kv_head, head,
    singular."""
    baselines: tuple[str, ...] = ("global", "ramp", "layer")
    """Coarser granularities that are searched in the same way, to compare with."""
    replay: bool = True
    """Whether a fine-tune on the validation rows, with the compute of the whole search, is compared with."""
    replay_rates: tuple[float, ...] = (1e-4, 1e-3)
    """Its learning rates; each run has its share of the compute."""
    exchange_rates: tuple[float, ...] = (0.125, 0.5, 1.0, 2.0, 8.0)
    """Trade-off weights of the sweep: how many nats of the learned tasks one nat of the forgotten ones is worth."""
    budgets: tuple[float, ...] = (0.02, 0.1)
    """Maximum loss increases: nats per token that each learned task may lose, one point of the front each."""
    max_loss: Mapping[str, float] = field(default_factory=dict)
    """Maximum loss increase of named tasks against `after`, in nats per token: one more point, the one that is picked."""
    margin: bool = False
    """Whether the limits of `max_loss` and `budgets` are kept with a margin: by the upper bound, one-sided at `level`, of what is
    lost on folds of the validation rows that did not choose. Takes `folds` times the evaluations of each limit."""
    learned: tuple[str, ...] = ()
    """The tasks whose learning is to be kept; empty: those whose loss fell on the validation rows."""
    low: float = 0.0
    """The smallest coefficient; below 0 the change is turned around."""
    high: float = 1.0
    """The largest coefficient; above 1 the change is overdone."""
    directions: int = 4
    """Leading singular directions of each matrix that get a coefficient, for the granularity `singular`."""
    target: Literal["text", "checkpoints"] = "text"
    """What is minimised: the nats of the text, or without labels the divergence from `before` on forgotten
    tasks and from `after` on learned ones (name those in `learned`)."""
    teacher_bytes: int = 2**31
    """Most memory for the checkpoints' log-probabilities on the validation rows (`target: checkpoints`)."""
    rows: int = 64
    """Validation rows a task; they choose the coefficients."""
    reported_rows: int = 200
    """Test rows a task; they are scored once, at the end."""
    selection_share: float = 0.5
    """Share of the rows, by group across all tasks, that are validation rows; the others are test rows."""
    length: int = 128
    """Tokens kept of a row."""
    windows: bool = False
    """Whether a longer row is scored in windows of `length` tokens instead of being cut."""
    folds: int = 3
    """Folds of the validation rows, by group, by which the penalty is chosen."""
    penalties: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0)
    """Strengths of the pull towards w = 1, as shares of what was forgotten; one is chosen by folds."""
    evaluations: int = 12
    """Most evaluations (forward and backward passes over the validation rows) for one point of the front."""
    batch_tokens: int = 4096
    """Padded tokens of one forward pass; a smaller number needs less memory."""
    precision: Literal["float32", "model"] = "float32"
    """Arithmetic of the search: half-precision weights as float32, or as they are."""
    device: str = "cpu"
    """Where the model is evaluated."""
    seed: int = 0
    """Changes which rows are validation and test rows, and the folds."""
    level: float = 0.95
    """Level of the intervals."""

    def __post_init__(self) -> None:
        """Refuse what cannot be searched before anything is loaded."""
        for name in ("rows", "reported_rows", "folds", "length"):
            at_least(name, getattr(self, name), 2)
        for name in ("evaluations", "directions", "batch_tokens"):
            at_least(name, getattr(self, name), 1)
        for argument in ("granularity", "baselines"):
            wrong = [repr(name) for name in getattr(self, argument) if name not in GRANULARITIES]
            law = f"must be of {', '.join(GRANULARITIES)}"
            _require(not wrong, argument, law, ", ".join(wrong))
        _require(bool(self.granularity), "granularity", "must name at least one", "none")
        self._check_numbers()
        self._check_labels()
        _require(self.low <= 0, "low", "must be at most 0: the space holds `before`", self.low)
        _require(self.high >= 1, "high", "must be at least 1: the space holds `after`", self.high)
        for argument in ("selection_share", "level"):
            value = getattr(self, argument)
            _require(0 < value < 1, argument, "must lie between 0 and 1", value)
        law = "must name the learned tasks where there are no labels (target: checkpoints)"
        _require(self.target == "text" or bool(self.learned), "learned", law, "none")
        law = "must be false without labels (target: checkpoints): its bound is of the loss of the text"
        _require(self.target == "text" or not self.margin, "margin", law, "true")

    def _check_numbers(self) -> None:
        numbers = {
            **{name: getattr(self, name) for name in ("exchange_rates", "budgets", "penalties")},
            "replay_rates": self.replay_rates,
            "max_loss": tuple(self.max_loss.values()),
            "low": (self.low,),
            "high": (self.high,),
        }
        for argument, values in numbers.items():
            _require(all(map(math.isfinite, values)), argument, "must be finite", values)
        for argument in ("exchange_rates", "replay_rates"):
            values = numbers[argument]
            _require(min(values, default=1.0) > 0, argument, "must be positive", values)
        asks = bool(self.exchange_rates or self.budgets or self.max_loss)
        law = "must hold at least one where neither `budgets` nor `max_loss` asks for a point"
        _require(asks, "exchange_rates", law, "none")
        _require(bool(self.replay_rates), "replay_rates", "must hold at least one", "none")
        law = "must hold at least one and none below 0"
        _require(
            bool(self.penalties) and min(self.penalties) >= 0, "penalties", law, self.penalties
        )
        for budget in self.budgets:
            at_least("budgets", budget, 0)
        for task, most in self.max_loss.items():
            at_least(f"max_loss[{task!r}]", most, 0)

    def _check_labels(self) -> None:
        """Points go by their labels over seeds: two of one label would count as two seeds of one point."""
        for argument in ("exchange_rates", "budgets", "replay_rates", "penalties", "granularity"):
            given = getattr(self, argument)
            shown = [f"{one:g}" if isinstance(one, float) else str(one) for one in given]
            distinct = len(set(shown)) == len(shown)
            _require(distinct, argument, "must differ, as they are shown", ", ".join(shown))

    @property
    def methods(self) -> tuple[str, ...]:
        """Every granularity that is searched, from coarse to fine."""
        wanted = {*self.granularity, *self.baselines}
        return tuple(name for name in GRANULARITIES if name in wanted)

    @property
    def by_head(self) -> bool:
        """Whether a granularity that is searched cuts attention by head."""
        return any(name in BY_HEAD for name in self.methods)

    def gradient_settings(self) -> GradientSettings:
        """How losses and gradients are evaluated."""
        return GradientSettings(self.precision, self.batch_tokens, stack_bytes=0)


def _require(holds: bool, argument: str, law: str, found: object) -> None:
    if not holds:
        raise SettingsError(
            argument, law=law, found=found, remedy="Change it in the settings file or command."
        )
