"""What an anatomy tells of a model, and its inner product against a slow obvious twin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.foundation.models.decoders import (
    CONFIGS,
    ROWS,
    decoder,
    tensors_like,
    with_lora,
)

from crosstune.foundation.errors import ModelError
from crosstune.foundation.models import Anatomy, HeadGeometry, Site, gradient_sites, load_model
from crosstune.foundation.models.anatomy import aligned, ranges


def test_it_tells_the_shape_of_the_model() -> None:
    anatomy = Anatomy.of(decoder("qwen3"))
    assert (anatomy.family, anatomy.num_layers, anatomy.hidden_size) == ("qwen3", 3, 16)
    assert anatomy.heads == HeadGeometry(4, 2, 8)


def test_sites_stand_in_depth_order() -> None:
    sites = Anatomy.of(decoder("gpt2", tie_word_embeddings=False)).sites
    assert [str(site) for site in sites[:9]] == [
        *("embed", "embed.position", "L0 attn.q", "L0 attn.k", "L0 attn.v"),
        *("L0 attn.o", "L0 mlp.up", "L0 mlp.down", "L0 norm"),
    ]
    assert [str(site) for site in sites[-2:]] == ["norm", "head"]
    assert [s.layer for s in sites[2:-2]] == [0] * 7 + [1] * 7 + [2] * 7


def test_biases_and_head_norms_go_where_they_belong() -> None:
    anatomy = Anatomy.of(decoder("qwen2"))
    assert anatomy.count(Site(0, "attn.q")) == 16 * 16 + 16
    assert anatomy.count(Site(0, "attn.k")) == 8 * 16 + 8
    assert Anatomy.of(decoder("qwen3")).count(Site(0, "norm")) == 2 * 16 + 2 * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_inner_product_equals_its_slow_twin(name: str, dtype: torch.dtype) -> None:
    model = decoder(name)
    anatomy = Anatomy.of(model)
    a, b = (tensors_like(model, seed=seed, dtype=dtype) for seed in (1, 2))
    slow = dict.fromkeys(anatomy.sites, 0.0)
    size = dict.fromkeys(anatomy.sites, 0.0)
    for part in anatomy.parts:
        product = part.take(a[part.parameter]).double() * part.take(b[part.parameter]).double()
        slow[part.site] += product.sum().item()
        size[part.site] += product.abs().sum().item()
    fast = anatomy.inner(a, b)
    assert (fast.dtype, fast.device.type, fast.shape) == (torch.float64, "cpu", (len(slow),))
    # one rounding of each product: 2^-24 of it in float32, none to speak of in float64
    allowed = (1e-14 if dtype == torch.float64 else 2**-24) * torch.tensor(list(size.values()))
    assert bool(
        ((fast - torch.tensor(list(slow.values()), dtype=torch.float64)).abs() <= allowed).all()
    )


def test_large_terms_that_cancel_leave_the_small_one() -> None:
    model = decoder("llama")
    a = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    b = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    a["model.norm.weight"][:3] = torch.tensor([1e8, 1.0, -1e8])  # float32 would sum these to 0
    anatomy = Anatomy.of(model)
    assert anatomy.inner(a, b)[anatomy.sites.index(Site(None, "norm"))] == 1.0


def test_it_takes_gradients_as_autograd_gives_them() -> None:
    model = decoder("gpt2")
    names, parameters = zip(*model.named_parameters(), strict=True)
    loss = model(ROWS).logits.double().square().sum()
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    transposed = {n: g.T.contiguous().T if g.dim() == 2 else g for n, g in gradients.items()}
    anatomy = Anatomy.of(model)
    # Each product is rounded to float32: 6e-8 of a sum of squares.
    total = sum(g.double().square().sum() for g in gradients.values())
    torch.testing.assert_close(anatomy.inner(gradients, gradients).sum(), total, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        anatomy.inner(transposed, gradients), anatomy.inner(gradients, gradients)
    )


def test_only_some_parameters_leave_only_their_sites() -> None:
    model = decoder("phi3")
    name = "model.layers.1.self_attn.qkv_proj.weight"
    anatomy = Anatomy.of(model).only([name])
    assert [str(site) for site in anatomy.sites] == ["L1 attn.q", "L1 attn.k", "L1 attn.v"]
    assert {part.parameter for part in anatomy.parts} == {name}
    assert sum(anatomy.count(site) for site in anatomy.sites) == 32 * 16
    assert len(anatomy.inner({name: torch.ones(32, 16)}, {name: torch.ones(32, 16)})) == 3
    assert Anatomy.of(model).only([]).sites == ()
    assert Anatomy.of(model).only([]).inner({}, {}).shape == (0,)


def test_gradient_sites_are_the_trainable_ones() -> None:
    model = decoder("llama")
    model.requires_grad_(False)
    model.model.layers[2].mlp.requires_grad_(True)
    assert [str(s) for s in gradient_sites(model).sites] == [
        "L2 mlp.gate",
        "L2 mlp.up",
        "L2 mlp.down",
    ]


def test_unknown_and_missing_names_are_told() -> None:
    model = decoder("llama")
    anatomy = Anatomy.of(model)
    with pytest.raises(ModelError, match=r"found model\.nothing"):
        anatomy.only(["model.nothing"])
    with pytest.raises(ModelError, match=r"`parameter` .*found model\.nothing"):
        anatomy.parts_of("model.nothing")
    with pytest.raises(ModelError, match=r"`site` .*found L9 norm"):
        anatomy.count(Site(9, "norm"))
    tensors = tensors_like(model, seed=0)
    less = {name: t for name, t in tensors.items() if name != "model.norm.weight"}
    with pytest.raises(ModelError, match=r"`b` .*none for model\.norm\.weight \(1 missing\)"):
        anatomy.inner(tensors, less)
    with pytest.raises(ModelError, match=r"shape \(3,\)"):
        anatomy.inner(tensors, {**tensors, "model.norm.weight": torch.zeros(3)})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own compiler
def test_a_compiled_model_has_the_same_sites() -> None:
    model = decoder("llama")
    assert Anatomy.of(torch.compile(model)).sites == Anatomy.of(model).sites


def test_the_description_is_an_aligned_table() -> None:
    text = Anatomy.of(decoder("qwen2_moe")).describe()
    head, *rows = text.splitlines()
    assert head == "qwen2_moe: 3 layers, width 16; 4 heads of 4, 2 key-value heads; 47 sites"
    assert len({len(row) for row in rows}) == 1
    words = [row.split() for row in rows]
    assert ["attn.q", "0–2", "272", "816"] in words
    assert ["mlp.experts.up", "(3", "experts)", "0,", "2", "576", "1,152"] in words
    assert ["mlp.up", "1", "384", "384"] in words
    assert words[-1] == ["total", f"{sum(p.numel() for p in decoder('qwen2_moe').parameters()):,}"]


def test_the_description_tells_heads() -> None:
    rows = [row.split() for row in Anatomy.of(decoder("gpt2")).by_head().describe().splitlines()]
    assert ["attn.v", "(4", "kv-heads)", "0–2", "272", "816"] in rows
    assert ["attn.o", "(4", "heads)", "0–2", "272", "816"] in rows
    assert ["mlp.up", "0–2", "1,088", "3,264"] in rows


def test_only_some_parameters_are_cut_by_head() -> None:
    names = ["model.layers.1.self_attn.o_proj.weight", "model.norm.weight"]
    anatomy = Anatomy.of(decoder("llama")).only(names).by_head()
    heads = [f"L1 attn.o head {head}" for head in range(4)]
    assert [str(site) for site in anatomy.sites] == [*heads, "norm"]
    adapted = gradient_sites(with_lora(decoder("llama"), target_modules=["q_proj", "o_proj"]))
    first = [str(site) for site in adapted.by_head().sites if site.layer == 0]
    assert first == [
        *("L0 attn.q (A)", *(f"L0 attn.q head {head} (B)" for head in range(4))),
        *("L0 attn.o (B)", *(f"L0 attn.o head {head} (A)" for head in range(4))),
    ]


def test_a_real_model_is_whole(shared: Path) -> None:
    anatomy = Anatomy.of(load_model(shared / "models" / "stories260K"))
    # 512 x 64 embedding, 5 x (2·64·64 + 2·64·32 + 3·64·172 + 2·64), 64 of the final norm
    assert sum(anatomy.count(site) for site in anatomy.sites) == 260_032
    assert anatomy.heads == HeadGeometry(8, 4, 8)
    assert anatomy.count(Site(None, "embed+head")) == 512 * 64


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi3", "qwen2_moe"])
def test_a_stack_has_the_products_of_its_members(name: str) -> None:
    model = decoder(name)
    anatomy = Anatomy.of(model)
    members = [tensors_like(model, seed=seed, dtype=torch.float32) for seed in range(3)]
    other = tensors_like(model, seed=9, dtype=torch.float32)
    stack = {key: torch.stack([member[key] for member in members]) for key in other}
    by_one = torch.stack([anatomy.inner(member, other) for member in members])
    own = torch.stack([anatomy.inner(member, member) for member in members])
    # `inner` rounds each product to float32: 6e-8 of 1e3 terms of 1.
    torch.testing.assert_close(anatomy.inner_many(stack, other), by_one, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(anatomy.inner_many(stack, stack), own, rtol=1e-6, atol=1e-6)
    with pytest.raises(ModelError, match="must have the parameter's shape"):
        anatomy.inner_many(members[0], other)


def test_a_stack_of_nothing_has_no_products() -> None:
    assert Anatomy.of(decoder("llama")).only([]).inner_many({}, {}).shape == (0, 0)


def test_neighbours_become_a_range() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert ranges([]) == ""


def test_columns_stand_below_each_other() -> None:
    assert aligned([("a", "bb", "c"), ("dd", "e", "fff")], left=1) == [
        "a   bb    c",
        "dd   e  fff",
    ]
