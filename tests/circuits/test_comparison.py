"""Two states of one model: the change of each head, paired by sample; what cannot be compared is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.circuits.known_scores import World, rows

from crosstune.circuits.comparison import compare
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
