"""What is fixed before training: against rows one by one in float64, to the bit again, and dimensions that do not vary."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.distillation.terms.pair import NEW, PILOT, ROWS, TEACHER, batch_of, scored
from tests.foundation.training import tiny

from crosstune.distillation.terms.pilot import Moments, Pilot, pooled, predicting
from crosstune.foundation.errors import DataError, ModelError
from crosstune.foundation.models import Stream


def test_variance_and_pooled_states_are_those_of_scored_tokens_row_by_row() -> None:
    found: dict[int, list[np.ndarray]] = {0: [], 5: []}
    means = []
    for row in ROWS:
        batch = batch_of([row])
        states = Stream.of(TEACHER).read(batch, [0, 5])
        at = [t for _, t in scored(batch)]
        for site, some in found.items():
            some.extend(states[site][0, at].double().numpy())
        means.append(states[5][0, at].double().mean(dim=0))
    for site, some in found.items():
        variance = 1.0 / (24 * PILOT.precision[site].double())
        np.testing.assert_allclose(variance.numpy(), np.var(some, axis=0), rtol=1e-4)
    torch.testing.assert_close(PILOT.pooled.double(), torch.stack(means), rtol=1e-4, atol=1e-5)
    assert PILOT.row_ids == tuple(row.row_id for row in ROWS)
    assert (PILOT.site, PILOT.layers, PILOT.width) == (5, 5, 24)


def test_made_again_it_has_the_same_bits() -> None:
    again = Pilot.of(TEACHER, ROWS, 0, range(6))
    assert torch.equal(again.pooled, PILOT.pooled)
    assert all(torch.equal(again.precision[site], PILOT.precision[site]) for site in range(6))
    assert again.settings == PILOT.settings
    assert Pilot.of(TEACHER, NEW, 0, [1]).settings != PILOT.settings


def test_what_does_not_vary_to_rounding_does_not_count() -> None:
    """Constants far from 0, and constants that differ in the last bit; 1 is still what predicting the mean gives."""
    generator = torch.Generator().manual_seed(0)
    vectors = 50.0 + torch.randn(400, 4, generator=generator)
    vectors[:, 1] = 1234.567
    vectors[:, 2] = 1000.0 * (1.0 + torch.finfo(torch.float32).eps * (torch.arange(400) % 2))
    parts = Moments()
    for some in (*vectors.split(7), vectors[:0]):
        parts.add(some)
    assert (parts.precision > 0).tolist() == [True, False, False, True]
    gaps = vectors.double() - vectors.double().mean(dim=0)
    assert (gaps.square() @ parts.precision.double()).mean().item() == pytest.approx(1.0, rel=1e-5)
    constant = Moments()
    constant.add(torch.ones(5, 2))
    with pytest.raises(DataError, match="`pilot` must vary in some dimension"):
        constant.precision  # noqa: B018


def test_rows_without_a_scored_token_are_read_and_do_not_count() -> None:
    silent = replace(NEW[0], labels=[-100] * len(NEW[0].labels), scored_tokens=0)
    with_it = Pilot.of(TEACHER, [silent, *ROWS], 0, [3])
    without = Pilot.of(TEACHER, ROWS, 0, [3])
    assert with_it.row_ids == without.row_ids
    torch.testing.assert_close(with_it.pooled, without.pooled)
    torch.testing.assert_close(with_it.precision[3], without.precision[3])
    batch = batch_of([silent])
    assert not predicting(batch["labels"]).any()
    states = torch.ones(1, len(silent.labels), 3)
    assert torch.equal(pooled(states, predicting(batch["labels"])), torch.zeros(1, 3))


def test_what_cannot_be_is_refused() -> None:
    packed = replace(ROWS[0], lengths=(len(ROWS[0].input_ids),))
    with pytest.raises(DataError, match="`pilot` must be rows as `encode` returns them"):
        Pilot.of(TEACHER, [packed], 0, [5])
    single = tiny.rows(1)[0]
    single = replace(single, labels=[-100, single.input_ids[1]], input_ids=single.input_ids[:2])
    with pytest.raises(DataError, match="at least two scored tokens; found 1"):
        Pilot.of(TEACHER, [replace(single, scored_tokens=1)], 0, [5])
    with pytest.raises(ModelError, match="`site` must be 0 to 5"):
        Pilot.of(TEACHER, ROWS, 0, [6])
