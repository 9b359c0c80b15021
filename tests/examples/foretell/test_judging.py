"""Judging: planted forgetting is found and told apart from norms and noise; units of blocks do not matter."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.examples.foretell import planted

from crosstune.foundation.records import Table
from examples.foretell import judging
from examples.foretell.joined import OfHeads, Predictor
from examples.foretell.profiles import SCORE

ASKED = {"when": "before", "side": "test", "outcome": "forgotten", "scope": judging.ACROSS}


@pytest.fixture(scope="module")
def judged() -> Table:
    return judging.judge_heads(planted.study(), 199)


def of(table: Table, predictor: str, **changes: Any) -> dict[str, Any]:
    asked = ASKED | {"block": judging.ALL, "predictor": predictor} | changes
    (row,) = table.where(**asked).rows()
    return row


def test_each_predictor_gets_its_word(judged: Table) -> None:
    assert of(judged, "−signed")["verdict"] == judging.FORETELLS
    assert of(judged, "directional")["verdict"] == judging.NORMS_DO
    assert of(judged, "symmetric")["verdict"] == judging.DOES_NOT
    assert of(judged, "‖g_A‖")["verdict"] == judging.FORETELLS


def test_figures_stand_beside_the_word(judged: Table) -> None:
    row = of(judged, "−signed")
    assert row["low"] < row["correlation"] < row["high"]
    assert row["items"] == 4 * (8 + 4 + 4 + 8) and row["seeds"] == 3
    assert row["p"] <= row["p_adjusted"] <= 0.05 and row["beyond_p"] <= 0.05
    assert row["beyond"] > row["correlation"]  # what norms say of the forgetting only hid it
    assert row["agreement"] > 0.9 and row["reliability"] > 0.9
    assert 0.1 < row["detectable"] < 0.5
    assert math.isnan(of(judged, "‖g_A‖")["beyond"])


def test_heads_are_ranked_in_their_block_and_layer(judged: Table) -> None:
    assert of(judged, "−signed", block="k")["items"] == 16
    within = of(judged, "−signed", scope=judging.WITHIN)
    assert within["verdict"] == judging.FORETELLS
    assert within["detectable"] > of(judged, "−signed")["detectable"]


def test_units_of_blocks_do_not_matter(judged: Table) -> None:
    """A model with the same function whose Q is larger and K smaller ranks its heads the same."""
    scaled = planted.study({"q": 1e-3, "k": 1e3})
    one_side = OfHeads(scaled.heads, scaled.predictors, {"test": scaled.contributions["test"]})
    mine, theirs = (of(one, "−signed") for one in (judged, judging.judge_heads(one_side, 199)))
    assert mine["correlation"] == pytest.approx(theirs["correlation"], abs=1e-12)
    assert mine["p"] == theirs["p"]


def test_a_score_with_a_sign_is_not_asked_for_sizes(judged: Table) -> None:
    asked = ASKED | {"outcome": judging.SIZE, "block": judging.ALL, "kind": SCORE}
    assert judged.where(**asked).column("predictor") == ["directional", "symmetric"]


def test_negated_scores_foretell_the_opposite() -> None:
    study = planted.study()
    score, *others = study.predictors["before"]
    turned = Predictor(score.name, score.kind, -score.values, -score.halves)
    table = judging.judge_heads(
        OfHeads(study.heads, {"before": (turned, *others)}, {"test": study.contributions["test"]}),
        199,
    )
    assert of(table, "−signed")["verdict"] == judging.OPPOSITE


def test_few_heads_and_unreliable_scores_deny_nothing() -> None:
    study = planted.study()
    few = [at for at, head in enumerate(study.heads) if head.layer == 0 and head.block in "kv"]
    noise = planted.score("symmetric", study.predictors["before"][2].values[0], noise=50.0)
    small = OfHeads(
        tuple(study.heads[at] for at in few),
        {"before": tuple(judging._only(one, few) for one in study.predictors["before"])},
        {"test": study.contributions["test"][:, few]},
    )
    assert of(judging.judge_heads(small, 39), "symmetric")["verdict"] == judging.TOO_FEW
    noisy = OfHeads(
        study.heads,
        {"before": (noise, *study.predictors["before"][3:])},
        {"test": study.contributions["test"]},
    )
    row = of(judging.judge_heads(noisy, 39), "symmetric")
    assert row["reliability"] < 0.1 and row["verdict"] == judging.TOO_FEW


def test_a_profile_that_tells_no_heads_apart_is_unmeasured() -> None:
    study = planted.study()
    flat = planted.score("symmetric", torch.ones(len(study.heads), dtype=torch.float64), noise=0.0)
    found = OfHeads(study.heads, {"before": (flat,)}, {"test": study.contributions["test"]})
    row = of(judging.judge_heads(found, 39), "symmetric")
    assert row["verdict"] == judging.UNMEASURED and math.isnan(row["p"])


def test_one_seed_has_an_interval_over_heads_and_no_agreement() -> None:
    study = planted.study()
    first = tuple(
        Predictor(one.name, one.kind, one.values[:1], one.halves[:1])
        for one in study.predictors["before"]
    )
    found = OfHeads(study.heads, {"before": first}, {"test": study.contributions["test"][:1]})
    row = of(judging.judge_heads(found, 39), "−signed")
    assert math.isnan(row["agreement"]) and row["low"] < row["correlation"] < row["high"]


def test_rows_are_judged_block_by_block_and_together() -> None:
    table = judging.judge_rows(planted.rows(), 199)
    by_block = {row["block"]: row for row in table.where(predictor="−signed").rows()}
    assert by_block["q"]["verdict"] == judging.FORETELLS
    assert by_block["o"]["verdict"] == judging.DOES_NOT
    assert by_block["q"]["beyond"] > by_block["q"]["correlation"]
    assert (
        by_block["o"]["correlation"] < by_block["all"]["correlation"] < by_block["q"]["correlation"]
    )
    (length,) = table.where(predictor="scored tokens", block="q").rows()
    assert length["verdict"] == judging.FORETELLS
