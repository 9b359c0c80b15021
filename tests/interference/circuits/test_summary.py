"""Means of heads carry the interval of both tasks' samples, and say what averages can say of A."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.interference.circuits.known_scores import World, noise, rows

from crosstune.interference.circuits.settings import Form
from crosstune.interference.circuits.summary import Margins, whole

SIGNED = Form("signed", "pooled")
POOLED = World(n_a=16, n_b=12).with_settings(fisher="pooled")


def row(world: World, **where: object) -> dict:
    (found,) = world.scores().summary.where(**where).rows()
    return found


PLACE = {"layer": 1, "block": "o", "head": 2, "variant": "signed"}


def test_a_mean_errs_with_rows_and_columns() -> None:
    pairs = POOLED.scores().pairs("o", SIGNED)[:, :, 1, 2].astype(np.float64)
    found = row(POOLED, **PLACE)
    rows_, columns = pairs.mean(1), pairs.mean(0)
    parts = np.array([rows_.var(ddof=1) / 16, columns.var(ddof=1) / 12])
    error = math.sqrt(parts.sum())
    df = parts.sum() ** 2 / (parts[0] ** 2 / 15 + parts[1] ** 2 / 11)
    assert found["mean"] == pytest.approx(pairs.mean(), rel=1e-4)
    reach = stats.t.ppf(0.975, df) * error
    assert found["mean_high"] - found["mean_low"] == pytest.approx(2 * reach, rel=1e-4)
    assert found["df"] == pytest.approx(df, rel=1e-4)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(pairs.mean()) / error, df), rel=1e-3)
    assert (found["n_a"], found["n_b"], found["units_a"], found["units_b"]) == (16, 12, 16, 12)
    assert found["band_high"] - found["band_low"] > found["mean_high"] - found["mean_low"]


def test_p_is_adjusted_within_a_block_and_variant() -> None:
    own = POOLED.scores().summary.where(block="o", variant="signed")
    expected = stats.false_discovery_control(own.column("p"))
    np.testing.assert_allclose(own.column("p_adjusted"), expected)


def test_planted_conflict_and_synergy_are_shown_and_noise_is_not() -> None:
    for lean, sign in ((-1.0, -1), (1.0, 1)):
        table = replace(POOLED, shift=1.0, lean=lean).scores().summary.where(variant="signed")
        assert all(table.column("shown")) and set(np.sign(table.column("mean"))) == {sign}
    table = POOLED.scores().summary.where(variant="signed")
    assert not any(table.column("shown"))


def test_bands_err_in_one_of_twenty_blocks_at_most() -> None:
    wrong = sum(
        any(
            replace(POOLED, seed=seed)
            .with_settings(blocks=("q",))
            .scores()
            .summary.where(variant="signed")
            .column("shown")
        )
        for seed in range(1, 26)
    )
    assert wrong <= 4, "of 25 at 0.05; 5 or more has probability 0.007"


def test_what_cannot_be_negative_is_not_tested_against_0() -> None:
    for variant in ("directional", "symmetric"):
        table = POOLED.scores().summary.where(variant=variant)
        assert np.isnan(table.column("p")).all() and np.isnan(table.column("p_adjusted")).all()
        assert set(table.column("against")) == {"the mean head"}
        assert min(table.column("mean")) > 0


def test_a_loud_head_stands_out() -> None:
    scores = POOLED.scores()
    margins = Margins.of(scores.record, "q", Form("symmetric", "pooled"))
    table = scores.summary.where(variant="symmetric", block="q")
    assert not any(table.column("shown")) and margins.mean.shape == (12,)
    loud = POOLED.begin()
    for layer in range(3):
        blocks = POOLED.layer(layer)
        for side in (blocks["q"].columns, blocks["q"].rows):
            side[Form("symmetric", "pooled")][..., 3] *= 3 if layer == 1 else 1
        loud.put(layer, blocks)
    shown = [
        one for one in loud.summary.where(variant="symmetric", block="q").rows() if one["shown"]
    ]
    assert (1, 3) in {(one["layer"], one["head"]) for one in shown}
    assert all(one["mean"] < 11 for one in shown if (one["layer"], one["head"]) != (1, 3))


def test_the_blind_average_is_exactly_the_size_of_b() -> None:
    blind = World().with_settings(averages="task_a").scores().summary.where(variant="directional")
    np.testing.assert_allclose(blind.column("mean_l1"), 1.0, rtol=1e-5)
    seeing = World().scores().summary.where(variant="directional").column("mean_l1")
    assert min(abs(np.array(seeing) - 1)) > 1e-4
    others = World().scores().summary.where(variant="signed").column("mean_l1")
    assert np.isnan(others).all()


def test_a_sample_without_gradient_has_no_share() -> None:
    scores = World().begin()
    blocks = World().layer(0)
    blocks["q"].l1_b[0] = 0.0
    scores.put(0, blocks)
    shares = scores.summary.where(block="q", variant="directional", layer=0).column("mean_l1")
    assert np.isfinite(shares).all()


def test_groups_are_the_units() -> None:
    grouped = replace(POOLED, rows_a=rows("a", 16, group=4))
    alone, together = row(POOLED, **PLACE), row(grouped, **PLACE)
    assert together["units_a"] == 4 and together["n_a"] == 16
    assert together["mean"] == alone["mean"] and together["mean_low"] != alone["mean_low"]


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 6), (8, 1)])
def test_one_sample_has_a_mean_and_no_interval(n_a: int, n_b: int) -> None:
    found = row(World(n_a=n_a, n_b=n_b), **PLACE)
    assert math.isfinite(found["mean"]) and math.isnan(found["mean_low"])
    assert math.isnan(found["p"]) and not found["shown"]
    assert math.isnan(found["reliability"]) and not found["reliable"]


def test_reliability_knows_signal_from_noise() -> None:
    strong = replace(POOLED, shift=2.0, lean=1.0).scores().summary.where(variant="signed")
    weak = POOLED.scores().summary.where(variant="signed")
    assert np.median(strong.column("reliability")) > 0.8 > np.median(weak.column("reliability"))
    assert weak.column("reliable") == [one >= 0.2 for one in weak.column("reliability")]


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_halves_make_the_whole(n: int) -> None:
    values = noise(n, 3, seed=0)
    halves = torch.stack([values[0::2].mean(0), values[1::2].mean(0)])
    torch.testing.assert_close(whole(halves, n), values.mean(0))


def test_slices_tell_what_a_fisher_is_made_of() -> None:
    table = World().with_settings(damping_share=0.5).scores().slices
    assert len(table) == 3 * (4 + 2 + 2 + 4)
    for one in table.rows():
        assert 0 < one["min"] <= one["median"] <= one["max"] and one["fisher"] == "task_a"
        assert one["damping"] == pytest.approx(one["median"] / 2, rel=1e-6)
