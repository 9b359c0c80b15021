"""Modules are tapped once each, at their adapters; rows that cannot be captured are named, and batches depend on what rows say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.circuits.drawn import rows
from tests.foundation.models.decoders import decoder, with_lora
from tests.interference import tiny

from crosstune.circuits.capture.scope import Scope, check_tokens, plan_batches, trimmed
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data import UNSCORED
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.models import HeadMap


def scope(model: object, **options: object) -> Scope:
    return Scope.of(HeadMap.of(model), CircuitSettings(**options))  # type: ignore[arg-type]


def test_layers_and_blocks_come_in_order() -> None:
    found = scope(tiny.llama(), layers=(1, 0), blocks=("o", "q"))
    assert (found.layers, found.blocks) == ((0, 1), ("q", "o"))
    assert scope(tiny.llama()).layers == (0, 1)
    with pytest.raises(SettingsError, match=r"`layers` .*0 to 1.*found 7"):
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


@pytest.mark.parametrize("token", [-1, 23])
def test_tokens_that_the_model_does_not_know_are_refused(token: int) -> None:
    (row,) = rows((5,))
    check_tokens(tiny.llama(), [row])
    row.input_ids[2] = token
    with pytest.raises(DataError, match=r"vocabulary, 0 to 22"):
        check_tokens(tiny.llama(), [row])


def test_what_follows_the_last_scored_token_is_cut() -> None:
    (row,) = rows((7,))
    assert trimmed(row) == row
    silent = replace(row, labels=[*row.labels[:4], UNSCORED, UNSCORED, UNSCORED])
    assert trimmed(silent).input_ids == row.input_ids[:4]
    assert trimmed(silent).labels == row.labels[:4]


def test_rows_go_longest_first_within_the_padded_size() -> None:
    assert plan_batches(rows((3, 9, 8, 2)), 18) == ((1, 2), (0, 3))
    assert plan_batches(rows((3, 9, 8, 2)), 1) == ((1,), (2,), (0,), (3,))


def test_another_order_of_the_same_rows_makes_the_same_batches() -> None:
    some = rows((6,) * 7)
    other = some[::-1]
    one, two = (
        [[chosen[at].row_id for at in batch] for batch in plan_batches(chosen, 18)]
        for chosen in (some, other)
    )
    assert one == two and [len(batch) for batch in one] == [3, 3, 1]
