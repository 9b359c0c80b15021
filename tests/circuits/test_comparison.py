"""Two states of one model, paired by sample; and forms, whose rank correlations are scipy's and whose intervals hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from tests.circuits.known_scores import World, rows

from crosstune.circuits import comparison
from crosstune.circuits.comparison import ablate, appendix, compare
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

SIGNED = Form("signed", "pooled")
WORLD = World(n_a=16, n_b=12)


def test_a_state_did_not_change_against_itself() -> None:
    scores = WORLD.scores()
    table = compare(scores, scores, SIGNED)
    assert len(table) == 36
    assert set(table.column("change")) == set(table.column("change_low")) == {0.0}
    assert set(table.column("p")) == {1.0}


def test_growing_conflict_is_a_change() -> None:
    first, second = WORLD.scores(), replace(WORLD, shift=1.0, lean=-1.0).scores()
    table = compare(first, second, SIGNED)
    for one in table.rows():
        assert one["change"] == pytest.approx(one["second"] - one["first"])
        assert one["change_high"] < 0 and one["p_adjusted"] < 0.05
    back = compare(second, first, SIGNED)
    np.testing.assert_allclose(back.column("change"), -np.array(table.column("change")))


def test_pairing_removes_what_both_states_share() -> None:
    first = replace(WORLD, shift=1.0, lean=1.0).scores()
    second = replace(WORLD, shift=1.05, lean=1.0).scores()
    table, alone = compare(first, second, SIGNED), first.summary.where(variant="signed")
    width = np.subtract(table.column("change_high"), table.column("change_low"))
    own = np.subtract(alone.column("mean_high"), alone.column("mean_low"))
    assert np.median(width / own) < 0.5


def test_a_directional_score_is_not_compared_between_states() -> None:
    scores = WORLD.scores()
    with pytest.raises(MeasurementError, match="between models or checkpoints"):
        compare(scores, scores, Form("directional", "pooled"))


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (replace(WORLD, rows_b=rows("c", 12)), "samples of task B"),
        (WORLD.with_settings(layers=(0, 1)), "layers"),
        (WORLD.with_settings(heads=(0, 1)), "measured heads"),
        (WORLD.with_settings(damping="floor"), "`damping`"),
        (WORLD.with_settings(averages="task_a"), "`averages`"),
    ],
)
def test_only_the_same_measurement_is_compared(other: World, what: str) -> None:
    with pytest.raises(MeasurementError, match=what):
        compare(WORLD.scores(), other.scores(), SIGNED)


def test_the_form_must_be_one_of_the_averages() -> None:
    scores = WORLD.scores()
    with pytest.raises(MeasurementError, match="`form` must be of what was measured"):
        compare(scores, scores, Form("signed", "task_a"))


ABLATED = World(n_a=14, n_b=12)
DIRECTIONAL = Form("directional", "task_a")
SYMMETRIC = Form("symmetric", "pooled")


def one_row(table: object, block: str, first: Form, second: Form) -> dict:
    found = {
        (row["block"], frozenset((row["form_a"], row["form_b"]))): row
        for row in table.rows()  # type: ignore[attr-defined]
    }
    return found[block, frozenset((str(first), str(second)))]


def test_every_two_forms_of_every_block_are_compared() -> None:
    table = ablate([ABLATED.scores(), ABLATED.with_settings(fisher="task_a").scores()])
    forms = 5  # directional under A's; signed and symmetric under A's and the pool
    assert len(table) == 4 * forms * (forms - 1) / 2
    assert set(table.column("cells")) == {14 * 12 * 3 * 4, 14 * 12 * 3 * 2}


def test_correlations_are_scipys_by_magnitude_where_one_has_a_sign() -> None:
    scores = ABLATED.scores()
    table = ablate([scores])
    values = {form: scores.pairs("q", form).ravel() for form in scores.forms}
    for first, second in ((DIRECTIONAL, SYMMETRIC), (SIGNED, SYMMETRIC)):
        found = one_row(table, "q", first, second)
        expected = stats.spearmanr(np.abs(values[first]), np.abs(values[second])).statistic
        assert found["spearman"] == pytest.approx(expected, abs=1e-9)
        assert found["spearman_low"] < expected < found["spearman_high"]
        tops = [set(np.argsort(-np.abs(values[form]))[:100]) for form in (first, second)]
        assert found["overlap"] == pytest.approx(len(tops[0] & tops[1]) / 100)
        assert 0 <= found["overlap_low"] <= found["overlap"] <= found["overlap_high"] <= 1


def test_two_signed_forms_are_compared_with_their_signs() -> None:
    scores, other = ABLATED.scores(), ABLATED.with_settings(fisher="task_a").scores()
    found = one_row(ablate([scores, other]), "v", SIGNED, Form("signed", "task_a"))
    expected = stats.spearmanr(
        scores.pairs("v", SIGNED).ravel(), other.pairs("v", Form("signed", "task_a")).ravel()
    ).statistic
    assert found["spearman"] == pytest.approx(expected, abs=1e-9)


def test_the_interval_holds_what_many_samples_say() -> None:
    options = {"blocks": ("k",), "layers": (0,), "variants": ("directional", "symmetric")}
    big = replace(World(), n_a=150, n_b=150, seed=99).with_settings(**options)
    truth = ablate([big.scores()]).rows()[0]["spearman"]
    held = 0
    for seed in range(40):
        small = replace(World(), n_a=20, n_b=20, seed=seed).with_settings(**options)
        (row,) = ablate([small.scores()]).rows()
        held += row["spearman_low"] <= truth <= row["spearman_high"]
    assert held >= 32, "nominal 38 of 40; 31 or fewer has probability 0.0002"


def test_a_form_equals_itself_under_another_name() -> None:
    """Under one and the same samples on both sides the pooled Fisher is task A's."""
    world = replace(ABLATED, n_b=14).with_settings(blocks=("q",))
    scores = world.with_settings(variants=("symmetric",), fisher="task_a").scores()
    twin = world.with_settings(variants=("symmetric",)).begin()
    for layer in range(3):
        blocks = world.with_settings(variants=("symmetric",), fisher="task_a").layer(layer)
        same = {Form("symmetric", "pooled"): blocks["q"].pairs[Form("symmetric", "task_a")]}
        twin.put(layer, {"q": replace(blocks["q"], pairs=same)})
    (row,) = ablate([scores, twin]).rows()
    assert row["spearman"] == pytest.approx(1.0) and row["overlap"] == 1.0
    assert row["overlap_low"] == row["overlap_high"] == 1.0


def test_ties_share_their_rank() -> None:
    values = np.array([3.0, 1.0, 1.0, 2.0, 1.0])
    codes = np.unique(values, return_inverse=True)[1]
    np.testing.assert_array_equal(comparison._midranks(codes), stats.rankdata(values))


def test_large_measurements_are_thinned_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MOST_CELLS", 600)
    table = ablate([ABLATED.with_settings(blocks=("q",)).scores()])
    (n_a,), (n_b,), (cells,) = (set(table.column(name)) for name in ("n_a", "n_b", "cells"))
    assert 2 <= n_a < 14 and 2 <= n_b < 12 and cells == n_a * n_b * 12 <= 600


def test_translations_are_left_out_together() -> None:
    same = tuple(replace(row, unit=f"sentence {at}") for at, row in enumerate(rows("a", 12)))
    other = tuple(replace(row, unit=f"sentence {at}") for at, row in enumerate(rows("b", 12)))
    world = replace(ABLATED, n_a=12, rows_a=same, rows_b=other).with_settings(blocks=("q",))
    apart = replace(ABLATED, n_a=12).with_settings(blocks=("q",))
    joined, alone = (ablate([one.scores()]).rows()[0] for one in (world, apart))
    assert joined["spearman"] == alone["spearman"]
    assert joined["spearman_low"] != alone["spearman_low"]


def test_too_little_has_no_interval() -> None:
    world = World(n_a=1, n_b=12).with_settings(blocks=("k",), layers=(0,))
    row = ablate([world.scores()]).rows()[0]
    assert math.isfinite(row["spearman"]) and math.isnan(row["spearman_low"])
    assert math.isnan(row["overlap"]), "of 24 scores a list of 100 has all"


def test_a_score_of_j_alone_is_the_same_for_every_row() -> None:
    world = ABLATED.with_settings(variants=("ewc", "symmetric"), blocks=("o",))
    scores = world.scores()
    (row,) = ablate([scores]).rows()
    alone = np.broadcast_to(scores.pairs("o", Form("ewc", "task_a")), (14, 12, 3, 4))
    expected = stats.spearmanr(alone.ravel(), scores.pairs("o", SYMMETRIC).ravel()).statistic
    assert row["spearman"] == pytest.approx(expected, abs=1e-9)


def test_one_form_or_other_samples_are_refused() -> None:
    with pytest.raises(MeasurementError, match="at least two forms"):
        ablate([ABLATED.with_settings(variants=("signed",)).scores()])
    with pytest.raises(MeasurementError, match="samples of task A"):
        ablate([ABLATED.scores(), replace(ABLATED, rows_a=rows("c", 14)).scores()])


def test_the_appendix_is_a_table_with_a_caption() -> None:
    text = appendix(ablate([ABLATED.with_settings(blocks=("q",)).scores()]))
    lines = text.splitlines()
    assert lines[0].count("|") == lines[2].count("|") == 6 and len(lines) == 2 + 3 + 2
    assert "directional/task_a" in lines[2] and "[" in lines[2]
    assert "14 × 12 samples, 2016 scores" in lines[-1] and "jackknife" in lines[-1]
