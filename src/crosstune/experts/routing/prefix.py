"""The analytic router: which skill a token belongs to, read from its prefix by ridge regression on sums that can be added up.

Of a skill nothing is kept but sums over its tokens, so the order of skills does not matter, no rows are replayed, and a skill can
be taken out again. The nearest published router is Any-SSR's (arXiv 2503.13575: recursive least squares on pooled features, one
task at a time); this one is per token and causal, so that it also routes while text is generated. All is float64 up to the
results, which automatic mixed precision leaves alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import exp, log
from operator import add

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from crosstune.foundation.errors import DataError, MeasurementError, ModelError, SettingsError, hold
from crosstune.foundation.ranks import sum_over_ranks

RIDGE = 1e-3
"""Of the mean square of all features, what is added to that of each, the constant's too. Of powers of ten the best for stories260K (60 rows of 128 tokens a skill), where from 1e-6 to .01 held-out loss moves by .006."""

TEMPERATURES = (1e-3, 1e3)  # scores differ by about 1, so from one-hot gates to uniform ones

WIDEST = 256
"""Wider states are read through a fixed random projection to so many dimensions: what is kept of a skill grows with their square."""
NO_FLOAT64 = ("mps",)
"""Devices without float64, whose statistics are made on the CPU."""


@dataclass(frozen=True)
class PrefixState:
    """What goes along with a KV cache: the sum of the states of each row's last sequence, float64 [B, d], and how many, int64 [B]."""

    total: Tensor
    count: Tensor


def exact(values: Tensor) -> Tensor:
    """The same in float64, where there is float64."""
    return (values.cpu() if values.device.type in NO_FLOAT64 else values).double()


def narrowed(states: Tensor) -> Tensor:
    """States [B, T, d] as an analytic router reads them, of at most `WIDEST` dimensions."""
    width = states.shape[-1]
    if width <= WIDEST:
        return states
    draws = torch.Generator().manual_seed(width)
    projection = torch.randn(width, WIDEST, generator=draws) / WIDEST**0.5
    found: Tensor = states @ projection.to(states)
    return found


def prefix_features(
    states: Tensor, positions: Tensor, state: PrefixState | None = None
) -> tuple[Tensor, PrefixState]:
    """Each token's state, the mean of the states of its own sequence up to and including it, and 1.

    Shapes: `states` [B, T, d], `positions` [B, T]; features [B, T, 2d + 1], float32.

    A sequence begins wherever its position is 0, so packed documents are apart, and each token of padding on the left is a sequence.
    Rows whose first position is above 0 go on from `state`, which the call for the tokens before returned.
    """
    device, states = states.device, exact(states)
    positions = positions.to(states.device)
    goes_on = positions[:, 0] > 0
    count = torch.zeros_like(positions[:, 0])
    sums = states.cumsum(dim=1)
    before = torch.zeros_like(sums[:, 0])
    if state is not None:
        count = torch.where(goes_on, state.count, count)
        before = torch.where(goes_on[:, None], state.total, before)
    found = f"{count.tolist()} tokens before first positions {positions[:, 0].tolist()}"
    law, remedy = "must have summed all tokens before", "Hand on the last call's; pad on the left."
    hold(torch.equal(count, positions[:, 0]), MeasurementError, "state", (law, found, remedy))
    places = torch.arange(positions.shape[1], device=positions.device)
    starts = torch.where(positions == 0, places, 0).cummax(dim=1).values
    counts = places + 1 - starts + torch.where(starts == 0, count[:, None], 0)
    until = torch.cat([-before[:, None], sums], dim=1)  # up to each place, itself left out
    own = sums - until.gather(1, starts[..., None].expand_as(sums))
    ones = torch.ones_like(own[..., :1])
    features = torch.cat([states, own / counts[..., None], ones], dim=-1)
    return features.float().to(device), PrefixState(own[:, -1], counts[:, -1])


@dataclass(frozen=True)
class SkillSums:
    """All that is kept of a skill: sums over its tokens of the features, `x` [F], and of their products, `xx` [F, F]; float64."""

    xx: Tensor
    x: Tensor
    tokens: float

    @classmethod
    def of(cls, features: Tensor, mask: Tensor) -> SkillSums:
        """The sums of finite features [B, T, F] over the tokens where `mask` [B, T] is not 0."""
        rows = _finite(features[mask.bool()])
        return cls(rows.T @ rows, rows.sum(dim=0), float(len(rows)))

    def __add__(self, other: SkillSums) -> SkillSums:
        """The sums over the tokens of both."""
        return SkillSums(self.xx + other.xx, self.x + other.x, self.tokens + other.tokens)

    def reduced(self) -> SkillSums:
        """The sums over all processes, the same bits on each."""
        tokens = sum_over_ranks(self.x.new_tensor(self.tokens)).item()
        return SkillSums(sum_over_ranks(self.xx), sum_over_ranks(self.x), tokens)


class PrefixRouter:
    """Scores by ridge regression of one-hot skills on features; every skill weighs alike, as its sums are divided by its tokens."""

    def __init__(self) -> None:
        self.ridge = RIDGE
        self.temperature = 1.0
        self._skills: dict[str, SkillSums] = {}
        self._rows: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The skills, in the order in which they came and in which gates stand."""
        return tuple(self._skills)

    def learn(self, name: str, sums: SkillSums) -> None:
        """Take in a skill that has tokens, in features as wide as those before; what is known of it already is added."""
        hold(sums.tokens > 0, DataError, name, ("must have tokens", 0, "Give it more rows."))
        self._check_width(len(sums.x))
        sums = SkillSums(sums.xx.cpu(), sums.x.cpu(), sums.tokens)
        self._skills[name] = self._skills[name] + sums if name in self._skills else sums
        self._rows = None

    def forget(self, name: str) -> None:
        """Be as if a known skill had never come, but for the temperature."""
        del self._skills[name]
        self._rows = None

    def merge(self, names: Sequence[str], into: str) -> None:
        """Take known skills for one, whose tokens are those of all of them."""
        sums = reduce(add, [self._skills[name] for name in names])
        for name in names:
            self.forget(name)
        self.learn(into, sums)

    def gates(self, features: Tensor) -> Tensor:
        """The share of each skill in each token, [B, T, K] of `prefix_features` [B, T, F], in the order of `names`, float32."""
        return self.logits(features).softmax(dim=-1).float()

    def logits(self, features: Tensor) -> Tensor:
        """What the softmax is taken of, [..., K] of [..., F], float64; the regression is solved once after a skill came or went."""
        words = "must know a skill", "none", "Call `learn` first."
        hold(bool(self._skills), MeasurementError, "router", words)
        self._check_width(features.shape[-1])
        if self._rows is None:
            skills = self._skills.values()
            xx = torch.stack([sums.xx / sums.tokens for sums in skills]).sum(dim=0)
            xx.diagonal().add_(self.ridge * xx.diagonal().mean())
            xy = torch.stack([sums.x / sums.tokens for sums in skills], dim=1)
            self._rows = torch.linalg.solve(xx, xy)
        features = _finite(features)
        self._rows = self._rows.to(features.device)
        return features @ self._rows / self.temperature

    def tune(self, features: Mapping[str, Tensor]) -> None:
        """Set the temperature (.001 to 1000) at which −log of the right skill's gate is least; that is convex in 1 / temperature.

        Args:
            features: Tokens [..., F] of every skill, without padding, that it did not learn from; each skill weighs alike.
        """
        given = sorted(name for name, rows in features.items() if rows.numel())
        law = f"must have tokens of each skill that is known, {sorted(self.names)}, and no other"
        words = law, given, "Keep rows of each aside."
        hold(given == sorted(self.names) != [], DataError, "features", words)
        self.temperature = 1.0
        scores = {self.names.index(name): self.logits(rows) for name, rows in features.items()}

        def loss(logarithm: float) -> float:
            logs = [(s / exp(logarithm)).log_softmax(-1)[..., at] for at, s in scores.items()]
            return -sum(found.mean().item() for found in logs)

        bounds = [log(end) for end in TEMPERATURES]
        self.temperature = exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)

    def tensors(self) -> dict[str, Tensor]:
        """All that the router is, by name, as safetensors stores it."""
        numbers = {"ridge": self.ridge, "temperature": self.temperature}
        found: dict[str, Tensor] = {}
        for at, (name, sums) in enumerate(self._skills.items()):
            found |= {f"skills.{at}.xx.{name}": sums.xx, f"skills.{at}.x.{name}": sums.x}
            numbers[f"skills.{at}.tokens.{name}"] = sums.tokens
        return found | {key: torch.tensor(n, dtype=torch.float64) for key, n in numbers.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the router whose `tensors` these are, in whatever order they come."""
        skills: dict[tuple[int, str], dict[str, Tensor]] = {}
        for key in tensors.keys() - {"ridge", "temperature"}:
            _, at, part, name = key.split(".", 3)
            skills.setdefault((int(at), name), {})[part] = tensors[key]
        self._skills = {
            name: SkillSums(found["xx"], found["x"], found["tokens"].item())
            for (_, name), found in sorted(skills.items())
        }
        self.ridge, self.temperature = (tensors[name].item() for name in ("ridge", "temperature"))
        self._rows = None

    def _check_width(self, found: int) -> None:
        """Hold features to the width that the skills have."""
        width = next((len(known.x) for known in self._skills.values()), found)
        words = f"must be {width} wide, as those of the skills", found, "Read the same base."
        hold(found == width, ModelError, "features", words)


def largest(gates: Tensor, top: int, *, renormalise: bool = False) -> Tensor:
    """The `top` largest gates [..., K], the others 0; scaled up to sum to 1 where that is asked for."""
    law = f"must be from 1 to the number of skills, {gates.shape[-1]}"
    hold(0 < top <= gates.shape[-1], SettingsError, "top", (law, top, "Keep fewer."))
    kept = gates.topk(top, dim=-1)
    values = kept.values / kept.values.sum(dim=-1, keepdim=True) if renormalise else kept.values
    return torch.zeros_like(gates).scatter(-1, kept.indices, values)


def _finite(features: Tensor) -> Tensor:
    """The same in float64; what is NaN or infinite would spoil every sum and gate."""
    words = "must be finite", "NaN or infinite", "Look at the states of the base at this site."
    hold(bool(features.isfinite().all()), MeasurementError, "features", words)
    return exact(features)
