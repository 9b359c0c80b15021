"""Each sample's mean score with independent samples, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.circuits.toy_attention import Layer, Toy
from torch import Tensor

from crosstune.circuits.scoring import independent
from crosstune.circuits.scoring.engine import score_layer
from crosstune.circuits.scoring.independent import IndependentMeans, has_within_task
from crosstune.circuits.scoring.memory import GIB
from crosstune.circuits.settings import CircuitSettings, Form

TOY = Toy.make()
COUNTS = (7, 5)
SAMPLES = tuple(TOY.samples(count, seed) for seed, count in enumerate(COUNTS, start=1))
ORDERS = ([4, 2, 6, 0, 1, 5, 3], [2, 0, 1, 4, 3])
SETTINGS = CircuitSettings(
    variants=("directional", "signed", "symmetric", "ewc", "kfac"), min_samples=2
)
SIGNED, SYMMETRIC = Form("signed", "pooled"), Form("symmetric", "pooled")


def layer(task: int, groups: tuple[str, ...] = ()) -> Layer:
    return replace(TOY.layer(SAMPLES[task], ORDERS[task]), groups=groups)


def by_loop(
    block: str, form: Form, units: tuple[tuple[str, ...], tuple[str, ...]], of: int, other: int
) -> Tensor:
    """The mean over every pair of a sample of one task with one of another, or of its own, of another unit."""
    both = [TOY.gradients(samples, block) for samples in SAMPLES]
    fishers = [g.square().mean(0) for g in both]
    fisher = fishers[0] if form.fisher == "task_a" else sum(fishers) / 2
    floor = fisher.clamp(min=SETTINGS.epsilon)
    divisor = floor + SETTINGS.damping_share * fisher.median(-1, keepdim=True).values
    left, right = (
        both[task].abs() if form.variant == "symmetric" else both[task] for task in (of, other)
    )
    means = []
    for i, unit in enumerate(units[of]):
        others = [j for j, one in enumerate(units[other]) if one != unit]
        means.append(torch.stack([(left[i] * right[j] / divisor).sum(-1) for j in others]).mean(0))
    return torch.stack(means)


def expected(
    block: str, form: Form, units: tuple[tuple[str, ...], tuple[str, ...]]
) -> IndependentMeans:
    return IndependentMeans(
        *(by_loop(block, form, units, *of) for of in ((0, 0), (1, 1), (0, 1), (1, 0)))
    )


def assert_same(found: IndependentMeans, wanted: IndependentMeans) -> None:
    # float64: sums of 1e2 terms, 2.2e-16 * 1e2, times 1e3 for what a small Fisher enlarges
    for name, side in vars(wanted).items():
        torch.testing.assert_close(
            getattr(found, name), side, rtol=1e-10, atol=2e-11, equal_nan=True, msg=name
        )


ALONE = tuple(f"a{i}" for i in range(7)), tuple(f"b{i}" for i in range(5))
GROUPED = ("x", "y", "x", "z", "x", "y", "w"), ("a", "b", "b", "c", "a")
ACROSS = ("x", "y", "x", "z", "x", "y", "w"), ("w", "x", "x", "q", "y")


def scored(units: tuple[tuple[str, ...], tuple[str, ...]], **options: object) -> dict:
    settings = replace(SETTINGS, **options)
    return score_layer(layer(0, units[0]), layer(1, units[1]), settings, heads=TOY)


@pytest.mark.parametrize("units", [ALONE, GROUPED, ACROSS])
@pytest.mark.parametrize("form", [SIGNED, SYMMETRIC])
def test_it_is_the_mean_over_all_independent_samples(
    form: Form, units: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    found = scored(units)
    for block in "qkvo":
        assert_same(found[block].independent[form], expected(block, form, units))


def test_many_dependent_pairs_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(independent, "GATHERED", 2)
    assert_same(scored(ACROSS)["q"].independent[SIGNED], expected("q", SIGNED, ACROSS))


def test_a_task_of_one_unit_has_no_others() -> None:
    found = scored((("one",) * 7, ALONE[1]))["v"].independent[SIGNED]
    assert found.within_a.isnan().all() and found.within_b.isfinite().all()
    assert found.across_a.isfinite().all()
    shared = scored((("one",) * 7, ("one",) * 5))["v"].independent[SIGNED]
    assert shared.across_a.isnan().all() and shared.across_b.isnan().all()


def test_neither_budget_nor_forms_change_it() -> None:
    whole = scored(ACROSS)["q"].independent
    tight = {"budget_gib": 24_000 / GIB, "variants": ("signed", "symmetric")}
    cut = scored(ACROSS, **tight)["q"].independent
    a, b = (layer(task, ACROSS[task]) for task in (0, 1))
    alone = score_layer(a, b, SETTINGS, heads=TOY, forms=())["q"].independent
    for form in (SIGNED, SYMMETRIC):
        assert_same(cut[form], whole[form])
        assert_same(alone[form], whole[form])


def test_only_forms_that_take_the_same_of_both_samples_have_it() -> None:
    assert set(scored(ALONE)["q"].independent) == {SIGNED, SYMMETRIC}
    assert scored(ALONE, averages="held_out")["q"].independent == {}
    for fisher, there in (
        ("task_a", True),
        ("pooled", True),
        ("true", True),
        ("held_out", False),
        ("leave_one_out", False),
    ):
        assert has_within_task(Form("signed", fisher)) == there


def test_the_fisher_is_that_of_the_averages() -> None:
    form = Form("signed", "task_a")
    found = scored(GROUPED, averages="task_a")["o"].independent[form]
    assert_same(found, expected("o", form, GROUPED))
