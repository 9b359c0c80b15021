"""What a mixture costs a skill at some time, and by whom: the router's gates against the skill's expert alone, and who answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.experts.routing.passes import batches
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.evaluation import RowScores, token_nats
from crosstune.foundation.evaluation.scoring import unit_sums
from crosstune.foundation.models import measuring
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife

POSITIONS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Where the router's cost is told apart by a token's place in its row."""


@dataclass(frozen=True)
class SkillHealth:
    """Held-out rows of one skill at one time: nats summed over each independent row. Intervals are jackknives over these rows."""

    routed: tuple[float, ...]
    """Under the gates of that time."""
    known: tuple[float, ...]
    """With its own expert alone: what no gate can take away."""
    tokens: tuple[float, ...]
    """Its scored tokens."""
    bytes: int
    """UTF-8 bytes that these tokens spell."""
    usage: Mapping[str, float]
    """The mean gate of each of the router's skills over real tokens."""
    by_position: tuple[float, ...]
    """What the router costs from each of `POSITIONS` up to the next, nats per token; NaN where none is scored."""

    @property
    def loss(self) -> Interval:
        """Nats per token under the gates."""
        return self._mean(_exact(self.routed))

    @property
    def known_loss(self) -> Interval:
        """Nats per token of the skill's expert alone; above what it was when it was registered, experts forgot."""
        return self._mean(_exact(self.known))

    @property
    def router_forgetting(self) -> Interval:
        """Nats per token that the gates cost, against the skill's expert alone."""
        return self._mean(_exact(self.routed) - _exact(self.known))

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the text, which compares tokenizers."""
        return sum(self.routed) / self.bytes / math.log(2.0)

    @property
    def entropy(self) -> float:
        """The entropy of `usage` over its largest, from 0 (one answers all) to 1 (all alike); 0 for one skill."""
        shares = torch.tensor([share for share in self.usage.values() if share > 0.0])
        most = math.log(len(self.usage))
        return float(-(shares * shares.log()).sum()) / most if most else 0.0

    def won(self, alone: RowScores) -> Interval:
        """Nats per token that the skill's expert wins against another answer to the same rows, paired."""
        return self._mean(alone.by_unit(alone.nats) - _exact(self.known))

    def forgotten_since(self, then: SkillHealth) -> dict[str, Interval]:
        """Nats per token lost since, paired by rows: `whole` = `experts` (the skill's expert alone) + `router` (the rest)."""
        whole = _exact(self.routed) - _exact(then.routed)
        experts = _exact(self.known) - _exact(then.known)
        parts = {"whole": whole, "experts": experts, "router": whole - experts}
        return {name: self._mean(sums) for name, sums in parts.items()}

    def _mean(self, sums: Tensor) -> Interval:
        """Sum over sum, per token."""
        return ratio_jackknife(sums, self.tokens)


def _exact(sums: Sequence[float]) -> Tensor:
    """The same in float64, [rows]."""
    return torch.tensor(sums, dtype=torch.float64)


def skill_health(mixture: ExpertMixture, skill: str, encoded: Sequence[Encoded]) -> SkillHealth:
    """The cost of gates on held-out rows of a skill, and who answers them.

    Args:
        mixture: It is left as it was. Without a router it answers as the skill's expert does.
        skill: An expert's, or ``base`` for what the model itself answers.
        encoded: Held-out rows of that skill.

    Returns:
        Both losses, and the mean gate of each skill.

    Raises:
        SettingsError: There is no such expert.
        TrainingError: An expert is learning.
    """
    mixture.bank.check_idle("skill_health")
    own = () if skill == BASE else (skill,)
    names = mixture.router.names if mixture.router else ()
    gates, real = torch.zeros(len(names), dtype=torch.float64), 0
    of_rows = torch.zeros(3, len(encoded), dtype=torch.float64)  # routed, known, tokens
    of_places = torch.zeros(3, max(len(row.input_ids) for row in encoded), dtype=torch.float64)
    with measuring(mixture), torch.no_grad():
        for places, batch in batches(mixture, encoded):
            routed, mask = token_nats(mixture, batch), batch["attention_mask"].bool()
            seen = [one.gates[mask].double() for one in mixture.routing.seen.values()]
            gates += sum(some.sum(dim=0).cpu() / len(seen) for some in seen)
            real += int(mask.sum())
            with mixture.answering(*own):
                known = token_nats(mixture, batch)
            scored = batch["labels"][:, 1:] != UNSCORED
            found = torch.stack([routed if names else known, known, scored]).double().cpu()
            of_rows[:, places] = found.sum(dim=2)
            of_places[:, 1 : mask.shape[1]] += found.sum(dim=1)
    ends = zip(POSITIONS, (*POSITIONS[1:], of_places.shape[1]), strict=True)
    parts = [of_places[:, start:stop].sum(dim=1) for start, stop in ends]
    units = [row.unit for row in encoded]
    usage = dict(zip(names, (gates / real).tolist(), strict=True))
    by_position = tuple(float((routed - known) / count) for routed, known, count in parts)
    spelled = sum(row.scored_bytes for row in encoded)
    sums = [tuple(unit_sums(some, units).tolist()) for some in of_rows]
    return SkillHealth(sums[0], sums[1], sums[2], spelled, usage, by_position)
