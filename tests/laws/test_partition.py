"""Law: every element of every parameter belongs to exactly one site, by component and by head, and the counts sum to the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import (
    CONFIGS,
    EMBEDDINGS,
    EXPERT_PARAMETERS,
    LORA,
    MIXTURES,
    decoder,
    linear_targets,
    with_lora,
)

from crosstune.foundation.models import Anatomy, Site, gradient_sites
from crosstune.foundation.models.families import FAMILIES

# PEFT warns that some of these adapters cannot be merged; nothing is merged here.
pytestmark = pytest.mark.filterwarnings(
    "ignore::peft.utils.warning.PeftWarning", "ignore::UserWarning:peft"
)

TIED = [False, True]


def check_partition(model: Any) -> Anatomy:
    anatomy = Anatomy.of(model)
    for cut in (anatomy, anatomy.by_head()):
        check_cut(model, cut)
    return anatomy


def check_cut(model: Any, anatomy: Anatomy) -> None:
    covered = {name: torch.zeros_like(p, dtype=torch.int8) for name, p in model.named_parameters()}
    counts = dict.fromkeys(anatomy.sites, 0)
    for part in anatomy.parts:
        view = part.take(covered[part.parameter])
        view += 1  # in place: also shows that a part is a view
        assert view.numel() == part.count > 0
        counts[part.site] += part.count
    for name, times in covered.items():
        assert bool((times == 1).all()), name
    assert {site: anatomy.count(site) for site in anatomy.sites} == counts
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_every_known_family_is_under_this_law() -> None:
    assert {decoder(name).config.model_type for name in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("tied", TIED, ids=["untied", "tied"])
@pytest.mark.parametrize("name", CONFIGS)
def test_elements_are_partitioned(name: str, tied: bool) -> None:
    anatomy = check_partition(decoder(name, tie_word_embeddings=tied))
    components = {site.component for site in anatomy.sites}
    assert ("embed+head" in components) == tied
    assert ({"embed", "head"} <= components) == (not tied)


@pytest.mark.parametrize("tied", TIED, ids=["untied", "tied"])
@pytest.mark.parametrize("kind", LORA)
@pytest.mark.parametrize("name", CONFIGS)
def test_elements_are_partitioned_with_lora(name: str, kind: str, tied: bool) -> None:
    base = decoder(name, tie_word_embeddings=tied)
    model = with_lora(base, target_modules=linear_targets(name), **LORA[kind])
    check_partition(model)
    trainable = gradient_sites(model)
    assert sum(trainable.count(site) for site in trainable.sites) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_elements_are_partitioned_with_an_adapted_embedding(name: str) -> None:
    anatomy = check_partition(
        with_lora(
            decoder(name, tie_word_embeddings=False),
            target_modules=[EMBEDDINGS.get(name, "embed_tokens")],
        )
    )
    factors = {site.factor for site in anatomy.sites if site.component == "embed"}
    assert factors == {None, "A", "B"}


@pytest.mark.parametrize("name", MIXTURES)
def test_elements_are_partitioned_with_adapted_experts(name: str) -> None:
    model = with_lora(decoder(name), target_modules=[], target_parameters=EXPERT_PARAMETERS)
    sites = check_partition(model).sites
    for layer in range(3):
        dense = layer == 1 and name != "mixtral"
        found = {s.expert for s in sites if s.layer == layer and s.factor == "B"}
        assert found == (set() if dense else {0, 1, 2})


@pytest.mark.parametrize("kind", LORA)
@pytest.mark.parametrize("name", ["llama", "phi3", "gpt2", "gpt_neox", "gemma3_text", "qwen3_moe"])
def test_adapters_have_sites_of_their_own(name: str, kind: str) -> None:
    base = decoder(name, tie_word_embeddings=False)
    bare = set(Anatomy.of(base).sites)
    model = with_lora(base, target_modules=linear_targets(name), **LORA[kind])
    one = Anatomy.of(model)
    for other in ("code", "prose"):
        model.add_adapter(other, model.peft_config["default"])
    anatomy = check_partition(model)
    held = {adapter: sites_holding(anatomy, adapter) for adapter in ("default", "code", "prose")}
    assert set(anatomy.sites) == set(one.sites) | held["code"] | held["prose"]
    for adapter in ("code", "prose"):
        assert held[adapter] == {replace(site, adapter=adapter) for site in held["default"]}
        assert not held[adapter] & (held["default"] | bare)


def sites_holding(anatomy: Anatomy, adapter: str) -> set[Site]:
    """The sites of all parameters whose own name says that they are this adapter's."""
    return {part.site for part in anatomy.parts if f".{adapter}" in part.parameter}


def test_stacked_experts_of_two_adapters_have_sites_of_their_own() -> None:
    model = with_lora(decoder("mixtral"), target_modules=[], target_parameters=EXPERT_PARAMETERS)
    one = {site for site in Anatomy.of(model).sites if site.factor}
    model.add_adapter("code", model.peft_config["default"])
    both = {site for site in check_partition(model).sites if site.factor}
    assert both == one | {replace(site, adapter="code") for site in one}
    assert len(both) == 2 * len(one)
