"""The straight line has 21 models and an account that closes on the measured change, by component and in full."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.merging import pairs, tuned

from crosstune.merging.line import integrate, line_points, line_table
from crosstune.merging.scoring import line_shares
from crosstune.merging.session import Session


@pytest.fixture(scope="module")
def session() -> Session:
    return tuned.session(tuned.opened(*tuned.pair()), granularity=("embedding_rows", "singular"))


def test_the_account_closes_on_the_measured_change(session: Session) -> None:
    found = integrate(session, steps=160)  # the fine-tune was a rough one
    change = [session.roles.after[t] - session.roles.before[t] for t in ("en", "bn")]
    # float32 logits in other batches, of losses up to ~10
    np.testing.assert_allclose(found.measured, change, rtol=0, atol=1e-5 * 10)
    assert (np.abs(found.residual) <= 0.01 * np.abs(found.measured)).all()
    np.testing.assert_allclose(found.contributions.sum(1) - found.measured, found.residual)


def curved(values: np.ndarray) -> SimpleNamespace:
    """What is seen of two losses that bend alike everywhere: sums of sin(3v + k) over three groups."""
    at = 3 * values + np.arange(2)[:, None, None]
    return SimpleNamespace(
        losses=lambda: np.sin(at).sum((1, 2)), loss_slopes=lambda: 3 * np.cos(at)
    )


def test_it_closes_sixteen_times_better_at_half_the_step() -> None:
    shape, tasks = SimpleNamespace(shape=(1, 3)), SimpleNamespace(tasks=("en", "bn"))
    session: Any = SimpleNamespace(space=shape, roles=tasks, evaluator=curved)
    errors = []
    for steps in (4, 8, 16):
        errors.append(np.abs(integrate(session, steps).residual).max())
    assert errors[0] > 12 * errors[1] > 12 * 12 * errors[2]


def test_the_line_is_dense_and_as_wide_as_the_range() -> None:
    assert line_shares(tuned.SMALL) == [at / 20 for at in range(21)]
    wide = line_shares(replace(tuned.SMALL, low=-0.15, high=1.12))
    assert (wide[0], wide[-1], len(wide)) == (-0.15, 1.1, 26)
    assert {0.0, 1.0} < set(wide)


def test_its_models_are_seen_by_the_search_and_told_but_for_the_ends() -> None:
    before, after = tuned.pair()
    middle = [tuned.teach(before, "bn", 10)]
    session = tuned.session(tuned.opened(before, after, between=middle), high=1.1)
    integrate(session)
    points = line_points(session)
    assert [point.share for point in points] == [at / 20 for at in range(1, 23) if at != 20]
    assert session.evaluator.made == 23
    for point in points:
        assert point.coefficients is not None
        assert (point.coefficients[0] == 0).all() and (point.coefficients[1] == point.share).all()
        losses = session.evaluator(point.coefficients.numpy()).losses()
        assert list(point.validation.values()) == losses.tolist()


def test_the_table_adds_up_and_names_components(session: Session) -> None:
    found = integrate(session)
    table = line_table(session, found)
    assert len(table) == 2 * (2 * 8 + 3)  # tasks × components, however finely they are cut
    for at, task in enumerate(("en", "bn")):
        rows = table.where(task=task).rows()
        assert sum(row["nats"] for row in rows) == pytest.approx(found.contributions[at].sum())
        assert {row["measured"] for row in rows} == {found.measured[at]}
        assert {row["residual"] for row in rows} == {found.residual[at]}


def test_of_several_checkpoints_it_is_the_line_from_the_first_to_the_last() -> None:
    before, after = tuned.pair()
    alone = integrate(tuned.session(tuned.opened(before, after)))
    soup = integrate(tuned.session(tuned.opened(before, after, between=[pairs.moved(before)])))
    # float32 weights of the line, 6e-8 relative, where the loss bends a thousandfold
    np.testing.assert_allclose(soup.contributions, alone.contributions, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(soup.measured, alone.measured, rtol=1e-6)  # the same two models
