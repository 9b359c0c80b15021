"""A row told from the pilot's rows: a slow float64 twin, chance, and what no row may depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, PILOT, ROWS, TEACHER, schedule

from crosstune.distillation.terms import contrastive
from crosstune.distillation.terms.contrastive import COLD, Contrastive
from crosstune.distillation.terms.pilot import Pilot
from crosstune.foundation.errors import SettingsError

STUDENT = pair.student()


def unit(vector: torch.Tensor) -> torch.Tensor:
    return vector / vector.norm()


def test_the_sum_is_that_of_a_slow_twin_without_the_row_among_its_negatives() -> None:
    """One of the rows is the pilot's own, in two windows there."""
    pilot = Pilot.of(TEACHER, [*ROWS, replace(ROWS[2], window=1)], 0, [4])
    rows = [*NEW[:3], ROWS[2]]
    batch = pair.batch_of(rows)
    term = Contrastive(schedule("contrastive"), pilot, STUDENT, seed=2)
    states, second = pair.drawn(batch, 16, [2]), pair.drawn(batch, 24, [4], seed=1)
    found = term.sums(pair.shown(batch, states, second))
    mean = pilot.pooled.double().mean(dim=0)
    weight = term.projection.weight.detach().double()
    expected = 0.0
    for b, row in enumerate(rows):
        at = [t for r, t in pair.scored(batch) if r == b]
        own = unit(second[4][b, at].double().mean(dim=0) - mean)
        guess = unit(weight @ states[2][b, at].double().mean(dim=0))
        others = [
            unit(some.double() - mean)
            for name, some in zip(pilot.row_ids, pilot.pooled, strict=True)
            if name != row.row_id
        ]
        assert len(others) == (11 if row is ROWS[2] else 13)
        scores = [math.exp((guess @ one).item() / COLD) for one in (own, *others)]
        expected -= math.log(scores[0] / sum(scores))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert states[2].grad.abs().sum() > 0 and second[4].grad is not None


def test_a_student_to_whom_all_rows_are_alike_pays_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = pair.batch_of(NEW)
    monkeypatch.setattr(contrastive, "COLD", 5.0)
    term = Contrastive(schedule("contrastive"), PILOT, STUDENT)
    assert term.chances == {"contrastive": math.log(13)}
    found = term.sums(pair.shown(batch, pair.drawn(batch, 16, [2]), pair.drawn(batch, 24, [5])))
    assert found.item() / len(NEW) == pytest.approx(math.log(13), rel=0.03)  # cosines over 5


def test_who_says_the_same_of_every_row_is_not_below_chance() -> None:
    """Over rows that each are the row once and a negative of all others, here the pilot's own: ln M at least."""
    batch = pair.batch_of(ROWS)
    term = Contrastive(schedule("contrastive"), PILOT, STUDENT)
    guess = torch.randn(16, generator=torch.Generator().manual_seed(4))
    states = {2: guess.expand(*batch["labels"].shape, 16)}
    second = {5: PILOT.pooled[:, None].expand(*batch["labels"].shape, 24)}
    total = term.sums(pair.shown(batch, states, second)).item()
    assert total / len(ROWS) >= math.log(len(ROWS))


def test_a_row_without_a_scored_token_adds_nothing() -> None:
    silent = replace(NEW[1], labels=[-100] * len(NEW[1].labels))
    batch = pair.batch_of([silent])
    term = Contrastive(schedule("contrastive"), PILOT, STUDENT)
    states = pair.drawn(batch, 16, [2])
    found = term.sums(pair.shown(batch, states, pair.drawn(batch, 24, [5])))
    found.backward()
    assert found.item() == 0.0 and states[2].grad.abs().max() == 0.0


def test_what_cannot_be_is_refused() -> None:
    lonely = Pilot.of(TEACHER, [ROWS[0], replace(ROWS[0], window=1)], 0, [5])
    with pytest.raises(SettingsError, match="`pilot` must have two rows.*found row0"):
        Contrastive(schedule("contrastive"), lonely, STUDENT)
