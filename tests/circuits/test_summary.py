"""Means of heads carry the interval of both tasks' samples, and say what averages can say of A."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from tests.circuits.known_scores import World, block_scores, noise, rows

from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import Form
from crosstune.circuits.summary import Margins, _over_both_halves, _share_of_l1

SIGNED = Form("signed", "pooled")
POOLED = World(n_a=16, n_b=12).with_settings(fisher="pooled")
ROUNDING = 1e-5  # float32: means of 2e2 pairs in another order, 1.2e-7 * sqrt(2e2), times a condition of ~5


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
    assert found["mean"] == pytest.approx(pairs.mean(), abs=ROUNDING * pairs.std())
    reach = stats.t.ppf(0.975, df) * error
    assert found["mean_high"] - found["mean_low"] == pytest.approx(2 * reach, rel=ROUNDING)
    assert found["df"] == pytest.approx(df, rel=10 * ROUNDING)  # a quotient of fourth powers
    assert found["p"] == pytest.approx(
        2 * stats.t.sf(abs(pairs.mean()) / error, df), rel=1e-3
    )  # moves by |t| + 1 times what t does
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
    for variant, against in (("directional", ""), ("symmetric", "the mean head")):
        table = POOLED.scores().summary.where(variant=variant)
        assert np.isnan(table.column("p")).all() and np.isnan(table.column("p_adjusted")).all()
        assert set(table.column("against")) == {against}
        assert min(table.column("mean")) > 0


def scaled_head(times: float) -> CircuitScores:
    """Scores of gradients of which those of one head of Q were rescaled, as by other units of its weights alone."""
    world = POOLED.with_settings(
        variants=("directional", "signed", "symmetric", "ewc"), blocks=("q",)
    )
    scores = world.begin()
    for layer in scores.layers:
        a, b = (side[:, layer].clone() for side in world.gradients("q"))
        a[:, 3] *= times
        b[:, 3] *= times
        scores.put(layer, {"q": block_scores(a, b, world.settings)})
    return scores


def test_units_of_one_head_change_nothing_that_is_said_of_heads() -> None:
    plain, scaled = (scaled_head(times).summary for times in (1.0, 50.0))
    # Float64 scores that differ by rounding alone, rounded to float32 once.
    said = ("shown", "against", "reliable")
    for name in said:
        assert plain.column(name) == scaled.column(name)
    free = (
        "contrast",
        "contrast_low",
        "contrast_high",
        "mean_l1",
        "reliability",
        "own_a",
        "cosine",
    )
    for name in free:
        np.testing.assert_allclose(
            plain.column(name), scaled.column(name), rtol=ROUNDING, atol=ROUNDING
        )
    for variant in ("directional", "ewc"):
        one, other = (table.where(variant=variant) for table in (plain, scaled))
        assert one.column("mean") != other.column("mean")
        assert not any(other.column("shown")) and set(other.column("against")) == {""}
        assert np.isnan(other.column("contrast")).all()


def test_signed_contrasts_are_bands_against_0() -> None:
    table = POOLED.scores().summary.where(variant="signed")
    for contrast, of in (
        ("contrast", "mean"),
        ("contrast_low", "band_low"),
        ("contrast_high", "band_high"),
    ):
        assert table.column(contrast) == table.column(of)


def test_what_moves_all_heads_alike_is_no_error_of_a_contrast() -> None:
    form = Form("symmetric", "pooled")
    loud = noise(16, 1, 1, seed=5) * 80
    tables = []
    for times in (0.0, 1.0):
        scores = POOLED.begin()
        for layer in scores.layers:
            blocks = POOLED.layer(layer)
            blocks["q"].rows[form][:] += times * loud[:, :, 0]
            blocks["q"].columns[form][0] += times * loud[0::2].mean()
            blocks["q"].columns[form][1] += times * loud[1::2].mean()
            scores.put(layer, blocks)
        tables.append(scores.summary.where(variant="symmetric", block="q"))
    quiet, moved = tables
    for name in ("contrast", "contrast_low", "contrast_high"):
        np.testing.assert_allclose(
            quiet.column(name), moved.column(name), rtol=0, atol=ROUNDING * 80
        )
    width = [np.subtract(one.column("band_high"), one.column("band_low")) for one in tables]
    assert (width[1] > 3 * width[0]).all()
    means = np.array(moved.column("mean"))
    np.testing.assert_allclose(moved.column("contrast"), means - means.mean(), atol=1e-9)


def test_the_share_of_l1_is_a_mean_of_ratios() -> None:
    columns = torch.tensor([[2.0], [30.0], [7.0]], dtype=torch.float64)
    l1 = np.array([1.0, 10.0, 0.0]).reshape(3, 1, 1)
    record = SimpleNamespace(l1_b=lambda block: l1)
    form = Form("directional", "pooled")
    assert _share_of_l1(record, "q", form, columns).tolist() == [2.5], "not 39/11 or 32/11"


def test_a_loud_head_stands_out() -> None:
    scores = POOLED.scores()
    margins = Margins.of(scores, "q", Form("symmetric", "pooled"))
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
    assert np.median(abs(np.array(seeing) - 1)) > 0.01  # 0.04 to 0.10 over 20 seeds
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


def test_copies_of_rows_add_no_certainty() -> None:
    """Each row of A three times, under ids of its own: the same mean, as wide an interval."""
    once = World(n_a=6, n_b=6).with_settings(fisher="pooled")
    ids = tuple(at % 6 for at in range(18))
    copied = tuple(replace(row, row_id=f"copy-{at}") for at, row in enumerate(rows("a", 6) * 3))
    thrice = CircuitScores.create(copied, rows("b", 6), once.heads, once.settings)
    for layer in thrice.layers:
        thrice.put(layer, replace(once, order_a=ids).layer(layer))
    alone, tripled = (one.summary.where(**PLACE).rows()[0] for one in (once.scores(), thrice))
    assert (tripled["n_a"], tripled["units_a"]) == (18, 6)
    for name in ("mean", "mean_low", "mean_high", "df"):
        size = abs(alone[name]) + alone["mean_high"] - alone["mean_low"]
        assert tripled[name] == pytest.approx(alone[name], abs=ROUNDING * size)


def test_reliability_is_the_share_of_the_mean_that_is_not_error() -> None:
    for found in POOLED.scores().summary.rows():
        half = (found["mean_high"] - found["mean_low"]) / 2
        error = half / stats.t.ppf(0.975, found["df"])
        expected = max(0.0, 1 - (error / found["mean"]) ** 2)
        assert found["reliability"] == pytest.approx(expected, abs=1e-6)


def test_a_mean_without_an_order_of_samples_is_reliable_all_the_same() -> None:
    """All samples of B alike but for noise: nothing to rank, and a mean that is known well."""
    scores = POOLED.begin()
    for layer in scores.layers:
        blocks = POOLED.layer(layer)
        for one in blocks.values():
            one.rows[SIGNED][:] += 100
            one.columns[SIGNED][:] += 100
        scores.put(layer, blocks)
    table = scores.summary.where(variant="signed")
    assert all(table.column("reliable")) and min(table.column("reliability")) > 0.99
    assert min(table.column("rank_reliability")) < 0.2


def test_the_order_of_samples_is_as_reliable_as_the_worse_side() -> None:
    certain = noise(6, 1, seed=1).expand(2, -1, -1)
    unsure = torch.stack([certain[0], -certain[0]])
    for rows_, columns in ((certain, unsure), (unsure, certain)):
        assert Margins(rows_, columns).rank_reliability.tolist() == [0.0]
    assert Margins(certain, certain).rank_reliability.item() == pytest.approx(1.0)


def test_reliability_knows_signal_from_noise() -> None:
    strong = replace(POOLED, shift=2.0, lean=1.0).scores().summary.where(variant="signed")
    weak = POOLED.scores().summary.where(variant="signed")
    for name in ("reliability", "rank_reliability"):
        assert np.median(strong.column(name)) > 0.8 > np.median(weak.column(name))
    assert weak.column("reliable") == [one >= 0.2 for one in weak.column("reliability")]


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_halves_make_the_whole(n: int) -> None:
    values = noise(n, 3, seed=0)
    halves = torch.stack([values[0::2].mean(0), values[1::2].mean(0)])
    torch.testing.assert_close(_over_both_halves(halves, n), values.mean(0))


def test_slices_tell_what_a_fisher_is_made_of() -> None:
    table = World().with_settings(damping_share=0.5).scores().slices
    assert len(table) == 3 * (4 + 2 + 2 + 4)
    for one in table.rows():
        assert 0 < one["min"] <= one["median"] <= one["max"] and one["fisher"] == "task_a"
        assert one["damping"] == pytest.approx(one["median"] / 2, rel=1e-6)
