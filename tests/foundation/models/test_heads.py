"""The head map says what each family's own code does with the features of its modules, and what it cannot say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, linear_targets, with_lora
from tests.foundation.models.test_families import LAYER, attention_inputs
from torch import Tensor

from crosstune.foundation.errors import ModelError, UnknownFamilyError
from crosstune.foundation.models import HeadMap, Projection, capture

pytestmark = pytest.mark.filterwarnings(
    "ignore::peft.utils.warning.PeftWarning", "ignore::UserWarning:peft"
)
STREAMS = {"q": "attn.q", "k": "attn.k", "v": "attn.v"}


def adapted(name: str) -> Any:
    """The decoder with LoRA on all attention projections."""
    return with_lora(decoder(name), target_modules=linear_targets(name))


def features_of(model: Any, projection: Projection) -> Tensor:
    """What the projection's module puts out, or takes in where its heads are input features."""
    caught: list[Tensor] = []
    module = model.get_submodule(projection.module)
    by_input = projection.side == "input"
    handle = module.register_forward_hook(lambda m, i, o: caught.append(i[0] if by_input else o))
    attention_inputs(model)
    handle.remove()
    return caught[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_values_are_what_the_family_s_code_attends_to(name: str) -> None:
    model = decoder(name)
    projection = HeadMap.of(model).projection(LAYER, "v")
    ours = projection.take(features_of(model, projection))
    assert torch.equal(ours.transpose(1, 2), attention_inputs(model)["attn.v"])


@pytest.mark.parametrize("block", STREAMS)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_rows_of_a_head_move_only_that_head(name: str, block: str) -> None:
    model = decoder(name)
    projection = HeadMap.of(model).projection(LAYER, block)
    before = attention_inputs(model)
    weight = model.get_parameter(projection.weight)
    with torch.no_grad():
        projection.tile(weight)[1] += 0.5
    after = attention_inputs(model)
    for stream in before:
        moved = (before[stream] != after[stream]).flatten(2).any(dim=2).any(dim=0)
        assert moved.tolist() == [
            stream == STREAMS[block] and head == 1 for head in range(len(moved))
        ]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_key_value_head_reaches_the_output_only_through_its_group(name: str) -> None:
    model = decoder(name)
    heads = HeadMap.of(model)
    values, output = heads.projection(LAYER, "v"), heads.projection(LAYER, "o")
    before = output.take(features_of(model, output))
    with torch.no_grad():
        values.tile(model.get_parameter(values.weight))[1] += 0.5
    after = output.take(features_of(model, output))
    moved = (before != after).any(dim=-1).flatten(0, 1).any(dim=0)
    assert moved.nonzero().flatten().tolist() == list(heads.group(1))
    assert all(heads.kv_head(head) == 1 for head in heads.group(1))


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_its_module_s_features_make_the_weight_s_gradient(name: str, lora: bool) -> None:
    model = adapted(name) if lora else decoder(name)
    heads = HeadMap.of(model)
    names = [projection.weight for projection in heads.projections]
    seen = capture(model, names, lambda: model(ROWS).logits.square().mean()[None])
    assert seen.missed == ()
    taps = {name: tap for tap in seen.taps for name in tap.names.values()}
    model.requires_grad_(True)
    model(ROWS).logits.square().mean().backward()
    for projection in heads.projections:
        tap = taps[projection.weight]
        (delta,) = tap.gradients
        assert delta is not None
        sides = (tap.inputs[0], delta) if projection.side == "input" else (delta, tap.inputs[0])
        headed, shared = projection.take(sides[0]), sides[1]
        tile = torch.einsum("bthe,btd->hed", headed, shared)
        gradient = model.get_parameter(projection.weight).grad
        size = torch.einsum("bthe,btd->hed", headed.abs(), shared.abs()).max().item()
        # float32: 16 terms, 6e-8 each.
        torch.testing.assert_close(projection.tile(gradient), tile, rtol=0, atol=1e-6 * size)
        assert tile.shape[:2] == (projection.heads, projection.head_dim)


def test_it_tells_the_heads_of_the_model() -> None:
    heads = HeadMap.of(adapted("qwen3"))
    assert (heads.num_layers, heads.num_heads, heads.num_kv_heads, heads.head_dim) == (3, 4, 2, 8)
    assert [heads.heads_of(block) for block in "qkvo"] == [4, 2, 2, 4]
    assert [heads.kv_head(head) for head in range(4)] == [0, 0, 1, 1]
    assert [list(heads.group(kv)) for kv in range(2)] == [[0, 1], [2, 3]]
    places = [(projection.layer, projection.block) for projection in heads.projections]
    assert places == [(layer, block) for layer in range(3) for block in "qkvo"]
    output = heads.projection(1, "o")
    assert (output.side, output.layout) == ("input", "split")
    assert output.module == "base_model.model.model.layers.1.self_attn.o_proj.base_layer"
    assert output.weight == f"{output.module}.weight"


@pytest.mark.parametrize(
    ("name", "layouts"),
    [
        ("llama", ["split"] * 4),
        ("phi3", ["fused"] * 3 + ["split"]),
        ("gpt2", ["fused, Conv1D"] * 3 + ["split, Conv1D"]),
        ("gpt_neox", ["interleaved"] * 3 + ["split"]),
    ],
)
def test_the_layout_is_named(name: str, layouts: list[str]) -> None:
    assert [p.layout for p in HeadMap.of(decoder(name)).projections[:4]] == layouts


def test_the_description_is_an_aligned_table() -> None:
    title, *rows = HeadMap.of(decoder("phi3")).describe().splitlines()
    assert title == "phi3: 3 layers, 4 heads of 4, 2 key-value heads, 2 query heads each"
    assert len({len(row) for row in rows}) == 1
    fused = "model.layers.*.self_attn.qkv_proj"
    assert [row.split() for row in rows[1:]] == [
        ["0–2", "q", fused, "output", "rows", "fused", "4", "4", "1"],
        ["0–2", "k", fused, "output", "rows", "fused", "2", "4", "2"],
        ["0–2", "v", fused, "output", "rows", "fused", "2", "4", "2"],
        [
            *("0–2", "o", "model.layers.*.self_attn.o_proj", "input", "columns", "split"),
            *("4", "4", "1"),
        ],
    ]


def test_unknown_places_are_told() -> None:
    heads = HeadMap.of(decoder("llama"))
    with pytest.raises(ModelError, match=r"layer 0 to 2; found block 'x' of layer 1"):
        heads.projection(1, "x")
    with pytest.raises(ModelError, match=r"found block 'q' of layer 3"):
        heads.projection(3, "q")
    with pytest.raises(ModelError, match=r"`head` must be 0 to 3; found 4"):
        heads.kv_head(4)
    with pytest.raises(ModelError, match=r"`kv_head` must be 0 to 1; found -1"):
        heads.group(-1)


def test_features_of_another_size_are_told() -> None:
    projection = HeadMap.of(decoder("gpt_neox")).projection(2, "k")
    law = r"output features of gpt_neox\.layers\.2\.attention\.query_key_value \(layer 2, block k\)"
    with pytest.raises(ModelError, match=law + r".*must be 48: 4 × 3 × 4; found 16 .*\(2, 16\)"):
        projection.take(torch.zeros(2, 16))
    with pytest.raises(ModelError, match=law):
        projection.tile(torch.zeros(16, 48))


def test_attention_that_cannot_be_mapped_is_named() -> None:
    odd = decoder("llama")
    odd.config.num_attention_heads = 3
    with pytest.raises(ModelError, match=r"found 3 heads, 2 key-value heads"):
        HeadMap.of(odd)
    wrong = decoder("gemma2")
    wrong.config.head_dim = 4
    with pytest.raises(
        ModelError, match=r"layers\.0\.self_attn\.q_proj\.weight.*have 16 .*found 32"
    ):
        HeadMap.of(wrong)
    bare = decoder("llama")
    del bare.model.layers[1].self_attn.k_proj
    with pytest.raises(ModelError, match=r"found no k in layer 1"):
        HeadMap.of(bare)
    strange = decoder("llama")
    strange.model.layers[0].self_attn.gate = torch.nn.Linear(2, 2)
    with pytest.raises(UnknownFamilyError, match=r"self_attn\.gate"):
        HeadMap.of(strange)


def test_a_trained_copy_beside_the_weight_is_not_guessed() -> None:
    model = with_lora(decoder("llama"), target_modules=["k_proj"], modules_to_save=["q_proj"])
    with pytest.raises(ModelError, match=r"a second q in layer 0: .*modules_to_save"):
        HeadMap.of(model)
