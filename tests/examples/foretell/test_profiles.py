"""Profiles: turned so that more means more forgetting, with halves that average to the whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.examples import small_foretell

from crosstune.circuits import CircuitScores
from crosstune.foundation.records import Table
from examples.foretell import profiles


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> CircuitScores:
    study = small_foretell.prepared(tmp_path_factory.mktemp("profiles"))
    return study.scores(study.start.load())


def of_heads(scores: CircuitScores) -> list[dict[str, Any]]:
    cells = profiles.head_profiles(0, scores)
    return Table.of_tuples(profiles.HEADS, profiles.HEADS_COLUMNS, cells).rows()


def rows_of(found: list[dict[str, Any]], **asked: Any) -> list[dict[str, Any]]:
    return [row for row in found if all(row[name] == value for name, value in asked.items())]


def test_signed_scores_are_negated_and_others_are_not(scores: CircuitScores) -> None:
    found = of_heads(scores)
    for form in scores.average_forms:
        own = rows_of(found, block="o", predictor=profiles.predictor_of(form.variant))
        means = scores.margins("o", form)[1].mean(0).flatten()
        sign = -1 if form.variant == "signed" else 1
        assert [row["score"] for row in own] == pytest.approx((sign * means).tolist())
        halves = [(row["b_even"] + row["b_odd"]) / 2 for row in own]
        # float32 halves that may cancel: 6e-8 of the largest
        size = max(abs(row["b_even"]) for row in own)
        assert halves == pytest.approx([row["score"] for row in own], abs=1e-6 * size)


def test_every_head_once_and_key_value_heads_once(scores: CircuitScores) -> None:
    found = rows_of(of_heads(scores), predictor="−signed")
    places = [(row["block"], row["layer"], row["head"]) for row in found]
    assert len(places) == len(set(places)) == 4 * (4 + 2 + 2 + 4)


def test_norms_stand_beside_the_scores(scores: CircuitScores) -> None:
    found = rows_of(of_heads(scores), block="v")
    product, a, b = (
        torch.tensor([row["score"] for row in rows_of(found, predictor=name)])
        for name in profiles.NORMS
    )
    torch.testing.assert_close(product, a * b)
    assert {row["kind"] for row in found if row["predictor"] in profiles.NORMS} == {"baseline"}


def test_rows_of_the_old_task(scores: CircuitScores) -> None:
    found = Table.of_tuples(
        profiles.ROWS, profiles.ROWS_COLUMNS, profiles.row_profiles(3, scores)
    ).rows()
    assert {row["state"] for row in found} == {3}
    own = rows_of(found, block="q", predictor="symmetric")
    form = next(form for form in scores.average_forms if form.variant == "symmetric")
    expected = scores.margins("q", form)[0].sum((1, 2))
    assert [row["score"] for row in own] == pytest.approx(expected.tolist())
    tokens = rows_of(found, block="q", predictor="scored tokens")
    assert [row["score"] for row in tokens] == [row.tokens for row in scores.rows_a]


def test_states_are_scored_before_and_at_every_so_many_steps() -> None:
    class At:
        def __init__(self, step: int) -> None:
            self.global_step = step

    scored: list[int] = []
    watch = profiles.AtStates(lambda step, model: scored.append(step), stride=2)
    watch.on_train_begin(None, At(0), None, model=None)
    for step in range(1, 7):
        watch.on_step_end(None, At(step), None, model=None)
    assert scored == [0, 2, 4, 6]
