"""Own: each sample's mean score with the samples of its task that were drawn apart from it, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.interference.circuits.toy_attention import Layer, Toy
from torch import Tensor

from crosstune.interference.circuits.engine import score_layer
from crosstune.interference.circuits.settings import CircuitSettings, Form
from crosstune.interference.circuits.tiles.own import has_own
from crosstune.interference.circuits.tiles.plan import GIB

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


def by_loop(task: int, block: str, form: Form, units: tuple[str, ...]) -> Tensor:
    """Every pair of one task by itself, those of one unit left out."""
    both = [TOY.gradients(samples, block) for samples in SAMPLES]
    fisher = sum(g.square().mean(0) for g in both) / 2
    floor = fisher.clamp(min=SETTINGS.epsilon)
    divisor = floor + SETTINGS.damping_share * fisher.median(-1, keepdim=True).values
    g = both[task].abs() if form.variant == "symmetric" else both[task]
    means = []
    for i, unit in enumerate(units):
        others = [j for j, other in enumerate(units) if other != unit]
        means.append(torch.stack([(g[i] * g[j] / divisor).sum(-1) for j in others]).mean(0))
    return torch.stack(means)


@pytest.mark.parametrize("block", ["q", "k", "v", "o"])
@pytest.mark.parametrize("form", [SIGNED, SYMMETRIC])
def test_it_is_the_mean_over_all_others(block: str, form: Form) -> None:
    found = score_layer(layer(0), layer(1), COUNTS, SETTINGS, heads=TOY)[block].own[form]
    for task, own in enumerate(found):
        expected = by_loop(task, block, form, tuple(map(str, range(COUNTS[task]))))
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", [SIGNED, SYMMETRIC])
def test_samples_that_were_drawn_together_do_not_meet(form: Form) -> None:
    groups = ("x", "y", "x", "z", "x", "y", "w"), ("a", "b", "b", "c", "a")
    found = score_layer(layer(0, groups[0]), layer(1, groups[1]), COUNTS, SETTINGS, heads=TOY)
    for task, own in enumerate(found["q"].own[form]):
        expected = by_loop(task, "q", form, groups[task])
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


def test_a_task_of_one_unit_has_no_others() -> None:
    found = score_layer(layer(0, ("one",) * 7), layer(1), COUNTS, SETTINGS, heads=TOY)
    of_a, of_b = found["v"].own[SIGNED]
    assert of_a.isnan().all() and of_b.isfinite().all()


def test_neither_budget_nor_forms_change_it() -> None:
    whole = score_layer(layer(0), layer(1), COUNTS, SETTINGS, heads=TOY)["q"].own
    tight = replace(SETTINGS, budget_gib=14_000 / GIB, variants=("signed", "symmetric"))
    cut = score_layer(layer(0), layer(1), COUNTS, tight, heads=TOY)["q"].own
    alone = score_layer(layer(0), layer(1), COUNTS, SETTINGS, heads=TOY, forms=())["q"].own
    for form in (SIGNED, SYMMETRIC):
        for task in (0, 1):
            torch.testing.assert_close(cut[form][task], whole[form][task], rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(alone[form][task], whole[form][task])


def test_only_forms_that_take_the_same_of_both_samples_have_it() -> None:
    found = score_layer(layer(0), layer(1), COUNTS, SETTINGS, heads=TOY)["q"].own
    assert set(found) == {SIGNED, SYMMETRIC}
    assert not has_own(Form("signed", "held_out")) and not has_own(Form("signed", "leave_one_out"))
    apart = replace(SETTINGS, averages="held_out", min_samples=2)
    assert score_layer(layer(0), layer(1), COUNTS, apart, heads=TOY)["q"].own == {}
