"""The next token's distribution as two entries of one computation: ce = −Σ ln p(label) and kd = T² Σ D(q, p), over scored tokens.

Unit: nats, divided by scored tokens. Zero point: kd is 0, with no gradient, where student and teacher give the same distributions; ce
is never below the entropy of the text. Formulas and sources stand in `divergences` and `head`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from crosstune.distillation.cache import CachedTeacher
from crosstune.distillation.curriculum import Schedule
from crosstune.distillation.divergences import Divergence
from crosstune.distillation.head import Head, Side, check_head, head_sums
from crosstune.foundation.data import UNSCORED
from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.training.terms import Needs, Seen, Unit

_OWN = Needs(last_hidden_state=True)
_NEEDS = {"ce": _OWN, "kd": Needs(last_hidden_state=True, second=_OWN)}


@dataclass(frozen=True)
class _Entry:
    """An entry of the ledger."""

    name: str
    weight: Schedule
    needs: Needs
    unit: Unit = "tokens"


class DistributionTerms:
    """The group of ``ce`` and ``kd``, or one of them; what has no factor at a step is not computed, and without kd no teacher runs.

    On held-out rows it is the same function, at the temperature of the step they are looked at after.

    Args:
        student: The model that is trained; kept by nobody here.
        teacher: The second model, for ``kd``, or a cache of it.
        weights: When each entry counts.
        divergence: What kd sums; None: forward KL over the whole vocabulary.
        temperature: T, or T at the first and at the last step, with a straight line between.
        steps: The optimizer steps of that line.

    Raises:
        SettingsError: The vocabularies do not fit, or a cache does not say the divergence.
        ModelError: A model has no head.
        UnsupportedError: A head is more than a linear layer, a scale and a cap.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        weights: Mapping[str, Schedule],
        divergence: Divergence | None = None,
        *,
        temperature: float | tuple[float, float] = 1.0,
        steps: int = 1,
    ) -> None:
        self.divergence, self.steps = divergence or Divergence(), steps
        self.ends = (temperature,) * 2 if isinstance(temperature, int | float) else temperature
        check_head(student)
        if "kd" in weights:
            if isinstance(teacher, CachedTeacher):
                size, k, chosen = teacher.vocabulary, teacher.top_k, self.divergence
                plain = chosen.mixture == 0.0 and chosen.vocabulary in (None, size)
                law = f"must be forward, at temperature 1, of at most the {k} tokens in the cache"
                words = law, f"{chosen} at {self.ends}", "Cache states, which say all."
                fits = plain and self.ends == (1.0, 1.0) and (chosen.top_k or 0) <= (k or 0)
                hold(k is None or fits, SettingsError, "divergence", words)
            else:
                check_head(teacher)
                size = len(Head.of(teacher).weight)
            self.divergence.size(len(Head.of(student).weight), size)
        self.entries = tuple(
            _Entry(name, weights[name], needs) for name, needs in _NEEDS.items() if name in weights
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of each entry its weight's, and what else kd is made with."""
        found: dict[str, Any] = {entry.name: entry.weight.settings for entry in self.entries}
        if "kd" in found:
            own = {"temperature": list(self.ends), "steps": self.steps}
            found["kd"] = {**found["kd"], **asdict(self.divergence), **own}
        return found

    def temperature(self, step: int) -> float:
        """T at an optimizer step, counted from 0: a pure function of it."""
        start, end = self.ends
        return start + (end - start) * min(1.0, step / max(1, self.steps - 1))

    def fused(
        self, seen: Seen, factors: Mapping[str, float]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Σ factor · sum of the micro-batch's scored tokens, and the detached sums."""
        labels = seen.batch["labels"][:, 1:]
        scored = labels != UNSCORED

        def side(one: Any) -> Any:
            states = one.last_hidden_state[:, :-1][scored]
            cached = isinstance(one.model, CachedTeacher)
            return one.model.side(states) if cached else Side(states, Head.of(one.model))

        return head_sums(
            side(seen),
            labels[scored],
            factors,
            side(seen.second) if "kd" in factors else None,
            self.divergence,
            temperature=self.temperature(seen.step),
        )
