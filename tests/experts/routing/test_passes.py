"""Around a forward pass: every block has its own gates, one analytic router fills them all, and a look at the past leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.experts.routing.test_learned import grown
from tests.experts.test_mixture import batch_of, close, folder, logits, rows_of, three  # noqa: F401
from torch import nn

from crosstune.experts.health import skill_health
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.evaluation import score_rows


def test_one_analytic_router_says_it_once_for_all_blocks(three: ExpertMixture) -> None:  # noqa: F811
    logits(three, batch_of(three, "numbers"))
    first, *others = three.routing.gates.values()
    assert others
    assert all(some is not first and some.values is first.values for some in others)
    assert all(some._wide is first._wide for some in others)


def test_each_block_adds_what_its_own_gates_say(folder: Path) -> None:  # noqa: F811
    """Layer by layer, W x + Σ g s B A x in float64."""
    mixture = grown(folder)
    seen = []
    layers = [block.mlp.up_proj for block in mixture.routing.blocks.values()]
    for layer in layers:
        layer.register_forward_hook(lambda _, args, found: seen.append((args[0], found)))
    logits(mixture, batch_of(mixture, "numbers"))
    parts = [routed.gates.double() for routed in mixture.routing.seen.values()]
    assert not torch.allclose(parts[0], parts[1], atol=1e-2)
    for layer, gates, (given, found) in zip(layers, parts, seen, strict=True):
        expected = nn.Linear.forward(layer.base_layer, given).double()
        for at, expert in enumerate(mixture.bank.experts.values(), start=1):
            a, b = (some[expert.adapter].weight.double() for some in (layer.lora_A, layer.lora_B))
            scale = expert.alpha / expert.rank
            expected = expected + gates[..., at, None] * scale * (given.double() @ a.T @ b.T)
        close(found, expected.float())


def test_as_it_was_before_is_without_the_newcomer_and_leaves_no_trace(folder: Path) -> None:  # noqa: F811
    mixture = grown(folder, (("a", None, 2),))
    batch = batch_of(mixture, "numbers")
    before = logits(mixture, batch)
    mixture.spawn("b", rank=2)
    mixture.router.rows["xp_b"].data += 1.0
    now = logits(mixture, batch)
    seen, gates = mixture.routing.seen, mixture.routing.gates[0].values
    with mixture.routing.as_before():
        assert torch.equal(logits(mixture, batch), before)
    assert mixture.routing.seen is seen and mixture.routing.gates[0].values is gates
    assert torch.equal(logits(mixture, batch), now) and not torch.allclose(now, before)


def test_health_knows_a_learned_router(folder: Path) -> None:  # noqa: F811
    mixture = grown(folder, (("numbers", None, 2), ("shapes", None, 2)))
    rows = rows_of(mixture, "numbers", seed=4)
    health = skill_health(mixture, "numbers", rows)
    assert float(health.loss.value) == pytest.approx(score_rows(mixture, rows, pad_id=0).loss)
    assert list(health.usage) == ["base", "numbers", "shapes"]
    assert sum(health.usage.values()) == pytest.approx(1.0)
