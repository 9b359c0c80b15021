"""States held against the teacher's: a slow float64 twin, 1 for who predicts the mean, 0 for the teacher itself, and maps of sites."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, PILOT, ROWS, TEACHER, schedule
from tests.distillation.terms.test_alignment import aligned, row
from torch.nn.functional import cosine_similarity

from crosstune.distillation.terms.hidden import Hidden, Layerwise, match_sites
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.models import Stream
from crosstune.foundation.training import Terms
from crosstune.foundation.training.loss import LossModule

STUDENT = pair.student()


def test_sites_by_hand() -> None:
    assert match_sites(2, 5) == {1: 2, 2: 5}
    assert match_sites(5, 5) == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    assert match_sites(3, 7) == {1: 2, 2: 4, 3: 7}
    assert match_sites(4, 2) == {1: 0, 2: 1, 3: 1, 4: 2}
    assert match_sites(2, 5, {0: 0, 2: 4}) == {0: 0, 2: 4}
    assert match_sites(2, 5, [(1, 3)]) == {1: 3}


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_the_sum_is_that_of_a_slow_twin_and_so_is_its_gradient(kind: str) -> None:
    batch = pair.batch_of(NEW)
    term = Hidden(schedule("hidden"), PILOT, STUDENT, kind=kind)
    for layer in term.projections.values():
        torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(3))
    states, second = pair.drawn(batch, 16, (1, 2)), pair.drawn(batch, 24, (2, 5), seed=1)
    total = term.sums(pair.shown(batch, states, second))
    total.backward()
    expected = torch.zeros((), dtype=torch.float64)
    doubles = {site: some.detach().double().requires_grad_() for site, some in states.items()}
    for site, other in ((1, 2), (2, 5)):
        weight = term.projections[str(site)].weight.detach().double()
        for b, t in pair.scored(batch):
            mapped, target = weight @ doubles[site][b, t], second[other][b, t].detach().double()
            if kind == "cosine":
                expected = expected + (1 - cosine_similarity(mapped, target, dim=0)) / 2
            else:
                gaps = (mapped - target).square() * PILOT.precision[other].double()
                expected = expected + gaps.sum() / 2
    assert total.dtype == torch.float64
    assert total.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    for site, some in states.items():
        expect = doubles[site].grad
        torch.testing.assert_close(
            some.grad.double(), expect, rtol=1e-4, atol=1e-6 * float(expect.abs().max())
        )


def test_who_predicts_the_mean_pays_1_at_every_site() -> None:
    batch = pair.batch_of(ROWS)
    term = Hidden(schedule("hidden"), PILOT, STUDENT)
    second = Stream.of(TEACHER).read(batch, [2, 5])
    states = {site: torch.zeros(*batch["labels"].shape, 16) for site in (1, 2)}
    at = pair.scored(batch)
    for site, other in term.sites.items():
        states[site][..., 0] = 1.0
        mean = torch.stack([second[other][b, t].double() for b, t in at]).mean(dim=0)
        with torch.no_grad():
            term.projections[str(site)].weight[:, 0] = mean.float()
    found = term.by_site(pair.shown(batch, states, second)) / len(at)
    assert found.tolist() == pytest.approx([1.0, 1.0], rel=1e-4)


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_the_teacher_itself_pays_nothing_and_learns_nothing(kind: str) -> None:
    """Equal widths: the projection begins as the identity."""
    twin = copy.deepcopy(TEACHER)
    terms = [kept(schedule("hidden"), PILOT, twin, kind=kind) for kept in (Hidden, Layerwise)]
    sums, gradients = pair.summed(LossModule(twin, Terms(terms, TEACHER)), [NEW])
    assert sums == pytest.approx({"hidden": 0.0, "layerwise": 0.0}, abs=1e-5)
    assert gradients.keys() >= {"learning.0.projections.1.weight", "learning.1.scores"}
    for name, gradient in gradients.items():
        assert gradient.abs().max().item() < 1e-4, name


def test_a_softmax_over_layers_weighs_what_the_mean_weighs_alike() -> None:
    batch = pair.batch_of(NEW)
    seen = pair.shown(batch, pair.drawn(batch, 16, (1, 2)), pair.drawn(batch, 24, (2, 5), seed=1))
    mean = Hidden(schedule("hidden"), PILOT, STUDENT)
    learned = Layerwise(schedule("layerwise"), PILOT, STUDENT)
    learned.projections.load_state_dict(mean.projections.state_dict())
    assert learned.sums(seen).item() == pytest.approx(mean.sums(seen).item(), rel=1e-6)
    with torch.no_grad():
        learned.scores.copy_(torch.tensor([0.3, 0.7]).log() + 5.0)
    sites = learned.by_site(seen)
    total = learned.sums(seen)
    assert total.item() == pytest.approx(0.3 * sites[0].item() + 0.7 * sites[1].item())
    total.backward()
    gap = (sites[0] - sites[1]).item()
    assert learned.scores.grad.tolist() == pytest.approx([0.21 * gap, -0.21 * gap], rel=1e-4)


def test_projections_begin_at_the_least_squares_or_at_the_identity() -> None:
    batches = [pair.batch_of(ROWS[:7]), pair.batch_of(ROWS[7:])]
    seen = [
        pair.shown(
            one, pair.drawn(one, 16, (1, 2), seed=n), pair.drawn(one, 24, (2, 5), seed=9 + n)
        )
        for n, one in enumerate(batches)
    ]
    term = Hidden(schedule("hidden"), PILOT, STUDENT)
    before = torch.get_rng_state()
    term.begin(seen)
    assert torch.equal(torch.get_rng_state(), before)
    for site, other in term.sites.items():
        own, target = (
            torch.cat([getattr(one, side)[at][b, t][None].detach().double()
                       for one, batch in zip(found, batches, strict=True) for b, t in pair.scored(batch)])
            for side, at, found in (("states", site, seen), ("states", other, [one.second for one in seen]))
        )  # fmt: skip
        ridge = (1e-4 * own.square().sum() / 16).sqrt() * torch.eye(16)  # as rows of data
        whole = torch.cat([own, ridge]), torch.cat([target, torch.zeros(16, 24)])
        expected = torch.linalg.lstsq(*whole).solution.T
        found_weight = term.projections[str(site)].weight.detach().double()
        torch.testing.assert_close(found_weight, expected, rtol=1e-4, atol=1e-6)
    twin = Hidden(schedule("hidden"), PILOT, TEACHER)
    states = pair.drawn(batches[0], 24, (1, 2, 3, 4, 5))
    twin.begin([pair.shown(batches[0], states, states)])
    assert torch.equal(twin.projections["1"].weight, torch.eye(24))
    assert "precision1" not in term.state_dict()  # made again, not kept in checkpoints


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({3: 5}, "student's sites 0 to 2 and the teacher's 0 to 5; found 3: 5"),
        ({1: 6}, "found 1: 6"),
        ([(1, 2), (1, 3)], "each of the student's once; found 1: 2, 1: 3"),
        ({}, "must be at least one.*found none"),
    ],
)
def test_sites_that_do_not_fit_are_refused(sites: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=f"`sites` .*{message}"):
        Hidden(schedule("hidden"), PILOT, STUDENT, sites=sites)


def test_across_tokenizers_states_are_held_against_each_other_where_spans_begin() -> None:
    own, other = row([1, 5, 6, 7], (0, 2, 4, 7)), row([1, 5, 6], (0, 4, 7))
    sides = [pair.batch_of([one]) for one in (own, other)]
    states, second = pair.drawn(sides[0], 16, (1, 2)), pair.drawn(sides[1], 24, (2, 5), seed=1)
    term = Hidden(schedule("hidden"), PILOT, STUDENT, alignment=aligned(own, other))
    found = term.sums(pair.shown(sides[0], states, second))
    kept = {
        site: some[:, [0, 2, 3]] for site, some in states.items()
    }  # as if 5 and 6 were one token
    plain = Hidden(schedule("hidden"), PILOT, STUDENT).sums(pair.shown(sides[1], kept, second))
    assert found.item() == pytest.approx(plain.item(), rel=1e-12)
