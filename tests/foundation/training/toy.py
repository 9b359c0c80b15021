"""Five terms as the wings have them: the next token, states through a projector, a router's balance, attention maps, and a fused head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tests.foundation.training import tiny
from torch import Tensor, nn
from torch.nn import functional

from crosstune.foundation.training import Needs, NextToken, Seen, Terms

TEACHER = {"hidden_size": 24, "num_hidden_layers": 3}


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def predicts(seen: Seen) -> Tensor:
    """Positions whose next token is scored, [B, T - 1]."""
    return seen.batch["labels"][:, 1:] != -100


class Hidden(nn.Module):
    """The second model's states, through a learned projector."""

    name, unit = "hidden", "tokens"
    needs = Needs(states=frozenset({1}), second=Needs(states=frozenset({2})))

    def __init__(self, weight: Callable[[int], float] = lambda step: 0.3 * (step > 0)) -> None:
        super().__init__()
        self.weight = weight
        self.settings: dict[str, Any] = {}
        self.projector = seeded(lambda: nn.Linear(16, 24), 1)

    def sums(self, seen: Seen) -> Tensor:
        gap = self.projector(seen.states[1].float()) - seen.second.states[2].float()
        return gap.square().mean(dim=-1)[:, :-1][predicts(seen)].sum(dtype=torch.float64)


class Balance(nn.Module):
    """A router's load balance, with the loads of the optimizer step before."""

    name, unit = "balance", "tokens"
    needs = Needs(states=frozenset({2}))

    def __init__(self, experts: int = 3) -> None:
        super().__init__()
        self.settings = {"experts": experts}
        self.gate = seeded(lambda: nn.Linear(16, experts, bias=False), 2)
        self.register_buffer("loads", torch.full((experts,), 1 / experts))

    def weight(self, step: int) -> float:
        return 0.5

    def sums(self, seen: Seen) -> Tensor:
        return (len(self.loads) * self._gates(seen) @ self.loads).sum(dtype=torch.float64)

    def observe(self, seen: Seen) -> Tensor:
        return self._gates(seen).detach().square().sum(dim=0)

    def renew(self, total: Tensor) -> None:
        self.loads.copy_(total / total.sum())

    def _gates(self, seen: Seen) -> Tensor:
        return (4 * self.gate(seen.states[2].float()))[:, :-1][predicts(seen)].softmax(dim=-1)


class Attention:
    """The second model's attention maps."""

    name, unit = "attention", "tokens"
    needs = Needs(maps=frozenset({0}), second=Needs(maps=frozenset({1})))

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def weight(self, step: int) -> float:
        return 2.0 * (step > 0)

    def sums(self, seen: Seen) -> Tensor:
        gap = (seen.maps[0].float() - seen.second.maps[1].float()).square().sum(dim=-1)
        return gap.mean(dim=1)[:, :-1][predicts(seen)].sum(dtype=torch.float64)


@dataclass(frozen=True)
class Entry:
    name: str
    unit: str
    needs: Needs
    weight: Callable[[int], float]


class FusedHead:
    """Divergence from the second model's scores, and the squared normaliser, from one projection."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.settings: dict[str, Any] = {}
        both = Needs(last_hidden_state=True, second=Needs(logits=True))
        self.entries = (
            Entry("kd", "tokens", both, lambda step: 0.7 if step else 0.0),
            Entry("z", "rows", Needs(last_hidden_state=True), lambda step: 0.01),
        )

    def fused(
        self, seen: Seen, factors: Mapping[str, float]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        head = seen.model.get_output_embeddings().weight
        scores = (seen.last_hidden_state.float() @ head.T)[:, :-1][predicts(seen)]
        sums = {}
        if "kd" in factors:
            target = seen.second.logits.float()[:, :-1][predicts(seen)].log_softmax(dim=-1)
            guess = scores.log_softmax(dim=-1)
            sums["kd"] = functional.kl_div(guess, target, log_target=True, reduction="sum")
        if "z" in factors:
            sums["z"] = scores.logsumexp(dim=-1).square().sum()
        share = sum(factors[name] * value for name, value in sums.items())
        return self.scale * share, {name: value.detach() for name, value in sums.items()}


def teacher() -> nn.Module:
    return tiny.model(seed=9, **TEACHER)


def terms() -> Terms:
    members = (NextToken(), Hidden(), Balance(), Attention(), FusedHead())
    return Terms(members, second_model=teacher())
