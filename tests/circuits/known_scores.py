"""Scores of known gradients, made by the formulas alone: what a tile engine gives, without an engine or a model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.scoring.engine import BlockScores
from crosstune.circuits.scoring.fisher import FisherFacts
from crosstune.circuits.scoring.independent import IndependentMeans
from crosstune.circuits.settings import CircuitSettings, Form

ELEMENTS = 12
SETTINGS = CircuitSettings(min_samples=2, damping_share=0.0)


@dataclass(frozen=True)
class Heads:
    """A model's heads, by number only."""

    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 2

    def projection(self, layer: int, block: str) -> SimpleNamespace:
        return SimpleNamespace(weight=f"layers.{layer}.{block}_proj.weight")

    def count(self, block: str) -> int:
        return self.num_kv_heads if block in "kv" else self.num_heads


def rows(task: str, n: int, group: int = 0) -> tuple[FactorRow, ...]:
    """n rows of a task, `group` to a group, or alone."""
    return tuple(
        FactorRow(
            row_id=f"{task}-{at}",
            group=f"{task}-group-{at // group}" if group else None,
            unit=f"{task}-group-{at // group}" if group else f"{task}-{at}",
            tokens=5 + at,
            text=f"what {task} {at} says",
            loss=1.5 + at,
        )
        for at in range(n)
    )


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class World:
    """Gradients [n, layers, heads, elements] of each block, and rows, of two tasks.

    `shift` adds one direction to every gradient of A and `lean` times it to every one of B: synergy above 0, conflict below.
    """

    n_a: int = 8
    n_b: int = 6
    heads: Heads = Heads()
    shift: float = 0.0
    lean: float = 0.0
    seed: int = 0
    settings: CircuitSettings = SETTINGS
    rows_a: tuple[FactorRow, ...] = ()
    rows_b: tuple[FactorRow, ...] = ()
    order_a: tuple[int, ...] = ()
    order_b: tuple[int, ...] = ()
    scale: dict[str, float] = field(default_factory=dict)

    def gradients(self, block: str) -> tuple[Tensor, Tensor]:
        shape = (self.heads.num_layers, self.heads.count(block), ELEMENTS)
        at = 10 * "qkvo".index(block) + 100 * self.seed
        a = noise(self.n_a, *shape, seed=at) + self.shift
        b = noise(self.n_b, *shape, seed=at + 1) + self.lean * self.shift
        times = self.scale.get(block, 1.0)
        return times * a[list(self.order_a or range(self.n_a))], times * b[
            list(self.order_b or range(self.n_b))
        ]

    def layer(self, layer: int) -> dict[str, BlockScores]:
        """The measured heads of one layer, scored by the formulas."""
        found = {}
        for block in self.settings.blocks:
            heads = sorted(self.settings.heads or range(self.heads.num_heads))
            served = {head // 2 if block in "kv" else head for head in heads}
            sides = (g[:, layer, sorted(served)] for g in self.gradients(block))
            found[block] = block_scores(*sides, self.settings)
        return found

    def begin(self, **given: object) -> CircuitScores:
        """Scores without layers."""
        a = self.rows_a or rows("a", self.n_a)
        b = self.rows_b or rows("b", self.n_b)
        a = tuple(a[at] for at in self.order_a or range(self.n_a))
        b = tuple(b[at] for at in self.order_b or range(self.n_b))
        return CircuitScores.create(a, b, self.heads, self.settings, **given)

    def scores(self, **given: object) -> CircuitScores:
        """All layers, scored."""
        scores = self.begin(**given)
        for layer in scores.layers:
            scores.put(layer, self.layer(layer))
        return scores.finish()

    def with_settings(self, **options: object) -> World:
        return replace(self, settings=replace(self.settings, **options))


def metric(a: Tensor, b: Tensor, form: Form) -> Tensor:
    """The Fisher of a form, [heads, elements]."""
    fisher = a.square().mean(0)
    return (fisher + b.square().mean(0)) / 2 if form.fisher == "pooled" else fisher


def own_scores(g: Tensor, fisher: Tensor, form: Form) -> Tensor:
    """The mean score of each sample with the others of its task, [n, heads]."""
    taken = g.abs() if form.variant == "symmetric" else g
    pairs = torch.einsum("i...k,j...k->ij...", taken / fisher, taken)
    pairs[range(len(g)), range(len(g))] = 0.0
    return (pairs.sum(1) / (len(g) - 1)).float()


def pair_scores(a: Tensor, b: Tensor, form: Form) -> Tensor:
    """[nA, nB, heads] by the formula, undamped; [1, nB, heads] for ewc."""
    fisher = metric(a, b, form)
    if form.variant == "ewc":
        return (fisher * b.square()).sum(-1)[None]
    left, right = {
        "directional": (a.square(), b.abs()),
        "signed": (a, b),
        "symmetric": (a.abs(), b.abs()),
    }[form.variant]
    return torch.einsum("i...k,j...k->ij...", left / fisher, right)


def halves(scores: Tensor) -> Tensor:
    """Means over even and odd places of the first axis."""
    return torch.stack([scores[0::2].mean(0), scores[1::2].mean(0)])


def block_scores(a: Tensor, b: Tensor, settings: CircuitSettings) -> BlockScores:
    """What an engine gives for gradients [n, heads, elements]."""
    pairs = {form: pair_scores(a, b, form) for form in settings.forms}
    averaged = {
        form: pair_scores(a, b, form).expand(len(a), -1, -1) for form in settings.average_forms
    }
    fisher = a.square().mean(0)
    facts = FisherFacts(
        min=fisher.amin(-1),
        median=fisher.median(-1).values,
        max=fisher.amax(-1),
        below_epsilon=(fisher < settings.epsilon).double().mean(-1),
        damping=settings.damping_share * fisher.median(-1).values,
    )
    return BlockScores(
        heads=tuple(range(a.shape[1])),
        pairs={form: found.float() for form, found in pairs.items()},
        columns={form: halves(found).float() for form, found in averaged.items()},
        rows={form: halves(found.transpose(0, 1)).float() for form, found in averaged.items()},
        independent={
            form: IndependentMeans(
                own_scores(a, metric(a, b, form), form),
                own_scores(b, metric(a, b, form), form),
                averaged[form].mean(1).float(),
                averaged[form].mean(0).float(),
            )
            for form in settings.average_forms
            if form.variant in ("signed", "symmetric")
        },
        l1_b=b.abs().sum(-1),
        norm_a=a.norm(dim=-1),
        norm_b=b.norm(dim=-1),
        fishers={"task_a": facts},
    )
