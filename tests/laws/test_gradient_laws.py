"""Laws of agreement on a real model: what may not matter, what a cosine of 1 and −1 is, what U_AB foretells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.interference import known_sources, tiny
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from crosstune.foundation.data import collate
from crosstune.foundation.gradients import gradients
from crosstune.foundation.gradients.batched import Stack
from crosstune.foundation.gradients.blocks import Block
from crosstune.foundation.gradients.gradients import evaluating
from crosstune.interference.conflict.collect import CurrentGradients, collect_sums
from crosstune.interference.conflict.comparison import Comparison
from crosstune.interference.conflict.cosine import PairSums, agreement, conflicts

FIGURES = ("own_a", "within_a", "across_a", "own_b", "within_b", "across_b")
ROUNDING = 2e-5  # float32: 1e3 terms (tokens × width) in another order, 1.2e-7 * sqrt(1e3), times a condition of 5


def measured(tasks: Any = None, **options: Any) -> PairSums:
    model = tiny.llama()
    compared = known_sources.comparison(model, tasks, replace(known_sources.SMALL, **options))
    return next(iter(compared.sums(model)["current"].values()))


def assert_close(one: PairSums, other: PairSums) -> None:
    for name in FIGURES:
        found, expected = getattr(one, name), getattr(other, name)
        scale = expected.abs().amax(0)  # of each site
        assert bool(((found - expected).abs() <= ROUNDING * scale).all()), name


def test_the_batch_split_does_not_matter() -> None:
    assert_close(measured(), measured(batch_tokens=1))


def test_the_order_of_rows_does_not_matter() -> None:
    turned = {"en": tiny.rows("en", 24)[::-1], "bn": tiny.rows("bn", 24, start=100)[::-1]}
    assert_close(measured(), measured(turned))


def test_the_padding_side_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    right = measured()
    monkeypatch.setattr(gradients, "collate", partial(collate, side="left"))
    assert_close(right, measured())


def test_another_seed_does_matter() -> None:
    with pytest.raises(AssertionError):
        assert_close(measured(), measured(seed=1))


def test_the_same_rows_agree_exactly() -> None:
    rows = tiny.rows("en", 24)
    found = agreement(measured({"one": rows, "two": rows}))
    positive = found.u.aa > 0
    assert int(positive.sum()) >= 6  # of 19; 16 ± 3 over seeds
    # The same float32 products summed in the same order: float64 figures that differ in nothing but the masked pairs.
    torch.testing.assert_close(
        found.u.cosine[positive], torch.ones_like(found.u.cosine[positive]), rtol=0, atol=1e-6
    )


def test_the_opposite_of_the_loss_on_other_rows_disagrees_entirely() -> None:
    model = tiny.llama()
    rows = tiny.rows("en", 512, grouped=False)
    settings = replace(known_sources.SMALL, blocks=16, rows_per_block=16)
    compared = known_sources.comparison(model, {"en": rows[:256], "opposite": rows[256:]}, settings)
    with evaluating(model, settings.gradient_settings()):
        sources = [
            Scaled(model, compared, task, sign) for task, sign in (("en", 1.0), ("opposite", -1.0))
        ]
        sums = collect_sums(sources, compared.pairs, compared.anatomy)["en", "opposite"]
    found = agreement(sums)
    low, high = found.cosine.low[found.resolved], found.cosine.high[found.resolved]
    assert int(found.resolved.sum()) >= 8  # of 19; 16 ± 2 over seeds
    # The median of 16 sites scatters by 0.012 over seeds.
    torch.testing.assert_close(
        found.cosine.value[found.resolved].median(), torch.tensor(-1.0).double(), atol=0.05, rtol=0
    )
    assert float(((low <= -1) & (high >= -1)).double().mean()) >= 0.8
    assert bool(conflicts(found.inner)[0][found.resolved].any())


class Scaled(CurrentGradients):
    """A task whose loss is multiplied by a number."""

    def __init__(self, model: Any, compared: Comparison, task: str, factor: float) -> None:
        settings = compared.settings.gradient_settings()
        super().__init__(model, compared.blocks[task], compared.parameters, settings, keep=True)
        self.factor = factor

    def stacks(self, indices: Sequence[int]) -> Iterator[Stack]:
        for stack in super().stacks(indices):
            scaled = {name: self.factor * value for name, value in stack.gradients.items()}
            yield stack._replace(gradients=scaled)


def float64_loss(model: Any, blocks: tuple[Block, ...]) -> float:
    """Mean over blocks of (summed nats / expected tokens), in float64, one row at a time."""
    total = 0.0
    for block in blocks:
        for row in block.rows:
            with torch.no_grad():
                logits = model(torch.tensor([row.input_ids])).logits[0, :-1]
            labels = torch.tensor(row.labels)[1:]
            scored = labels != -100
            logs = logits.log_softmax(-1)[scored]
            total -= float(logs.gather(1, labels[scored][:, None]).sum()) / block.expected_tokens
    return total / len(blocks)


def float64_norm(self: Any, hidden: Tensor) -> Tensor:
    """LlamaRMSNorm without its excursion to float32, which would drown a finite difference."""
    mean_square = hidden.square().mean(-1, keepdim=True)
    return self.weight * hidden * torch.rsqrt(mean_square + self.variance_epsilon)


@pytest.mark.parametrize("build", [tiny.llama, tiny.lora], ids=["full", "lora"])
def test_a_step_on_b_changes_the_loss_of_a_by_the_inner_product(
    build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L_A(θ − ε g_B) − L_A(θ) → −ε ⟨g_A, g_B⟩, in each component by itself."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", float64_norm)
    model = build().double().eval()
    settings = replace(known_sources.SMALL, blocks=2)
    compared = known_sources.comparison(model, None, settings)
    sums = compared.sums(model)["current"]["en", "bn"]
    predicted = sums.across_a.sum(0) / 4  # ⟨mean of 2 blocks of A, mean of 2 blocks of B⟩
    with evaluating(model, settings.gradient_settings()):
        source = CurrentGradients(
            model, compared.blocks["bn"], compared.parameters, settings.gradient_settings(), True
        )
        first, second = source.gradient(0), source.gradient(1)
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    weights = dict(model.named_parameters())
    epsilon = 1e-4
    for place, site in enumerate(compared.sites):
        change = {}
        for sign in (1, -1):
            _move(compared, weights, mean, site, -sign * epsilon)
            change[sign] = float64_loss(model, compared.blocks["en"])
            _move(compared, weights, mean, site, sign * epsilon)
        slope = (change[1] - change[-1]) / (2 * epsilon)  # central: the error is of order ε²
        # Float64: 2.2e-16 * 10 nats / ε = 2e-11 of rounding, and ε² = 1e-8 times a third derivative.
        scale = float((sums.own_a[:, place].sum() * sums.own_b[:, place].sum()).sqrt()) + 1e-12
        assert abs(slope + float(predicted[place])) <= 2e-6 * scale, str(site)


def _move(compared: Comparison, weights: Any, mean: Any, site: Any, by: float) -> None:
    for part in compared.anatomy.parts:
        if part.site == site:
            with torch.no_grad():
                part.take(weights[part.parameter]).add_(part.take(mean[part.parameter]), alpha=by)
