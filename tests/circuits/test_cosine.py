"""The cosine of two tasks: 1 for two halves of one, its sign, its interval, and silence where there is only noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.circuits.known_scores import World, noise, rows
from torch import Tensor

from crosstune.circuits.cosine import IndependentScores
from crosstune.circuits.scoring.independent import IndependentMeans
from crosstune.foundation.statistics.intervals import Interval

WORLD = World(n_a=16, n_b=12, shift=1.0, lean=1.0).with_settings(fisher="pooled")
PLACES, ELEMENTS = 150, 400


def alone(n: int, task: str) -> list[str]:
    return [f"{task}{at}" for at in range(n)]


def scores_of(a: Tensor, b: Tensor, units: tuple[list[str], list[str]]) -> IndependentScores:
    """Mean scores of gradients [n, places, elements] with independent ones, in a flat metric."""

    def means(left: int, right: int) -> Tensor:
        independent = torch.tensor([[i != j for j in units[right]] for i in units[left]]).double()
        pairs = torch.einsum("isk,jsk->ijs", (a, b)[left], (a, b)[right])
        return (pairs * independent[..., None]).sum(1) / independent.sum(1)[:, None]

    sides = IndependentMeans(means(0, 0), means(1, 1), means(0, 1), means(1, 0))
    return IndependentScores(sides, *units)


def measured(
    a: Tensor, b: Tensor, units: tuple[list[str], list[str]]
) -> tuple[IndependentScores, Interval]:
    found = scores_of(a, b, units)
    return found, found.cosine(0.95)


def drawn(n: int, of: Tensor, seed: int, amplitude: float = 0.4) -> Tensor:
    """Samples whose mean is a direction of length `amplitude`, each with noise of length 1."""
    return amplitude * of + noise(n, PLACES, ELEMENTS, seed=seed) / ELEMENTS**0.5


def directions(rho: float) -> tuple[Tensor, Tensor]:
    """Two directions of unit length at a cosine."""
    first, other = noise(PLACES, ELEMENTS, seed=1), noise(PLACES, ELEMENTS, seed=2)
    first = first / first.norm(dim=1, keepdim=True)
    other = other - (other * first).sum(1, keepdim=True) * first
    other = other / other.norm(dim=1, keepdim=True)
    return first, rho * first + (1 - rho**2) ** 0.5 * other


@pytest.mark.parametrize("rho", [-0.6, 0.0, 0.6, 0.9])
def test_intervals_hold_the_true_cosine_as_often_as_they_say(rho: float) -> None:
    a, b = directions(rho)
    units = alone(24, "a"), alone(16, "b")
    _, found = measured(drawn(24, a, 3), drawn(16, b, 4), units)
    held = ((found.low <= rho) & (found.high >= rho)).double().mean()
    assert held > 0.9, held  # 0.95 of 150 places, give or take 0.018; 0.93 or more at 24 seeds
    assert abs(found.value.mean() - rho) < 0.03, "the noise of samples does not pull it to 0"


def test_the_error_is_that_of_a_jackknife() -> None:
    """One sample after another left out, of either task."""
    a, b = (
        drawn(n, mean, seed, 3.0)
        for n, mean, seed in zip((20, 14), directions(0.7), (3, 4), strict=True)
    )
    a = a * noise(20, PLACES, 1, seed=5).mul(0.5).exp()
    b = b * noise(14, PLACES, 1, seed=6).mul(0.5).exp()
    units = alone(20, "a"), alone(14, "b")
    _, found = measured(a, b, units)
    variance = torch.zeros(PLACES, dtype=torch.float64)
    for task, n in ((0, 20), (1, 14)):
        without = []
        for i in range(n):
            kept = [at for at in range(n) if at != i]
            sides = (a[kept], b) if task == 0 else (a, b[kept])
            named = [units[0], units[1]]
            named[task] = [units[task][at] for at in kept]
            without.append(measured(*sides, tuple(named))[1].value)
        left = torch.stack(without)
        variance += (n - 1) / n * (left - left.mean(0)).square().sum(0)
    quantile = torch.from_numpy(np.asarray(stats.t.ppf(0.975, found.df.numpy())))
    error = (found.high - found.low) / 2 / quantile
    torch.testing.assert_close(error, variance.sqrt())  # float64
    # A deviation over 150 places errs by 1 / sqrt(300) = 0.06; of 24 seeds sd 0.036.
    assert abs(error.mean() / found.value.std() - 1) < 0.15, (
        "which is the deviation over the places"
    )


def test_copies_of_samples_neither_move_it_nor_add_certainty() -> None:
    a, b = directions(0.5)
    a, b = drawn(12, a, 5), drawn(12, b, 6)
    units = alone(12, "a"), alone(12, "b")
    own, once = measured(a, b, units)
    doubled = units[0] * 2, units[1]
    copied, found = measured(torch.cat([a, a]), b, doubled)
    torch.testing.assert_close(found.value, once.value)
    torch.testing.assert_close(found.low, once.low)
    for one, other in zip(own.intervals(0.95), copied.intervals(0.95), strict=True):
        torch.testing.assert_close(one.low, other.low)


def test_samples_of_two_tasks_that_share_their_noise_do_not_meet() -> None:
    """Translations, or near copies: their noise is no agreement of the tasks."""
    a, b = directions(0.3)
    common = noise(24, PLACES, ELEMENTS, seed=9) / ELEMENTS**0.5
    units = alone(24, "s"), alone(24, "s")
    _, found = measured(drawn(24, a, 3) + 2 * common, drawn(24, b, 4) + 2 * common, units)
    held = ((found.low <= 0.3) & (found.high >= 0.3)).double().mean()
    assert held > 0.85 and abs(found.value.mean() - 0.3) < 0.06
    apart = alone(24, "a"), alone(24, "b")
    _, blind = measured(drawn(24, a, 3) + 2 * common, drawn(24, b, 4) + 2 * common, apart)
    assert blind.value.mean() > 0.6, "if they count as independent, noise is taken for agreement"
    for one, df in ((found, 22.0), (blind, 46.0)):  # units of both tasks err together
        torch.testing.assert_close(one.df, torch.full_like(one.df, df))


def test_noise_alone_is_seldom_taken_for_a_share_with_itself() -> None:
    nothing = torch.zeros(PLACES, ELEMENTS, dtype=torch.float64)
    units = alone(24, "a"), alone(16, "b")
    noisy = drawn(24, nothing, 7), drawn(16, nothing, 8)
    own, _ = measured(*noisy, units)
    for interval in own.intervals(0.95):
        assert (interval.low > 0).double().mean() < 0.07
    assert not own.resolved(0.95).any()
    real = [
        drawn(n, mean, seed) for n, mean, seed in zip((24, 16), directions(0), (7, 8), strict=True)
    ]
    assert measured(*real, units)[0].resolved(0.95).all()
    for one in ((real[0], noisy[1]), (noisy[0], real[1])):
        assert not measured(*one, units)[0].resolved(0.95).any(), "it takes both"
    wild = drawn(24, nothing, 7)
    wild[::2], wild[1::2] = wild[::2] + directions(0)[0], wild[1::2] - directions(0)[0]
    against = measured(wild, real[1], units)[0]
    assert (against.intervals(0.95)[0].value < 0).double().mean() > 0.9
    assert not against.resolved(0.95).any(), "below 0 is no share"
    assert against.cosine(0.95).value.isnan().double().mean() > 0.9


def test_chance_finds_among_many_heads_are_not_taken_for_shares() -> None:
    """One head of many that a single interval would let through."""
    units = alone(24, "a"), alone(16, "b")
    nothing = torch.zeros(PLACES, ELEMENTS, dtype=torch.float64)
    own, _ = measured(drawn(24, nothing, 7), drawn(16, directions(0)[0], 8), units)
    error = 2 * own.means.within_a.std(0) / 24**0.5
    shifted = own.means.within_a - own.means.within_a.mean(0)
    shifted[:, 0] += 2.2 * error[0]
    one = replace(own, means=replace(own.means, within_a=shifted))
    assert one.intervals(0.95)[0].low[0] > 0
    assert not one.resolved(0.95)[0]
    sides = (side[:, :1] for side in vars(one.means).values())
    first = replace(one, means=IndependentMeans(*sides))
    assert first.resolved(0.95)[0]
    assert not first.resolved(0.99)[0]


def test_too_few_units_have_no_error_and_are_not_resolved() -> None:
    a, b = (drawn(12, mean, seed) for mean, seed in zip(directions(0.5), (3, 4), strict=True))
    for groups in (2, 3):
        units = [f"g{i % groups}" for i in range(12)], alone(12, "b")
        found, _ = measured(a, b, units)
        of_a, of_b = found.intervals(0.95)
        assert of_a.low.isnan().all() and of_b.low.isfinite().all()
        assert not found.resolved(0.95).any()


def test_the_level_is_the_one_asked_for() -> None:
    table = {
        level: replace(WORLD, seed=5)
        .with_settings(level=level)
        .scores()
        .summary.where(variant="signed")
        for level in (0.8, 0.95)
    }
    for name in ("cosine", "own_a", "own_b"):
        wide, narrow = (
            np.array(table[level].column(f"{name}_high"))
            - np.array(table[level].column(f"{name}_low"))
            for level in (0.95, 0.8)
        )
        assert (narrow < 0.8 * wide).all(), name
    # Of 36 heads 4.5 fewer, give or take 2.4; over six seeds 27, give or take 6.
    resolved = [
        sum(
            sum(
                replace(WORLD, shift=0.25, seed=seed)
                .with_settings(level=level)
                .scores()
                .summary.where(variant="signed")
                .column("resolved")
            )
            for seed in range(6)
        )
        for level in (0.5, 0.999)
    ]
    assert resolved[0] > resolved[1]


def test_the_table_has_the_mean_in_parts_of_both_own_means() -> None:
    for lean, sign in ((1.0, 1), (-1.0, -1)):
        table = replace(WORLD, lean=lean).scores().summary.where(variant="signed")
        mean, own_a, own_b = (np.array(table.column(n)) for n in ("mean", "own_a", "own_b"))
        expected = mean / np.sqrt(own_a * own_b)
        # kept in float32: 6e-8 for each of the three
        np.testing.assert_allclose(table.column("cosine"), expected, rtol=1e-6)
        assert all(table.column("resolved")) and set(np.sign(table.column("cosine"))) == {sign}


def test_two_halves_of_one_task_are_alike() -> None:
    summaries = [replace(WORLD, n_b=16, seed=seed).scores().summary for seed in range(3)]
    for variant in ("signed", "symmetric"):
        low, high = (
            np.concatenate(
                [one.where(variant=variant).column(f"cosine_{end}") for one in summaries]
            )
            for end in ("low", "high")
        )
        # 0.977 of 108 heads, give or take 0.015
        assert np.mean((low <= 1) & (high >= 1)) > 0.9


def test_forms_without_it_say_nothing() -> None:
    table = WORLD.scores().summary.where(variant="directional")
    assert np.isnan(table.column("cosine")).all() and not any(table.column("resolved"))


def test_groups_are_units_of_it() -> None:
    plain = WORLD.scores().summary.where(variant="symmetric")
    grouped = replace(WORLD, rows_a=rows("a", 16, group=4)).scores()
    table = grouped.summary.where(variant="symmetric")
    # These scores know no groups.
    np.testing.assert_allclose(table.column("cosine"), plain.column("cosine"))
    assert table.column("own_a_low") != plain.column("own_a_low")
