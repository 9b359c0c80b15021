"""Laws of heads: they add up to their component, a silent head learns nothing, and how a model stores them changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import (
    CONFIGS,
    ROWS,
    decoder,
    linear_targets,
    tensors_like,
    with_lora,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from crosstune.foundation.models import Anatomy, HeadMap, Projection, Site, load_model
from crosstune.foundation.models.geometry import HeadCut

pytestmark = pytest.mark.filterwarnings(
    "ignore::peft.utils.warning.PeftWarning", "ignore::UserWarning:peft"
)
ADAPTERS: dict[str, dict[str, Any]] = {"lora": {}, "dora": {"use_dora": True}}
SUMMED = 1e-11  # float64: 1e4 normal terms in another order, 2.2e-16 * 1e2, of a sum that may cancel to a hundredth
ROUNDING = (
    1e-9  # float64 gradients through three layers: 1e-14, of elements that may cancel to 1e-5
)


def made(name: str, adapter: str | None) -> Any:
    if adapter is None:
        return decoder(name)
    return with_lora(decoder(name), target_modules=linear_targets(name), **ADAPTERS[adapter])


def summed(anatomy: Anatomy, values: Tensor) -> dict[Site, Tensor]:
    """Values of sites [..., S], summed over the heads of each component."""
    found: dict[Site, Tensor] = {}
    for place, site in enumerate(anatomy.sites):
        found[site.whole] = found.get(site.whole, 0) + values[..., place]
    return found


def check_sums(model: Any) -> None:
    whole = Anatomy.of(model)
    heads = whole.by_head()
    a, b, c = (tensors_like(model, seed=seed, dtype=torch.float64) for seed in (1, 2, 3))
    stack = {name: torch.stack([a[name], c[name]]) for name in a}
    for cut, full in (
        (heads.inner(a, b), whole.inner(a, b)),
        (heads.inner_many(stack, b), whole.inner_many(stack, b)),
    ):
        by_component = summed(heads, cut)
        assert tuple(sorted(by_component, key=lambda site: site.depth_order)) == whole.sites
        together = torch.stack([by_component[site] for site in whole.sites], dim=-1)
        torch.testing.assert_close(together, full, rtol=SUMMED, atol=SUMMED)


@pytest.mark.parametrize("adapter", [None, *ADAPTERS])
@pytest.mark.parametrize("name", CONFIGS)
def test_heads_add_up_to_their_component(name: str, adapter: str | None) -> None:
    check_sums(made(name, adapter))


def test_heads_add_up_to_their_component_in_a_real_model(shared: Path) -> None:
    model = load_model(shared / "models" / "stories260K")
    check_sums(model)
    anatomy = Anatomy.of(model).by_head()
    # 64 x 64 weights of 8 heads, 32 x 64 weights of 4 key-value heads
    assert anatomy.count(Site(0, "attn.o", head=7)) == 64 * 8
    assert anatomy.count(Site(4, "attn.v", kv_head=3)) == 8 * 64


@pytest.mark.parametrize("adapter", [None, "lora", "dora"])
@pytest.mark.parametrize("name", ["llama_biased", "phi3", "gpt2", "gpt_neox"])
def test_every_site_s_product_is_that_of_its_own_elements(name: str, adapter: str | None) -> None:
    model = made(name, adapter)
    anatomy = Anatomy.of(model).by_head()
    a, b = (tensors_like(model, seed=seed, dtype=torch.float64) for seed in (1, 2))
    slow = dict.fromkeys(anatomy.sites, torch.zeros((), dtype=torch.float64))
    for part in anatomy.parts:
        slow[part.site] = (
            slow[part.site] + (part.take(a[part.parameter]) * part.take(b[part.parameter])).sum()
        )
    wanted = torch.stack(list(slow.values()))
    torch.testing.assert_close(anatomy.inner(a, b), wanted, rtol=SUMMED, atol=SUMMED)
    stack = {name: value[None] for name, value in a.items()}
    torch.testing.assert_close(anatomy.inner_many(stack, b)[0], wanted, rtol=SUMMED, atol=SUMMED)


def gradients(model: Any) -> dict[str, Tensor]:
    """The gradient of a function of all logits, in float64."""
    model = model.double()
    model.requires_grad_(True)
    model.config._experts_implementation = "eager"  # the grouped kernel knows no float64
    loss = model(ROWS).logits.double().sin().sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


def tiles(model: Any) -> dict[tuple[int, str], Tensor]:
    """The gradient of each projection, head by head."""
    found = gradients(model)
    return {(p.layer, p.block): p.tile(found[p.weight]) for p in HeadMap.of(model).projections}


@pytest.mark.parametrize("adapter", [None, "lora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_silent_head_has_no_gradient_in_the_output_and_only_there(
    name: str, adapter: str | None
) -> None:
    model = made(name, adapter).double()
    output = HeadMap.of(model).projection(1, "o")
    module = model.get_submodule(output.module)
    silent = output.heads - 1

    def mute(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        quiet = inputs[0].clone()
        output.take(quiet)[..., silent, :] = 0.0
        return (quiet, *inputs[1:])

    handle = module.register_forward_pre_hook(mute)
    found = gradients(model)
    handle.remove()
    anatomy = Anatomy.of(model).by_head()
    parts = [part for part in anatomy.parts_of(output.weight) if part.site.layer == 1]
    zero = [bool((part.take(found[output.weight]) == 0).all()) for part in parts]
    assert zero == [head == silent for head in range(output.heads)]
    assert [part.site for part in parts] == [
        Site(1, "attn.o", head=head) for head in range(output.heads)
    ]
    other = HeadMap.of(model).projection(0, "o")
    assert bool((other.tile(found[other.weight]) != 0).flatten(1).any(dim=1).all())


def assert_same(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> None:
    assert one.keys() == other.keys()
    for place, tile in one.items():
        torch.testing.assert_close(tile, other[place], rtol=ROUNDING, atol=1e-12)
        assert bool((tile != 0).flatten(1).any(dim=1).all())


@torch.no_grad()
def test_a_fused_model_has_the_heads_of_a_split_one() -> None:
    split = decoder("llama").double()
    fused = decoder("phi3", rms_norm_eps=split.config.rms_norm_eps).double()
    weights = split.state_dict()
    for layer in range(3):
        for joint, members in (
            ("self_attn.qkv_proj", [f"self_attn.{block}_proj" for block in "qkv"]),
            ("mlp.gate_up_proj", ["mlp.gate_proj", "mlp.up_proj"]),
        ):
            place = f"model.layers.{layer}"
            weights[f"{place}.{joint}.weight"] = torch.cat(
                [weights.pop(f"{place}.{member}.weight") for member in members]
            )
    fused.load_state_dict(weights)
    torch.testing.assert_close(fused(ROWS).logits, split(ROWS).logits)
    with torch.enable_grad():
        assert_same(tiles(fused), tiles(split))


def test_a_transposed_weight_has_the_heads_of_an_ordinary_one() -> None:
    transposed, ordinary = decoder("gpt2").double(), decoder("gpt2").double()
    for block in ordinary.transformer.h:
        for owner, attribute in ((block.attn, "c_attn"), (block.attn, "c_proj")):
            setattr(owner, attribute, as_linear(getattr(owner, attribute)))
    found, twins = gradients(transposed), gradients(ordinary)
    for projection in HeadMap.of(transposed).projections:
        assert projection.transposed
        cut = projection.cut
        twin = replace(
            projection,
            transposed=False,
            cut=HeadCut(1 - cut.axis, cut.sizes, cut.kept),
        )
        tile = projection.tile(found[projection.weight])
        torch.testing.assert_close(tile, twin.tile(twins[twin.weight]), rtol=ROUNDING, atol=1e-12)


def as_linear(conv: Conv1D) -> nn.Linear:
    linear = nn.Linear(*conv.weight.shape).double()
    with torch.no_grad():
        linear.weight.copy_(conv.weight.T)
        linear.bias.copy_(conv.bias)
    return linear


@torch.no_grad()
def test_repeated_key_value_heads_share_the_gradient_of_the_one() -> None:
    grouped = decoder("llama").double()
    repeated = decoder("llama", num_key_value_heads=4).double()
    weights = grouped.state_dict()
    heads = HeadMap.of(grouped)
    for projection in heads.projections:
        if projection.block in "kv":
            tile = projection.tile(weights[projection.weight])
            weights[projection.weight] = tile.repeat_interleave(2, dim=0).flatten(0, 1)
    repeated.load_state_dict(weights)
    torch.testing.assert_close(repeated(ROWS).logits, grouped(ROWS).logits)
    with torch.enable_grad():
        many, few = tiles(repeated), tiles(grouped)
    for (layer, block), tile in many.items():
        if block in "kv":
            groups = [tile[list(heads.group(kv))].sum(dim=0) for kv in range(2)]
            tile = torch.stack(groups)
        torch.testing.assert_close(tile, few[layer, block], rtol=ROUNDING, atol=1e-12)


def test_an_anatomy_s_head_is_the_map_s_head() -> None:
    for name in CONFIGS:
        model = decoder(name)
        tensors = tensors_like(model, seed=4)
        anatomy = Anatomy.of(model).by_head()
        for projection in HeadMap.of(model).projections:
            check_same_head(anatomy, projection, tensors[projection.weight])


def check_same_head(anatomy: Anatomy, projection: Projection, tensor: Tensor) -> None:
    component = Site(projection.layer, f"attn.{projection.block}")
    parts = {part.site: part for part in anatomy.parts_of(projection.weight)}
    for head, tile in enumerate(projection.tile(tensor)):
        mine = parts[component.of_head(head)].take(tensor)
        assert torch.equal(mine.flatten().sort().values, tile.flatten().sort().values)
