"""Scope: modules are tapped once each, at their adapters, and what is kept is known from shapes."""

from __future__ import annotations

import pytest
from tests.foundation.models.decoders import decoder, with_lora
from tests.interference import tiny

from crosstune.circuits.capture.scope import Scope
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.models import HeadMap


def scope(model: object, **options: object) -> Scope:
    return Scope.of(HeadMap.of(model), CircuitSettings(**options))  # type: ignore[arg-type]


def test_layers_and_blocks_come_in_order() -> None:
    found = scope(tiny.llama(), layers=(1, 0), blocks=("o", "q"))
    assert (found.layers, found.blocks) == ((0, 1), ("q", "o"))
    assert scope(tiny.llama()).layers == (0, 1)
    with pytest.raises(SettingsError, match=r"`layers` .*0 and 1.*found 7"):
        scope(tiny.llama(), layers=(0, 7))


def test_a_fused_module_is_tapped_once() -> None:
    modules = scope(decoder("gpt2"), blocks=("q", "v", "o")).modules[2]
    prefix = "transformer.h.2.attn"
    assert modules == {"qv": f"{prefix}.c_attn.weight", "o": f"{prefix}.c_proj.weight"}


def test_adapters_are_tapped_around_the_weights_they_change() -> None:
    model = with_lora(decoder("llama"), target_modules=["q_proj"])
    found = scope(model, layers=(1,))
    q = "base_model.model.model.layers.1.self_attn.q_proj"
    assert found.around == {f"{q}.base_layer.weight": q}
    assert len(found.weights) == 4


@pytest.mark.parametrize(
    ("family", "blocks", "features"),
    [
        ("llama", "qkvo", 16 + 16 + 8 + 8 + 16 + 16),  # x, δq, δk, δv, z, δo
        ("llama", "k", 16 + 8),
        ("llama", "o", 16 + 16),
        ("gpt2", "qkvo", 16 + 48 + 16 + 16),
        ("qwen3", "qkvo", 16 + 32 + 16 + 16 + 32 + 16),  # heads of 8, wider than the stream
        ("phi3", "v", 16 + 32),  # fused with two key-value heads: its whole output is kept
    ],
)
def test_what_is_kept_of_a_token(family: str, blocks: str, features: int) -> None:
    model = decoder(family)
    found = scope(model, blocks=tuple(blocks))
    assert found.features(model) == 3 * features
