"""Laws of circuit scores: the order of samples names nothing, a shift shifts, a factor scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.circuits.known_scores import World, rows

from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Table

WORLD = World(n_a=10, n_b=8).with_settings(fisher="pooled")
SIGNED = Form("signed", "pooled")
ROUNDING = 1e-4  # float32 scores: 6e-8, in differences up to 1e3 smaller than a mean
SHUFFLED_A, SHUFFLED_B = (3, 1, 9, 0, 7, 2, 8, 4, 6, 5), (7, 0, 2, 5, 1, 6, 3, 4)


def close(one: Table, other: Table, *names: str) -> None:
    for name in names:
        np.testing.assert_allclose(
            one.column(name), other.column(name), rtol=ROUNDING, atol=ROUNDING / 10
        )


@pytest.mark.parametrize("group", [0, 3])
def test_the_order_of_samples_permutes_scores_and_changes_no_summary(group: int) -> None:
    grouped = replace(WORLD, rows_a=rows("a", 10, group), rows_b=rows("b", 8, group))
    plain = grouped.scores()
    shuffled = replace(grouped, order_a=SHUFFLED_A, order_b=SHUFFLED_B).scores()
    for block in plain.blocks:
        permuted = plain.pairs(block, SIGNED)[np.ix_(SHUFFLED_A, SHUFFLED_B)]
        np.testing.assert_allclose(
            shuffled.pairs(block, SIGNED), permuted, rtol=ROUNDING, atol=ROUNDING / 10
        )
    # Not the reliability of order: its halves are samples at even and at odd places.
    names = ("mean", "mean_low", "mean_high", "df", "p", "p_adjusted", "band_low", "band_high")
    close(plain.summary, shuffled.summary, *names, "mean_l1", "reliability", "contrast_low")
    assert plain.summary.column("shown") == shuffled.summary.column("shown")
    top, same = (one.top(40, form=SIGNED) for one in (plain, shuffled))
    for name in ("row_a", "row_b", "text_a", "text_b", "layer", "block", "head"):
        assert top.column(name) == same.column(name)


def changed(times: float, plus: float) -> CircuitScores:
    """All signed scores times a factor, plus a constant."""
    scores = WORLD.begin()
    for layer in scores.layers:
        blocks = WORLD.layer(layer)
        for one in blocks.values():
            for part in (one.pairs, one.columns, one.rows):
                part[SIGNED] = times * part[SIGNED] + plus
        scores.put(layer, blocks)
    return scores


def test_a_constant_moves_means_and_no_error() -> None:
    plain, moved = (changed(1.0, plus).summary.where(variant="signed") for plus in (0.0, 5.0))
    for name in ("mean", "mean_low", "mean_high", "band_low", "band_high"):
        np.testing.assert_allclose(
            np.array(plain.column(name)) + 5, moved.column(name), rtol=ROUNDING, atol=ROUNDING
        )
    close(plain, moved, "df", "rank_reliability")
    assert all(moved.column("shown"))


def test_a_factor_scales_and_shows_no_more() -> None:
    plain, scaled = (changed(times, 0.0).summary.where(variant="signed") for times in (1.0, 1000.0))
    for name in ("mean", "mean_low", "band_high"):
        np.testing.assert_allclose(
            1000 * np.array(plain.column(name)), scaled.column(name), rtol=ROUNDING
        )
    close(plain, scaled, "p", "p_adjusted", "df", "reliability", "rank_reliability")
    assert plain.column("shown") == scaled.column("shown")


def test_a_mirrored_score_is_the_other_finding() -> None:
    plain, mirrored = (changed(times, 0.0).summary.where(variant="signed") for times in (1.0, -1.0))
    np.testing.assert_allclose(-np.array(plain.column("mean")), mirrored.column("mean"))
    close(plain, mirrored, "p", "df")
