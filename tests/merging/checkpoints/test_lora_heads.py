"""Endpoints whose output projections move by A compute what they did, and one head's columns move that head alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.models import Anatomy
from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints
from crosstune.merging.checkpoints.live import at_start
from crosstune.merging.checkpoints.lora_heads import by_input

ALL = {"target_modules": ["q_proj", "o_proj", "down_proj"]}
OUTPUT = "base_model.model.model.layers.0.self_attn.o_proj"


def adapter(seed: int, **options: Any) -> Any:
    return pairs.adapted(pairs.base(), seed=seed, **(ALL | options))


def opened(*ends: Any) -> Endpoints:
    before, *between, after = ends
    return open_endpoints(before, after, between=between, tokenizer=tiny.tokenizer())


def logits_at(ends: Endpoints, at: int) -> torch.Tensor:
    known = dict(ends.model.named_parameters())
    with torch.no_grad():
        for name in ends.names:
            known[name].copy_(ends.tensor(at, name))
    return pairs.logits(ends.model)


def test_a_moves_where_heads_are_columns_of_it_and_b_elsewhere() -> None:
    ends = by_input(opened(pairs.base(), adapter(1)))
    moving = {name.split(".self_attn.")[-1].split(".mlp.")[-1] for name in ends.names}
    assert moving == {
        "q_proj.lora_B.default.weight",
        "o_proj.lora_A.default.weight",
        "down_proj.lora_B.default.weight",
    }


def test_every_end_computes_what_it_did() -> None:
    one, two = adapter(1), adapter(2, r=3, lora_alpha=5)
    for given in ((pairs.base(), two), (one, two), (pairs.base(), one, two)):
        plain, turned = opened(*given), by_input(opened(*given))
        assert torch.equal(pairs.logits(turned.model), pairs.logits(plain.model))
        for at in range(turned.count + 1):
            assert torch.equal(logits_at(turned, at), logits_at(plain, at))


def test_the_change_of_an_output_projection_is_linear_in_every_head() -> None:
    """With heads of 4 columns, a coefficient of each scales its columns of the effective change."""
    ends = by_input(opened(adapter(1), adapter(2, r=3, lora_alpha=5)))
    model = ends.model
    known = dict(model.named_parameters())
    name = f"{OUTPUT}.lora_A.default.weight"
    weights = torch.tensor([0.0, 0.3, 0.7, 1.0])
    layer = model.get_submodule(OUTPUT)

    def effective(a: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            known[name].copy_(a)
        return layer.get_delta_weight("default").detach().double()

    before, after = (effective(ends.tensor(at, name)) for at in (0, 1))
    by_column = weights.repeat_interleave(4)
    blended = effective(torch.lerp(ends.tensor(0, name), ends.tensor(1, name), by_column))
    wanted = before + by_column.double() * (after - before)
    # float32: seven products and the interpolation of A, 6e-8 each, of entries up to ~1
    torch.testing.assert_close(blended, wanted, rtol=1e-5, atol=1e-6)
    heads = [p for p in Anatomy.of(model).by_head().parts_of(name) if p.site.head is not None]
    assert [part.take(known[name]).shape for part in heads] == [(5, 1, 4)] * 4


def test_full_models_are_as_they_were() -> None:
    before = tiny.llama()
    ends = open_endpoints(before, pairs.moved(before), tokenizer=tiny.tokenizer())
    assert by_input(ends) is ends


def test_a_live_adapter_is_turned_where_it_is() -> None:
    model = adapter(3, fresh=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    before = at_start(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.1)
    kept = {name: value.detach().clone() for name, value in model.named_parameters()}
    ends = by_input(Endpoints.in_place(model, before, tiny.tokenizer()))
    assert all(torch.equal(kept[name], value) for name, value in model.named_parameters())
    assert torch.equal(logits_at(ends, 0), pairs.logits(pairs.base()))
    logits_at(ends, 1)
    assert all(torch.equal(kept[name], value) for name, value in model.named_parameters())


def test_two_ends_that_share_an_a_are_refused() -> None:
    one, two = adapter(1), adapter(1)
    with torch.no_grad():
        for name, parameter in two.named_parameters():
            if "lora_B" in name:
                parameter.mul_(2.0)
    ends = opened(one, two)
    with pytest.raises(UnsupportedError, match="share a factor A") as caught:
        by_input(ends)
    assert caught.value.argument == "granularity"
    assert torch.equal(pairs.logits(ends.model), pairs.logits(two))
