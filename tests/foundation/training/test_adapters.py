"""An adapter changes nothing until it is trained, and its first values depend on its seed alone."""

from __future__ import annotations

import torch
from tests.foundation.training import tiny

from crosstune.foundation.data import collate
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.training import LoraSettings, with_lora


def test_it_computes_what_it_did_before() -> None:
    batch = collate(tiny.rows(3), 0)
    plain = token_nats(tiny.model(), batch)
    adapted = token_nats(with_lora(tiny.model(), LoraSettings(), seed=0), batch)
    assert torch.equal(adapted, plain)


def test_only_factors_of_the_named_modules_are_trainable() -> None:
    settings = LoraSettings(rank=3, targets=("q_proj", "v_proj"))
    adapted = with_lora(tiny.model(), settings, seed=0)
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert len(trainable) == 2 * 2 * 2  # layers, modules, factors
    assert all("lora_" in name for name in trainable)
    assert {min(value.shape) for value in trainable.values()} == {3}


def test_the_seed_decides_and_the_global_state_does_not() -> None:
    def factors(seed: int, before: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(before)
        state = torch.get_rng_state()
        some = tiny.weights(with_lora(tiny.model(), LoraSettings(), seed))
        assert torch.equal(state, torch.get_rng_state())
        return some

    assert tiny.same_bits(factors(0, before=1), factors(0, before=2))
    assert not tiny.same_bits(factors(0, before=1), factors(1, before=1))
