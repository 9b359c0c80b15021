"""The table names only known components, and each entry says what the modules of a real model do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, MIXTURES, ROWS, decoder, with_lora
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.models.llama.modeling_llama import eager_attention_forward

from crosstune.foundation.models import Anatomy, Site
from crosstune.foundation.models.families import FAMILIES
from crosstune.foundation.models.site import COMPONENTS

# PEFT warns of settings it corrects by itself.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

SEEN: list[tuple[Tensor, Tensor, Tensor]] = []
LAYER = 1


def _watched_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *a: Any, **k: Any):
    """What each family's own code takes for queries, keys and values arrives here."""
    SEEN.append((query.detach(), key.detach(), value.detach()))
    if not hasattr(module, "num_key_value_groups"):
        module.num_key_value_groups = query.shape[1] // key.shape[1]
    return eager_attention_forward(module, query, key, value, *a, **k)


AttentionInterface.register("watched", _watched_attention)
AttentionMaskInterface.register("watched", ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def attention_inputs(model: Any, layer: int = LAYER) -> dict[str, Tensor]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.config._attn_implementation = "watched"
    SEEN.clear()
    with torch.no_grad():
        model(ROWS)
    assert len(SEEN) == base.config.num_hidden_layers
    return dict(zip(("attn.q", "attn.k", "attn.v"), SEEN[layer], strict=True))


@torch.no_grad()
def change(model: Any, site: Site, by: float | None) -> None:
    """Add to every element of a site, or set it to zero."""
    named = dict(model.named_parameters())
    parts = [part for part in Anatomy.of(model).parts if part.site == site]
    assert parts, site
    for part in parts:
        view = part.take(named[part.parameter].data)
        view.zero_() if by is None else view.add_(by)


def output_of(model: Any, path: str) -> Tensor:
    """The output of one module, first element of a tuple."""
    caught: list[Any] = []
    handle = model.get_submodule(path).register_forward_hook(lambda m, i, o: caught.append(o))
    with torch.no_grad():
        model(ROWS)
    handle.remove()
    return caught[0][0] if isinstance(caught[0], tuple) else caught[0]


def test_the_table_names_only_known_components() -> None:
    for family in FAMILIES.values():
        for holds in (*family.outside.values(), *family.inside.values()):
            assert {*holds.components, *filter(None, [holds.joint])} <= set(COMPONENTS)


@pytest.mark.parametrize("component", ["attn.q", "attn.k", "attn.v"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_projection_moves_only_its_own_stream(name: str, component: str) -> None:
    model = decoder(name)
    before = attention_inputs(model)
    change(model, Site(LAYER, component), 0.5)
    after = attention_inputs(model)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {component}
    change(model, Site(LAYER, component), None)
    assert bool((attention_inputs(model)[component] == 0).all())  # so every element is in the site


@pytest.mark.parametrize("name", ["phi3", "gpt2", "gpt_neox"])
def test_factor_b_of_a_fused_projection_moves_only_its_own_stream(name: str) -> None:
    fused = {"phi3": "qkv_proj", "gpt2": "c_attn", "gpt_neox": "query_key_value"}[name]
    for component in ("attn.q", "attn.k", "attn.v"):
        model = with_lora(decoder(name), target_modules=[fused])
        before = attention_inputs(model)
        change(model, Site(LAYER, component, factor="B"), 0.5)
        after = attention_inputs(model)
        assert {k for k in before if not torch.equal(before[k], after[k])} == {component}


@pytest.mark.parametrize("name", ["phi3", "gpt2", "gpt_neox"])
def test_factor_a_of_a_fused_projection_moves_all_three(name: str) -> None:
    fused = {"phi3": "qkv_proj", "gpt2": "c_attn", "gpt_neox": "query_key_value"}[name]
    model = with_lora(decoder(name), target_modules=[fused])
    before = attention_inputs(model)
    change(model, Site(LAYER, "attn.qkv", factor="A"), 0.5)
    after = attention_inputs(model)
    assert not any(torch.equal(before[k], after[k]) for k in before)


ATTENTION = {"gpt2": "transformer.h.1.attn", "gpt_neox": "gpt_neox.layers.1.attention"}
MLP = {"gpt2": "transformer.h.1.mlp", "gpt_neox": "gpt_neox.layers.1.mlp"}


@pytest.mark.parametrize("name", CONFIGS)
def test_without_its_output_projection_attention_says_nothing(name: str) -> None:
    model = decoder(name)
    path = ATTENTION.get(name, "model.layers.1.self_attn")
    assert bool((output_of(model, path) != 0).any())
    change(model, Site(LAYER, "attn.o"), None)
    assert bool((output_of(model, path) == 0).all())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in MIXTURES])
def test_the_mlp_is_gate_up_and_down(name: str) -> None:
    model = decoder(name)
    path = MLP.get(name, "model.layers.1.mlp")
    activation = (
        f"{path}.{'act' if name in MLP else ('activation_fn' if name == 'phi3' else 'act_fn')}"
    )
    gated = "mlp.gate" in {site.component for site in Anatomy.of(model).sites}
    assert gated == (name not in MLP)
    before = output_of(model, path), output_of(model, activation)
    change(model, Site(LAYER, "mlp.up"), 0.5)
    after = output_of(model, path), output_of(model, activation)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1]) == gated  # only a gate goes through the activation
    change(model, Site(LAYER, "mlp.gate" if gated else "mlp.up"), None)
    assert bool((output_of(model, activation) == 0).all())  # SiLU(0) = GELU(0) = 0
    change(model, Site(LAYER, "mlp.down"), None)
    assert bool((output_of(model, path) == 0).all())


def expert_output(model: Any, expert: int, rows: Tensor) -> Tensor:
    """What one expert alone says, by the family's own code with all tokens routed to it."""
    experts = model.get_submodule("model.layers.2.mlp.experts")
    model.config._experts_implementation = "eager"
    with torch.no_grad():
        return experts(rows, torch.full((len(rows), 1), expert), torch.ones(len(rows), 1))


@pytest.mark.parametrize("component", ["gate", "up", "down"])
@pytest.mark.parametrize("name", MIXTURES)
def test_an_expert_is_its_own(name: str, component: str) -> None:
    model = decoder(name)
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    before = [expert_output(model, e, rows) for e in range(3)]
    change(model, Site(2, f"mlp.experts.{component}", expert=1), None)
    after = [expert_output(model, e, rows) for e in range(3)]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert bool((after[1] == 0).all())


@pytest.mark.parametrize("name", MIXTURES)
def test_gate_comes_before_up_in_an_expert(name: str) -> None:
    model = decoder(name)
    rows = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    hook = model.get_submodule("model.layers.2.mlp.experts.act_fn").register_forward_hook(
        lambda m, i, o: seen.append(i[0])
    )
    for component, passes in (("up", True), ("gate", False)):
        seen.clear()
        expert_output(model, 0, rows)
        change(model, Site(2, f"mlp.experts.{component}", expert=0), 0.5)
        expert_output(model, 0, rows)
        assert torch.equal(seen[0], seen[1]) == passes
    hook.remove()


@pytest.mark.parametrize("name", MIXTURES)
def test_the_router_is_not_a_gate(name: str) -> None:
    model = decoder(name)
    logits = output_of(model, "model.layers.2.mlp.gate")
    change(model, Site(2, "router"), None)
    assert bool((logits != 0).any())
    router = output_of(model, "model.layers.2.mlp.gate")
    assert len(router.unique()) == 1  # without a router all experts are worth the same


@pytest.mark.parametrize("component", ["gate", "up", "down"])
def test_the_shared_expert_is_apart(component: str) -> None:
    model = decoder("qwen2_moe")
    path = "model.layers.2.mlp.shared_expert"
    assert bool((output_of(model, path) != 0).any())
    change(model, Site(2, f"mlp.shared.{component}"), None)
    assert bool((output_of(model, path) == 0).all())


@pytest.mark.parametrize("factor", ["A", "B"])
def test_factors_of_experts_change_only_their_expert(factor: Any) -> None:
    target = ["mlp.experts.gate_up_proj"]
    model = with_lora(decoder("mixtral"), target_modules=[], target_parameters=target)
    wrapper = model.base_model.model.model.layers[2].mlp.experts
    before = wrapper.get_delta_weight("default").detach()
    component = {"A": "mlp.experts.gate_up", "B": "mlp.experts.up"}[factor]
    change(model, Site(2, component, expert=1, factor=factor), None)
    after = wrapper.get_delta_weight("default").detach()
    half = after.shape[1] // 2
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert bool((after[1, half:] == 0).all())
    assert torch.equal(after[1, :half], before[1, :half]) == (factor == "B")
    assert bool((before != 0).all())
