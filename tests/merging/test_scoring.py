"""Scores at a place of the box are those of the model that would be saved there."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.evaluation import score_rows
from crosstune.merging.scoring import (
    losses_at_ends,
    place_end,
    plain_box,
    score_at,
    score_end,
    score_tasks,
)

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


@pytest.mark.parametrize("between", [0, 1])
def test_either_end_is_reached_to_the_bit(between: int) -> None:
    before, after = tuned.pair()
    ends = tuned.opened(before, after, between=[tiny.llama(seed=2)] * between)
    for value, model in ((1.0, after), (0.0, before)):
        place_end(ends, value)
        held = dict(ends.model.named_parameters())
        assert all(torch.equal(held[name], p) for name, p in model.named_parameters())


def test_a_model_between_is_scored_as_its_storage_rounds_it() -> None:
    before, after = (model.bfloat16() for model in tuned.pair())
    ends = tuned.opened(before, after)
    box = plain_box(ends)
    values = torch.full(box.shape, 0.3, dtype=torch.float64)
    found = score_at(box, values, ROWS, tuned.SMALL)
    rounded = copy.deepcopy(ends.model)
    assert all(torch.equal(p, p.bfloat16().float()) for p in rounded.parameters())
    box.place(values)  # as the search sees it
    searched = score_tasks(ends, ROWS, tuned.SMALL)
    for task, rows in ROWS.items():
        alone = score_rows(rounded, rows, pad_id=0, batch_tokens=64)
        assert torch.equal(found[task].nats, alone.nats)
        assert not torch.equal(found[task].nats, searched[task].nats)
