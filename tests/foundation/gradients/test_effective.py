"""Which weights are looked at instead of an adapter's factors, and which adapters have none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.interference import known_sources, tiny
from transformers import MixtralConfig, MixtralForCausalLM

from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.gradients.effective import names_of
from crosstune.foundation.gradients.gradients import trainable_names
from crosstune.foundation.models.measuring import ask_gradients_of
from crosstune.interference import measure_conflict

SMALL = {"blocks": 8, "rows_per_block": 2, "length": 16}


def adapted(model: Any = None, **options: Any) -> Any:
    options = {"r": 2, "target_modules": ["q_proj"]} | options
    return get_peft_model(model or tiny.llama(), LoraConfig(**options))


def mixtral() -> MixtralForCausalLM:
    config = MixtralConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
        max_position_embeddings=32,
    )
    return MixtralForCausalLM(config)


def test_the_weights_beside_the_factors_take_their_place() -> None:
    base = "base_model.model.model.layers.{}.self_attn.q_proj.base_layer.weight"
    assert names_of(adapted(), "effective") == (base.format(0), base.format(1))
    assert all(".lora_" in name for name in names_of(adapted(), "trained"))


def test_what_is_trained_without_an_adapter_stays() -> None:
    names = names_of(adapted(modules_to_save=["norm"]), "effective")
    saved = [name for name in names if name.endswith("norm.modules_to_save.default.weight")]
    assert len(saved) == 5  # two norms in each of two blocks, and the last one
    assert len(names) == 5 + 2
    plain = tiny.llama()
    assert names_of(plain, "effective") == trainable_names(plain)


def test_a_model_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="trainin"):
        names_of(tiny.llama().requires_grad_(False), "effective")


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: adapted(target_modules=["embed_tokens"]), r"Embedding is adapted.*embed_tokens"),
        (
            lambda: adapted(mixtral(), target_modules=[], target_parameters=["experts.down_proj"]),
            r"bare parameter down_proj.*experts",
        ),
        (lambda: adapted(use_dora=True), r"Dora\w*, at .*q_proj"),
        (lambda: adapted(lora_bias=True), r"bias of its own, at .*q_proj"),
        (
            lambda: adapted(tiny.llama(tied=True), target_modules=["lm_head"]),
            r"is also .*, at .*lm_head",
        ),
    ],
    ids=["embedding", "experts", "dora", "bias", "tied"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_is_more_than_a_product_is_refused_by_name(build: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=f"(?s){words}.*weights='trained'"):
        names_of(build(), "effective")


def test_adapters_beside_one_weight_are_active_or_refused() -> None:
    model = adapted()
    model.add_adapter("code", model.peft_config["default"])
    model.base_model.set_adapter(["default", "code"])
    assert len(trainable_names(model)) == 8
    assert names_of(model, "effective") == names_of(adapted(), "effective")
    model.set_adapter("default")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".code." in name)
    with pytest.raises(UnsupportedError, match=r"adapter code is trained but not active"):
        names_of(model, "effective")


def test_only_the_named_ask_for_gradients() -> None:
    model = adapted()
    wanted = names_of(model, "effective")
    ask_gradients_of(model, wanted)
    assert trainable_names(model) == wanted


def test_the_table_says_whose_gradients_they_are() -> None:
    model = adapted()  # B is zero: no factor A has a gradient yet
    tasks = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24, start=100)}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    table = measure_conflict(model, tiny.tokenizer(), tasks, weights="effective", **SMALL)
    assert [row["where"] for row in table.rows()] == ["L0 attn.q", "L1 attn.q"]
    assert set(table.column("weights")) == {"effective"}
    assert set(table.column("factor")) == {""}
    assert set(table.column("note")) <= {"", "below noise floor"}
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    factors = measure_conflict(model, tiny.tokenizer(), tasks, **SMALL)
    assert set(factors.column("weights")) == {"trained"}
    assert set(factors.column("factor")) == {"A", "B"}


def test_half_precision_is_looked_at_in_float32() -> None:
    settings = replace(known_sources.SMALL, weights="effective")
    half = tiny.lora().to(torch.bfloat16)
    same = tiny.lora().to(torch.bfloat16).float()
    one, other = (
        known_sources.comparison(model, settings=settings).sums(model)["current"]["en", "bn"]
        for model in (half, same)
    )
    assert torch.equal(one.across_a, other.across_a)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
