"""One segment: both ends are met exactly, the middle is the mean, kept gradients are used once."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.interference import tiny

from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.gradients.gradients import block_gradient, evaluating, trainable_names
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings
from crosstune.foundation.models import gradient_sites
from crosstune.interference.ledger.accounts import Reference
from crosstune.interference.ledger.integrator import Integrator, WeightSegment, copy_weights
from crosstune.interference.ledger.quadrature import Tolerance

SETTINGS = GradientSettings()
BLOCKS = make_blocks("en", tiny.rows("en", 20), tiny.tokenizer(), BlockSettings(2, 3, 16))


def nudged(model: torch.nn.Module, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))


@pytest.mark.parametrize("precision", ["float32", "model"])
def test_both_ends_are_met_exactly_and_nothing_stays_changed(precision: str) -> None:
    model = tiny.llama()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    first = copy.deepcopy(model)
    start = copy_weights(model, trainable_names(model), "cpu")
    nudged(model, 1)
    last = copy.deepcopy(model)
    settings = GradientSettings(precision=precision)

    def here(some: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: p.detach().float().clone() for name, p in some.named_parameters()}

    with evaluating(model, settings):
        segment = WeightSegment(model, start)
        places = {}
        for t in (0.0, 0.5, 1.0):
            with segment.at(t):
                places[t] = here(model)
    for name, value in here(first).items():
        assert torch.equal(places[0.0][name], value)
    for name, value in here(last).items():
        assert torch.equal(places[1.0][name], value)
        assert torch.equal(here(model)[name], value)
        mean = (places[0.0][name] + value) / 2
        torch.testing.assert_close(places[0.5][name], mean, rtol=0.01, atol=1e-6)  # bfloat16: 2^-8


def test_kept_gradients_stand_for_the_next_segments_start_once() -> None:
    model = tiny.llama()
    integrator = Integrator(
        gradient_sites(model), trainable_names(model), SETTINGS, Tolerance(1.0, 1.0), 4, keep=True
    )
    reference = Reference("en", "train", BLOCKS)
    costs, changes = [], []
    for seed in range(3):
        start = copy_weights(model, trainable_names(model), "model")
        nudged(model, seed)
        with evaluating(model, SETTINGS):
            found, cost = integrator.integrate(model, WeightSegment(model, start), reference)
            losses = [
                block_gradient(model, block, trainable_names(model), SETTINGS).nats
                / block.expected_tokens
                for block in BLOCKS
            ]
        costs.append(cost)
        changes.append(found.loss + found.change)
        # float32 losses of 3 nats.
        torch.testing.assert_close(changes[-1], torch.tensor(losses).double(), rtol=1e-5, atol=0)
    assert costs == [3, 2, 2]
