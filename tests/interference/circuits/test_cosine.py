"""The cosine of two tasks: 1 for two halves of one, its sign, its interval, and silence where there is only noise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from tests.interference.circuits.known_scores import World, noise, rows
from torch import Tensor

from crosstune.foundation.statistics.intervals import Interval
from crosstune.interference.circuits.cosine import Own, cosine

WORLD = World(n_a=16, n_b=12, shift=1.0, lean=1.0).with_settings(fisher="pooled")
PLACES, ELEMENTS = 150, 400


def alone(n: int, task: str) -> list[str]:
    return [f"{task}{at}" for at in range(n)]


def measured(a: Tensor, b: Tensor, units: tuple[list[str], list[str]]) -> tuple[Own, Interval]:
    """The cosine of gradients [n, places, elements] in a flat metric."""

    def own(g: Tensor, of: list[str]) -> Tensor:
        apart = torch.tensor([[i != j for j in of] for i in of]).double()
        pairs = torch.einsum("isk,jsk->ijs", g, g)
        return (pairs * apart[..., None]).sum(1) / apart.sum(1)[:, None]

    axes = SimpleNamespace(units_a=units[0], units_b=units[1])
    pairs = torch.einsum("isk,jsk->ijs", a, b)
    found = Own(own(a, units[0]), own(b, units[1]))
    return found, cosine(pairs.mean(1), pairs.mean(0), found, axes, 0.95)


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


def test_intervals_hold_the_true_cosine_as_often_as_they_say() -> None:
    for rho in (-0.6, 0.0, 0.9):
        a, b = directions(rho)
        units = alone(24, "a"), alone(16, "b")
        _, found = measured(drawn(24, a, 3), drawn(16, b, 4), units)
        held = ((found.low <= rho) & (found.high >= rho)).double().mean()
        assert held > 0.9, (rho, held)
        assert abs(found.value.mean() - rho) < 0.03, "the noise of samples does not pull it to 0"
        assert (found.high - found.low).median() < 0.6


def test_copies_of_samples_neither_move_it_nor_add_certainty() -> None:
    a, b = directions(0.5)
    a, b = drawn(12, a, 5), drawn(12, b, 6)
    own, once = measured(a, b, (alone(12, "a"), alone(12, "b")))
    twice = torch.cat([a, a])
    copied, found = measured(twice, b, (alone(12, "a") * 2, alone(12, "b")))
    torch.testing.assert_close(found.value, once.value)
    torch.testing.assert_close(found.low, once.low)
    axes = SimpleNamespace(units_a=alone(12, "a") * 2, units_b=alone(12, "b"))
    plain = SimpleNamespace(units_a=alone(12, "a"), units_b=alone(12, "b"))
    for one, other in zip(own.intervals(plain, 0.95), copied.intervals(axes, 0.95), strict=True):
        torch.testing.assert_close(one.low, other.low)


def test_noise_alone_is_seldom_taken_for_a_share_with_itself() -> None:
    nothing = torch.zeros(PLACES, ELEMENTS, dtype=torch.float64)
    units = alone(24, "a"), alone(16, "b")
    own, _ = measured(drawn(24, nothing, 7), drawn(16, nothing, 8), units)
    axes = SimpleNamespace(units_a=units[0], units_b=units[1])
    for interval in own.intervals(axes, 0.95):
        assert (interval.low > 0).double().mean() < 0.07
    assert not own.resolved(axes, 0.95).any()
    there, _ = measured(drawn(24, directions(0)[0], 7), drawn(16, directions(0)[1], 8), units)
    assert there.resolved(axes, 0.95).all()


def test_the_table_has_the_mean_in_parts_of_both_own_means() -> None:
    for lean, sign in ((1.0, 1), (-1.0, -1)):
        table = replace(WORLD, lean=lean).scores().summary.where(variant="signed")
        mean, own_a, own_b = (np.array(table.column(n)) for n in ("mean", "own_a", "own_b"))
        np.testing.assert_allclose(table.column("cosine"), mean / np.sqrt(own_a * own_b))
        assert all(table.column("resolved")) and set(np.sign(table.column("cosine"))) == {sign}


def test_two_halves_of_one_task_are_alike() -> None:
    world = replace(WORLD, n_b=16)
    for variant in ("signed", "symmetric"):
        table = world.scores().summary.where(variant=variant)
        low, high = (np.array(table.column(f"cosine_{end}")) for end in ("low", "high"))
        assert np.mean((low <= 1) & (high >= 1)) > 0.9


def test_forms_without_it_say_nothing() -> None:
    table = WORLD.scores().summary.where(variant="directional")
    assert np.isnan(table.column("cosine")).all() and not any(table.column("resolved"))


def test_groups_are_units_of_it() -> None:
    plain = WORLD.scores().summary.where(variant="symmetric")
    grouped = replace(WORLD, rows_a=rows("a", 16, group=4)).scores()
    table = grouped.summary.where(variant="symmetric")
    assert table.column("cosine") == plain.column("cosine"), "these own scores know no groups"
    assert table.column("own_a_low") != plain.column("own_a_low")
