"""Laws of effective weights: a LoRA model looks like the merged one, knows no gauge, and depends on no batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.interference import known_sources, tiny

from crosstune.foundation.data import collate
from crosstune.foundation.evaluation import token_nats
from crosstune.interference.conflict.comparison import Comparison
from crosstune.interference.conflict.cosine import PairSums, agreement

FIGURES = ("own_a", "within_a", "across_a", "own_b", "within_b", "across_b")
ADAPTED = ("attn.q", "attn.v", "mlp.down")
ROUNDING = 2e-5  # float32: 1e3 terms (tokens × width) in another order, 1.2e-7 * sqrt(1e3), times a condition of 5


def measured(model: Any, **options: Any) -> PairSums:
    compared = known_sources.comparison(model, None, replace(known_sources.SMALL, **options))
    return compared.sums(model)["current"]["en", "bn"]


def assert_close(one: PairSums, other: PairSums, tolerance: float) -> None:
    for name in FIGURES:
        found, expected = getattr(one, name), getattr(other, name)
        torch.testing.assert_close(
            found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())
        )


def in_another_gauge(model: Any, factor: float) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                parameter.mul_(factor)
            elif "lora_B" in name:
                parameter.div_(factor)
    return model


def test_it_is_what_the_merged_model_has() -> None:
    effective = measured(tiny.lora().double(), weights="effective")
    merged = tiny.lora().double().merge_and_unload().requires_grad_(True)
    # Norms and attention go through float32 even in a float64 model, where 1e-16 may flip a rounding: 6e-8 * 16.
    assert_close(effective, measured(merged, components=ADAPTED), 1e-6)


def test_it_is_the_derivative_of_the_materialised_weight() -> None:
    """‖g_k‖² of every block against autograd through W = W_0 + s B A as one leaf, in a model of its own."""
    model = tiny.lora().double().eval()
    compared = known_sources.comparison(
        model, None, replace(known_sources.SMALL, weights="effective")
    )
    found = compared.sums(model)["current"]["en", "bn"].own_a
    places = {str(site): place for place, site in enumerate(compared.sites)}
    plain = tiny.lora().double().merge_and_unload().eval().requires_grad_(True)
    paths = {
        "attn.q": "self_attn.q_proj",
        "attn.v": "self_attn.v_proj",
        "mlp.down": "mlp.down_proj",
    }
    for k, block in enumerate(compared.blocks["en"]):
        plain.zero_grad()
        (
            token_nats(plain, collate(block.rows, block.pad_id)).sum() / block.expected_tokens
        ).backward()
        for layer, component in ((layer, name) for layer in (0, 1) for name in ADAPTED):
            weight = plain.get_submodule(f"model.layers.{layer}.{paths[component]}").weight
            expected = float(weight.grad.square().sum())
            assert float(found[k, places[f"L{layer} {component}"]]) == pytest.approx(
                expected, rel=ROUNDING
            )


@pytest.mark.parametrize("factor", [4.0, -0.25])
def test_the_gauge_does_not_matter_where_it_does_to_the_factors(factor: float) -> None:
    one, other = tiny.lora(), in_another_gauge(tiny.lora(), factor)
    assert_close(measured(one, weights="effective"), measured(other, weights="effective"), ROUNDING)
    cosines = [agreement(measured(model)).naive_cosine for model in (one, other)]
    torch.testing.assert_close(
        *cosines, rtol=0, atol=ROUNDING
    )  # each factor by itself only scales …
    lengths = [measured(model).own_a for model in (one, other)]
    assert float((lengths[0] / lengths[1]).log().abs().min()) > 2  # … by factor² or its inverse


def test_a_rotation_of_the_rank_changes_the_cosines_of_the_factors_and_not_of_the_weight() -> None:
    """A → R A, B → B R⁻¹ for any invertible R is the same function too."""
    mix = torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    one, other = tiny.lora(), tiny.lora()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_A" in name:
                parameter.copy_(mix @ parameter)
            elif "lora_B" in name:
                parameter.copy_(parameter @ mix.inverse())
    assert_close(measured(one, weights="effective"), measured(other, weights="effective"), ROUNDING)
    trained = [agreement(measured(model)).naive_cosine for model in (one, other)]
    assert float((trained[0] - trained[1]).abs().max()) > 0.02


@pytest.mark.parametrize(
    "options",
    [{"batch_tokens": 1}, {"keep_gib": 0.0}, {"keep_gib": 0.0, "batch_tokens": 64}],
    ids=str,
)
def test_batches_and_memory_do_not_matter(options: dict[str, Any]) -> None:
    expected = measured(tiny.lora(), weights="effective")
    assert_close(measured(tiny.lora(), weights="effective", **options), expected, ROUNDING)


def test_without_an_adapter_it_is_what_is_trained() -> None:
    assert_close(measured(tiny.llama(), weights="effective"), measured(tiny.llama()), 0.0)


def test_it_does_not_depend_on_the_rank() -> None:
    """A fresh adapter of any rank leaves the function, hence the effective gradient, as it was."""
    models = [
        get_peft_model(tiny.llama(), LoraConfig(r=rank, target_modules=["q_proj", "o_proj"]))
        for rank in (1, 8)
    ]
    one, other = (measured(model, weights="effective") for model in models)
    assert_close(one, other, 1e-6)  # identical arithmetic: what is added is 0


def test_a_snapshot_of_effective_weights_is_compared_with_later_ones() -> None:
    model = tiny.lora()
    compared: Comparison = known_sources.comparison(
        model, None, replace(known_sources.SMALL, weights="effective")
    )
    both = compared.sums(model, compared.snapshot(model))
    # Identical arithmetic on the same weights.
    assert_close(both["frozen"]["en", "bn"], both["current"]["en", "bn"], 1e-6)
