"""Sums of block gradients: once or twice through the blocks, stale or current, at sites or groups of them."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from tests.interference import known_sources, tiny

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.gradients.gradients import evaluating
from crosstune.foundation.ranks.collectives import owned
from crosstune.interference.conflict.collect import (
    CurrentGradients,
    FrozenGradients,
    at_sites,
    collect_sums,
    fits,
    over_groups,
)
from crosstune.interference.conflict.cosine import PairSums, agreement


def assert_same(one: PairSums, other: PairSums) -> None:
    for field in fields(PairSums):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


def assert_close(one: PairSums, other: PairSums) -> None:
    """Equal but for the rounding of float32 gradients: 6e-8 · √(1e3 sums), and terms that cancel to a fifth."""
    for field in fields(PairSums):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        atol = 1e-6 * float(mine.double().norm())
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=atol, msg=field.name)


@pytest.mark.parametrize("keep_gib", [2.0, 0.0], ids=["kept", "twice"])
def test_kept_or_computed_twice_is_the_same(keep_gib: float) -> None:
    model = tiny.llama()
    tasks = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24)}
    settings = replace(known_sources.SMALL, keep_gib=keep_gib)
    compared = known_sources.comparison(model, tasks, settings)
    assert compared.keeps is (keep_gib > 0)
    found = compared.sums(model)["current"]["en", "bn"]
    assert_close(found, known_sources.comparison(model, tasks).sums(model)["current"]["en", "bn"])


@pytest.mark.parametrize(("keep", "each"), [(True, 1), (False, 2)])
def test_cost_in_gradients(keep: bool, each: int) -> None:
    model = tiny.llama()
    tasks = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24)}
    compared = known_sources.comparison(model, tasks)
    settings = compared.settings.gradient_settings()
    with evaluating(model, settings):
        sources = [
            CurrentGradients(model, blocks, compared.parameters, settings, keep)
            for blocks in compared.blocks.values()
        ]
        collect_sums(sources, compared.pairs, compared.anatomy)
    # Without keeping, each of the 8 pairs of parallel blocks asks for its second block once more.
    assert [source.evaluations for source in sources] == [8 * each, 8 * each + (0 if keep else 8)]


def test_a_snapshot_keeps_the_gradient_of_its_state() -> None:
    model = tiny.llama()
    compared = known_sources.comparison(model)
    before = compared.sums(model)["current"]["en", "bn"]
    snapshot = compared.snapshot(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    both = compared.sums(model, snapshot)
    assert torch.equal(both["frozen"]["en", "bn"].own_a, before.own_a)
    assert torch.equal(both["frozen"]["en", "bn"].own_b, both["current"]["en", "bn"].own_b)
    assert not torch.equal(both["current"]["en", "bn"].own_a, before.own_a)
    assert isinstance(snapshot["en"], FrozenGradients)


def test_groups_add_up_and_sites_are_picked() -> None:
    sums = known_sources.comparison(tiny.llama()).sums(tiny.llama())["current"]["en", "bn"]
    sites = sums.own_a.shape[1]
    assert torch.equal(at_sites(sums, [2, 0]).across_a, sums.across_a[:, [2, 0]])
    whole = over_groups(sums, torch.ones(sites, 1, dtype=torch.float64))
    torch.testing.assert_close(whole.within_b[:, 0], sums.within_b.sum(1))
    torch.testing.assert_close(agreement(whole).u.ab, agreement(sums).u.ab.sum(0, keepdim=True))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    anatomy = known_sources.tiny_anatomy()
    a, b = (
        known_sources.random_gradients(anatomy, 2, 0),
        known_sources.random_gradients(anatomy, 2, 1),
    )
    b[1]["model.layers.1.mlp.up_proj.weight"][0, 0] = torch.nan
    sources = [known_sources.KnownSource(n, g, [set(), set()]) for n, g in (("a", a), ("b", b))]
    with pytest.raises(MeasurementError, match=r"tasks\['b'\].*block 1 at L1 mlp.up"):
        collect_sums(sources, [("a", "b")], anatomy)


def test_memory_decides_what_is_kept() -> None:
    anatomy = known_sources.tiny_anatomy()
    elements = sum(anatomy.count(site) for site in anatomy.sites)
    assert fits(10, anatomy, 40 * elements / 2**30)
    assert not fits(11, anatomy, 40 * elements / 2**30)
    assert list(owned(3)) == [0, 1, 2]
