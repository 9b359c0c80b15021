"""How a parameter is cut, what is refused, and that pieces do not change a sum."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.foundation.models.decoders import decoder, with_lora

from crosstune.foundation.errors import ModelError, UnknownFamilyError
from crosstune.foundation.models import layout
from crosstune.foundation.models.anatomy import Anatomy
from crosstune.foundation.models.layout import ParameterName, Slab, read_name
from crosstune.foundation.models.site import Cut, Site

SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("axis", [None, 0, 2])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_pieces_do_not_change_a_sum(
    axis: int | None, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "_CPU_PIECE", piece)
    a, b = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sizes = (6, 4, 5)
    sites = tuple(Site(0, "x", expert=e) for e in range(1 if axis is None else sizes[axis]))
    slab = Slab("w", (2, 6, 20), sizes, Cut(1, 1, 3), sites, axis)
    product = (a * b).reshape(sizes)[:, 1:3]
    wanted = {None: product.sum()[None], 0: product.sum((1, 2)), 2: product.sum((0, 1))}[axis]
    exact = {"rtol": 0, "atol": 1e-14}  # float64: 40 terms below 5, 1.1e-16 each, and √40
    torch.testing.assert_close(slab.inner(a, b), wanted, **exact)
    parts = torch.stack([(p.take(a) * p.take(b)).sum() for p in slab.parts()])
    torch.testing.assert_close(parts, wanted, **exact)


def test_an_unknown_family_is_named() -> None:
    config = transformers.GPTJConfig(vocab_size=20, n_embd=8, n_layer=1, n_head=2, rotary_dim=4)
    with pytest.raises(UnknownFamilyError, match=r"model_type 'gptj' \(GPTJForCausalLM\).*llama"):
        Anatomy.of(transformers.AutoModelForCausalLM.from_config(config))


def test_an_unknown_parameter_is_named() -> None:
    model = decoder("llama")
    model.model.layers[0].self_attn.sink = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(UnknownFamilyError, match=r"layers\.0\.self_attn\.sink.*'llama'.*q_proj"):
        Anatomy.of(model)


def test_another_adapter_than_lora_is_not_guessed() -> None:
    import peft

    model = peft.get_peft_model(decoder("llama"), peft.IA3Config(task_type="CAUSAL_LM"))
    with pytest.raises(UnknownFamilyError, match="ia3_l"):
        Anatomy.of(model)


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "T5ForConditionalGeneration", "LlamaModel"])
def test_what_is_no_decoder_is_refused(kind: str) -> None:
    small = {
        "BertForMaskedLM": {**SMALL, "intermediate_size": 8},
        "T5ForConditionalGeneration": {
            "vocab_size": 20,
            "d_model": 8,
            "d_ff": 8,
            "d_kv": 4,
            "num_layers": 1,
            "num_heads": 2,
        },
        "LlamaModel": {**SMALL, "intermediate_size": 8, "bos_token_id": 1, "eos_token_id": 2},
    }[kind]
    model_class = getattr(transformers, kind)
    model = model_class(model_class.config_class(**small))
    with pytest.raises(ModelError, match=f"decoder with a language-model head; found {kind}"):
        Anatomy.of(model)


def test_a_module_without_configuration_is_refused() -> None:
    with pytest.raises(ModelError, match="found Linear"):
        Anatomy.of(torch.nn.Linear(2, 2))


def test_weights_that_contradict_the_configuration_are_refused() -> None:
    model = decoder("phi3")
    model.config.num_key_value_heads = 4
    with pytest.raises(ModelError, match=r"must have 48 features on axis 0 .* found 32"):
        Anatomy.of(model)


def test_other_sharing_than_a_tied_head_is_refused() -> None:
    model = decoder("llama")
    blocks = model.model.layers
    blocks[1].self_attn.q_proj.weight = blocks[0].self_attn.q_proj.weight
    with pytest.raises(
        UnknownFamilyError, match="share parameters only between embedding and head"
    ):
        Anatomy.of(model)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_trained_copy_of_a_tied_head_is_a_head() -> None:
    model = with_lora(
        decoder("gpt2"), target_modules=["c_fc"], fan_in_fan_out=True, modules_to_save=["lm_head"]
    )
    anatomy = Anatomy.of(model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad and "lm_head" in n]
    assert [part.site for name in trained for part in anatomy.parts_of(name)] == [
        Site(None, "head")
    ]
    (embedding,) = anatomy.parts_of("base_model.model.transformer.wte.weight")
    assert embedding.site == Site(None, "embed+head")


def heads_of(slab: Slab) -> tuple[int, ...]:
    return tuple(part.count for part in slab.by_head().parts())


def test_only_what_belongs_to_heads_is_cut_by_head() -> None:
    slabs = Anatomy.of(decoder("llama_biased")).slabs
    cut = {slab.parameter.removeprefix("model.layers.0."): heads_of(slab) for slab in slabs}
    assert cut["self_attn.q_proj.weight"] == (64,) * 4
    assert cut["self_attn.q_proj.bias"] == (4,) * 4
    assert cut["self_attn.v_proj.weight"] == (64,) * 2
    assert cut["self_attn.k_proj.bias"] == (4,) * 2
    assert cut["self_attn.o_proj.weight"] == (64,) * 4
    assert cut["self_attn.o_proj.bias"] == (16,)
    assert cut["mlp.up_proj.weight"] == (24 * 16,)


def test_cutting_by_head_twice_is_cutting_once() -> None:
    for slab in Anatomy.of(decoder("gpt_neox")).slabs:
        assert slab.by_head().by_head() == slab.by_head()


def test_heads_that_contradict_the_weights_are_refused() -> None:
    model = decoder("llama")
    model.config.num_key_value_heads = 4
    with pytest.raises(
        ModelError, match=r"0\.self_attn\.k_proj\.weight.*have 16 .* axis 0 .*found 8"
    ):
        Anatomy.of(model).by_head()


Q = "model.layers.0.self_attn.q_proj"
READ = {
    f"{Q}.weight": ParameterName(Q, "weight"),
    f"{Q}.bias": ParameterName(Q, "features"),
    f"_orig_mod.{Q}.weight": ParameterName(Q, "weight"),
    f"base_model.model.{Q}.base_layer.weight": ParameterName(Q, "weight"),
    f"{Q}.base_layer.bias": ParameterName(Q, "features"),
    f"base_model.model.{Q}.lora_A.default.weight": ParameterName(Q, "weight", "A"),
    f"base_model.model.{Q}.lora_B.default.weight": ParameterName(Q, "weight", "B"),
    f"base_model.model.{Q}.lora_B.my-task.bias": ParameterName(Q, "features", "B", "my-task"),
    f"base_model.model.{Q}.lora_magnitude_vector.default.weight": ParameterName(Q, "features"),
    "base_model.model.lm_head.modules_to_save.default.weight": ParameterName("lm_head", "weight"),
    f"base_model.model.{Q}.lora_magnitude_vector.code.weight": ParameterName(
        Q, "features", None, "code"
    ),
    "base_model.model.lm_head.modules_to_save.code.weight": ParameterName(
        "lm_head", "weight", None, "code"
    ),
    "base_model.model.lm_head.original_module.weight": ParameterName("lm_head", "weight"),
    "base_model.model.model.embed_tokens.lora_embedding_A.default": ParameterName(
        "model.embed_tokens", "weight", "A"
    ),
    "model.layers.3.mlp.experts.base_layer.base_layer.gate_up_proj": ParameterName(
        "model.layers.3.mlp.experts.gate_up_proj", "weight"
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_name_is_read(name: str) -> None:
    assert read_name(name) == READ[name]
