"""Scores at a point of the space are those of the model that would be saved there; evaluations are counted in advance."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from tests.merging import tuned

from crosstune.foundation.evaluation import score_rows
from crosstune.merging.scoring import (
    evaluations_by_method,
    losses_at_ends,
    plain_space,
    score_at,
    score_end,
    score_tasks,
)
from crosstune.merging.settings import RepairSettings

ROWS = {"en": tuned.encoded("en", 8), "bn": tuned.encoded("bn", 8)}
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_at_an_end_are_those_of_that_model(dtype: torch.dtype) -> None:
    models = [model.to(dtype) for model in tuned.pair()]
    ends = tuned.opened(*models)
    for value, model in zip((0.0, 1.0), models, strict=True):
        found = score_end(ends, value, ROWS, tuned.SMALL)
        for task, rows in ROWS.items():
            alone = score_rows(model.float(), rows, pad_id=0, batch_tokens=64)
            assert torch.equal(found[task].nats, alone.nats)
    losses = losses_at_ends(ends, ROWS, tuned.SMALL)
    for task, scores in score_tasks(ends, ROWS, tuned.SMALL).items():  # left at after
        assert losses[1][task] == (scores.nats.sum() / scores.tokens.sum()).item()
    assert losses[0] != losses[1]


def test_a_model_between_is_scored_as_its_storage_rounds_it() -> None:
    before, after = (model.bfloat16() for model in tuned.pair())
    ends = tuned.opened(before, after)
    space = plain_space(ends)
    values = torch.full(space.shape, 0.3, dtype=torch.float64)
    found = score_at(space, values, ROWS, tuned.SMALL)
    rounded = copy.deepcopy(ends.model)
    assert all(torch.equal(p, p.bfloat16().float()) for p in rounded.parameters())
    space.place(values)  # as the search sees it
    searched = score_tasks(ends, ROWS, tuned.SMALL)
    for task, rows in ROWS.items():
        alone = score_rows(rounded, rows, pad_id=0, batch_tokens=64)
        assert torch.equal(found[task].nats, alone.nats)
        assert not torch.equal(found[task].nats, searched[task].nats)


COUNTED = RepairSettings(
    granularity=("component",),
    baselines=("global",),
    exchange_rates=(0.5, 1.0),
    budgets=(0.1,),
    max_loss={"bn": 0.1},
    folds=2,
    penalties=(0.0, 0.1),
    evaluations=9,
)


def test_evaluations_are_counted_point_by_point() -> None:
    assert evaluations_by_method(COUNTED) == {
        "straight line": 21,
        "global": 4 * 9,
        "component": 4 * 9 + 2 * 2 * 3,  # folds × penalties × a third of the evaluations
    }
    assert evaluations_by_method(replace(COUNTED, penalties=(0.1,)))["component"] == 4 * 9
    # Each of two limits is searched without either fold too, and its point is one more.
    safe = evaluations_by_method(replace(COUNTED, penalties=(0.1,), margin=True))
    assert safe["component"] == (4 + 2 * 2) * 9 + 2
