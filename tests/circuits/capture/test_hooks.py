"""One pass shows each projection once; what it cannot show truthfully is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.circuits.drawn import rows
from tests.interference import tiny
from torch import Tensor

from crosstune.circuits.capture.hooks import Pass
from crosstune.circuits.capture.scope import Scope
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import MeasurementError, UnsupportedError
from crosstune.foundation.models import HeadMap

ROUNDING = 2e-5  # float32: 1e3 terms in another order, 1.2e-7 * sqrt(1e3), times a condition of ~5
Q0 = "model.layers.0.self_attn.q_proj"


def run(model: Any, **options: Any) -> Pass:
    return Pass(model, Scope.of(HeadMap.of(model), CircuitSettings(**options)), 0)


def test_everything_is_zero_beyond_a_row() -> None:
    some = rows()
    shard = run(tiny.llama().eval())(some)
    for tensors in shard.layers.values():
        for value in tensors.values():
            assert value.shape[:2] == (6, 11)
            for index, row in enumerate(some):
                assert bool((value[index, len(row.input_ids) - 1 :] == 0).all())
                assert bool((value[index, : len(row.input_ids) - 1] != 0).any())


def test_below_the_lowest_layer_nothing_is_differentiated() -> None:
    model = tiny.llama().eval()
    asked: list[bool] = []
    model.model.layers[0].register_forward_hook(
        lambda module, args, output: asked.append(output.requires_grad)
    )
    run(model, layers=(1,))(rows())
    run(model)(rows())
    assert asked == [False, True]


def test_padding_may_hold_anything() -> None:
    model, some = tiny.llama().eval(), rows()
    clean = run(model)(some)
    mask = torch.zeros(6, 11, 1)
    for index, row in enumerate(some):
        mask[index, len(row.input_ids) - 1 :] = 1.0
    model.model.embed_tokens.register_forward_hook(lambda module, args, x: x + 5.0 * mask)
    found = run(model)(some)
    for layer, tensors in clean.layers.items():
        for name, value in tensors.items():
            atol = ROUNDING * value.abs().max().item()
            torch.testing.assert_close(found.layers[layer][name], value, rtol=0.0, atol=atol)


def called_twice(model: Any) -> None:
    module = model.get_submodule(Q0)
    inner = model.model.layers[0].self_attn.forward

    def forward(hidden_states: Tensor, **keywords: Any) -> Any:
        return inner(hidden_states + 0.0 * module(hidden_states), **keywords)

    model.model.layers[0].self_attn.forward = forward


def used_elsewhere(model: Any) -> None:
    weight = model.get_submodule(Q0).weight
    model.model.norm.register_forward_hook(lambda module, args, output: output + weight.sum())


def fed_apart(model: Any) -> None:
    module = model.model.layers[0].self_attn.k_proj
    module.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def not_called(model: Any) -> None:
    model.model.layers[0].self_attn.forward = lambda hidden_states, **keywords: (
        hidden_states,
        None,
    )


def without_effect(model: Any) -> None:
    model.model.layers[1].register_forward_pre_hook(lambda module, args: (args[0].detach(),))


def flattened(model: Any) -> None:
    module = model.model.layers[0].self_attn.q_proj
    inner = module.forward
    module.register_forward_pre_hook(lambda module, args: (args[0].flatten(0, 1),))
    module.forward = lambda x: inner(x).view(6, 11, -1)


BAD: dict[str, tuple[Callable[[Any], None], str]] = {
    "called twice": (called_twice, "called twice"),
    "used elsewhere": (used_elsewhere, "something beside it used the weight"),
    "another input": (fed_apart, "feeds k another input than q"),
    "not called": (not_called, "its module was not called"),
    "flattened": (flattened, r"its module takes shape \(66, 16\) for 6 rows of 11 tokens"),
    "no effect": (without_effect, "the loss does not depend"),
}


@pytest.mark.parametrize("way", BAD)
def test_what_taps_cannot_show_is_refused(way: str) -> None:
    model = tiny.llama().eval()
    tapped = run(model)
    spoil, words = BAD[way]
    spoil(model)
    with pytest.raises(UnsupportedError, match=words) as caught:
        tapped(rows())
    assert "self_attn" in str(caught.value)


def test_a_gradient_that_is_not_finite_names_layer_block_and_row() -> None:
    model, some = tiny.llama().eval(), rows(vocabulary=22)
    some[3].input_ids[2] = 22  # no other row holds it
    with torch.no_grad():
        model.model.embed_tokens.weight[22] = torch.nan
    with pytest.raises(MeasurementError, match=r"row 'r3'.*NaN.*input of q, k and v at layer 0"):
        run(model)(some)


def test_a_gradient_alone_that_is_not_finite_is_named() -> None:
    model = tiny.llama().eval()
    model.model.layers[1].self_attn.o_proj.register_full_backward_hook(
        lambda module, into, out: (torch.full_like(into[0], torch.inf),)
    )
    with pytest.raises(MeasurementError, match=r"row 'r0'.*gradient of block v at layer 1"):
        run(model, layers=(1,), blocks=("v",))(rows())
