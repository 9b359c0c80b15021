"""What a teacher offers: the layer's own output under its own gate, each expert by hand, and the states of every layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, PILOT, ROWS, TEACHER
from torch.nn.functional import linear, silu

from crosstune.distillation.offers import ExpertOffers, LayerOffers, routers
from crosstune.distillation.terms.pilot import Pilot, predicting
from crosstune.foundation.models import Stream, model_inputs
from crosstune.foundation.training import Seen


def looked(offers: ExpertOffers, teacher: Any, rows: Any, *paths: str) -> list[Any]:
    """Offers that have looked at rows, and what modules of the teacher took and gave at scored tokens."""
    batch = pair.batch_of(rows)
    where, found = predicting(batch["labels"]), []
    handles = [
        teacher.get_submodule(path).register_forward_hook(lambda *call: found.append(call))
        for path in paths
    ]
    with torch.no_grad():
        teacher(**model_inputs(batch))
    for handle in handles:
        handle.remove()
    offers.look(Seen(model=teacher), where)
    return [
        (ins[0].reshape(-1, 24)[where.flatten()], out.reshape(-1, 24)[where.flatten()])
        for _, ins, out in found
    ]


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_under_the_teachers_own_gate_it_is_the_layers_own_output(kind: str) -> None:
    teacher = pair.mixture(kind)
    assert [*routers(teacher)] == [0, 1, 2]
    offers = ExpertOffers(teacher, Pilot.of(teacher, ROWS, 0, [3]))
    whole = "model.layers.2.mlp" + (".experts" if kind == "qwen2_moe" else "")  # one is shared
    ((_, output),) = looked(offers, teacher, NEW, whole)
    torch.testing.assert_close(offers.gated(*offers.used) / offers.scale, output)
    torch.testing.assert_close(offers.own.sum(dim=1), torch.ones(len(output)))
    if kind == "mixtral":  # whose gates sum to 1
        wide = torch.stack([*offers.each()], dim=1)
        torch.testing.assert_close((offers.own[..., None] * wide).sum(1) / offers.scale, output)


def test_each_expert_by_hand() -> None:
    teacher: Any = pair.mixture()
    offers = ExpertOffers(teacher, Pilot.of(teacher, ROWS, 0, [3]))
    assert (offers.blocks, offers.count, offers.needs.states) == ((2,), 4, {3})
    ((inputs, _),) = looked(offers, teacher, NEW, "model.layers.2.mlp")
    experts, router = teacher.model.layers[2].mlp.experts, teacher.model.layers[2].mlp.gate
    for expert, found in enumerate(offers.each()):
        gate, up = linear(inputs, experts.gate_up_proj[expert]).chunk(2, dim=-1)
        expected = linear(silu(gate) * up, experts.down_proj[expert])
        torch.testing.assert_close(found / offers.scale, expected)
        assert not found.requires_grad
    probabilities = linear(inputs, router.weight).softmax(dim=-1)
    kept = probabilities >= probabilities.topk(2).values[:, -1:]
    torch.testing.assert_close(
        offers.own, (probabilities * kept) / (probabilities * kept).sum(1, True)
    )


def test_units_are_the_variance_of_the_layers_output_over_the_pilot() -> None:
    teacher = pair.mixture()
    offers = ExpertOffers(teacher, Pilot.of(teacher, ROWS, 0, [3]))
    ((_, output),) = looked(offers, teacher, ROWS, "model.layers.2.mlp")
    gaps = (output - output.mean(dim=0)) * offers.scale
    assert gaps.square().sum(dim=1).mean().item() == pytest.approx(1.0, rel=1e-4)
    assert offers.gates.shape == offers.own.shape
    torch.testing.assert_close(offers.gates.mean(dim=0), offers.own.mean(dim=0))


def test_the_hook_goes_when_the_offers_go() -> None:
    teacher: Any = pair.mixture()
    offers = ExpertOffers(teacher, Pilot.of(teacher, ROWS, 0, [3]))
    hooks = teacher.get_submodule(offers.path)._forward_hooks
    assert len(hooks) == 1
    del offers
    assert not hooks


def test_a_dense_teacher_offers_the_states_of_its_layers() -> None:
    batch = pair.batch_of(NEW)
    where = predicting(batch["labels"])
    states = Stream.of(TEACHER).read(batch, range(1, 6))
    offers = LayerOffers(PILOT)
    assert (offers.count, offers.needs.states, [*offers.blocks]) == (5, {*range(1, 6)}, [*range(5)])
    offers.look(Seen(states=states), where)
    expected = [states[site][where] * PILOT.precision[site].sqrt() for site in range(1, 6)]
    torch.testing.assert_close([*offers.each()], expected)
    count = len(expected[0])
    chosen = torch.tensor([[4, 0]]).expand(count, 2)
    weights = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    mixed = weights[:, :1] * expected[4] + weights[:, 1:] * expected[0]
    torch.testing.assert_close(offers.gated(chosen, weights), mixed)
