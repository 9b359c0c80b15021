"""Law of keys and values: a model's own, read and handed over, go on as if the text had been read whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, with_lora
from torch import Tensor

from crosstune.foundation.errors import ModelError, UnknownFamilyError
from crosstune.foundation.models import (
    HeadMap,
    KeyValues,
    load_model,
    model_inputs,
    positions,
    read_projections,
)

ROTARY = [name for name in CONFIGS if name != "gpt2"]
LEFT = torch.cat([torch.tensor([[0, 0, 0], [4, 1, 22]]), ROWS], dim=1)  # 0 pads
CUT = 6


def batch_of(ids: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def read_whole(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**model_inputs(batch_of(ids))).logits[:, CUT:]


def gone_on(model: Any, ids: Tensor, *, shift: int = 0, late: int = 0) -> Tensor:
    """The logits after the cut, from keys and values handed over; all positions shifted, the first part's once more."""
    mask = batch_of(ids)["attention_mask"]
    places = positions(mask) + shift
    cache = read_projections(model, batch_of(ids[:, :CUT])).cache(model, places[:, :CUT] + late)
    with torch.no_grad():
        return model(
            input_ids=ids[:, CUT:],
            attention_mask=mask,
            position_ids=places[:, CUT:],
            past_key_values=cache,
        ).logits


def off(found: Tensor, expected: Tensor) -> float:
    """The largest difference, in largest logits."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


ROUNDING = 1e-5  # float32: 6e-8 · √(a thousand terms behind a logit), and a factor for three layers


@pytest.mark.parametrize("name", CONFIGS)
def test_handed_over_is_read_whole(name: str) -> None:
    model = decoder(name)
    for ids in (LEFT, LEFT[1:]):
        assert off(gone_on(model, ids), read_whole(model, ids)) < ROUNDING


@pytest.mark.parametrize("name", ROTARY)
def test_only_how_far_apart_tokens_are_matters(name: str) -> None:
    model = decoder(name)
    whole = read_whole(model, LEFT)
    assert off(gone_on(model, LEFT, shift=9), whole) < 2 * ROUNDING  # angles of larger numbers
    assert off(gone_on(model, LEFT, late=-1), whole) > 30 * ROUNDING  # an off-by-one copy


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3_text", "phi3"])
def test_windows_slide_over_what_was_handed_over(name: str) -> None:
    # Gemma 3 has one rotation in layers whose window slides, and another in the others.
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    model = decoder(name, sliding_window=4, **{"layer_types": kinds} if "gemma3" in name else {})
    whole = read_whole(model, LEFT)
    assert off(gone_on(model, LEFT), whole) < ROUNDING
    assert off(whole, read_whole(decoder(name), LEFT)) > ROUNDING  # it does slide


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_an_adapter_s_share_is_read(name: str) -> None:
    options = {"target_modules": "all-linear", "fan_in_fan_out": name == "gpt2"}
    model = with_lora(decoder(name), **options)
    assert off(gone_on(model, LEFT), read_whole(model, LEFT)) < ROUNDING


def test_a_trained_model_keeps_the_law(shared: Path) -> None:
    model = load_model(shared / "models" / "stories260K").eval()
    assert off(gone_on(model, LEFT), read_whole(model, LEFT)) < ROUNDING


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_gradients_flow_back_into_keys_and_values(name: str) -> None:
    model, ids = decoder(name).double(), LEFT[1:]
    places = torch.arange(ids.shape[1])[None]
    given = read_projections(model, batch_of(ids[:, :CUT]))

    def loss(some: KeyValues) -> Tensor:
        cache = some.cache(model, places[:, :CUT])
        return model(input_ids=ids[:, CUT:], past_key_values=cache).logits.square().sum()

    for kind in ("keys", "values"):
        leaves = tuple(tensor.clone().requires_grad_() for tensor in getattr(given, kind))
        gradients = torch.autograd.grad(loss(replace(given, **{kind: leaves})), leaves)
        for layer, gradient in enumerate(gradients):
            # RMSNorm computes in float32: a step this long leaves 1e-5 of rounding and 1e-4 of curvature.
            step = 1e-2 * gradient / gradient.norm()
            ends = [
                loss(replace(given, **{kind: (*leaves[:layer], moved, *leaves[layer + 1 :])}))
                for moved in (leaves[layer] + step, leaves[layer] - step)
            ]
            slope = (ends[0] - ends[1]).item() / 2e-2
            assert slope == pytest.approx(gradient.norm().item(), rel=1e-2)


def test_shapes_are_those_of_key_value_heads() -> None:
    for name in ("qwen3", "gpt_neox", "gpt2", "phi3"):
        model = decoder(name)
        heads = HeadMap.of(model)
        found = read_projections(model, batch_of(ROWS))
        shape = (2, heads.num_kv_heads, 8, heads.head_dim)
        assert [tensor.shape for tensor in (*found.keys, *found.values)] == [shape] * 6
        assert not any(m._forward_hooks for m in model.modules())


def test_what_does_not_fit_the_model_is_refused() -> None:
    model = decoder("llama")
    found, places = read_projections(model, batch_of(ROWS)), torch.arange(8).expand(2, 8)
    for wrong, where, argument in (
        (found, places[:, 1:], "keys"),
        (replace(found, keys=found.keys[:2]), places, "keys"),
        (replace(found, values=tuple(v[..., :2] for v in found.values)), places, "values"),
    ):
        with pytest.raises(ModelError, match=rf"{argument}.*in each of 3 layers"):
            wrong.cache(model, where)
    model.config.model_type = "mystery"
    for use in (
        lambda: found.cache(model, places),
        lambda: read_projections(model, batch_of(ROWS)),
    ):
        with pytest.raises(UnknownFamilyError, match="mystery"):
            use()
