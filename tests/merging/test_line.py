"""The account of the straight line closes on the measured change, by component and in full."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.merging import pairs, tuned

from crosstune.merging import line as line_of
from crosstune.merging.line import integrate, line_table
from crosstune.merging.session import Session


@pytest.fixture(scope="module")
def session() -> Session:
    return tuned.session(tuned.opened(*tuned.pair()), granularity=("embedding_rows", "singular"))


def test_the_account_closes_on_the_measured_change(session: Session) -> None:
    found = integrate(session)
    change = [session.roles.after[t] - session.roles.before[t] for t in ("en", "bn")]
    # float32 logits in other batches, of losses up to ~10
    np.testing.assert_allclose(found.measured, change, rtol=0, atol=1e-5 * 10)
    assert (np.abs(found.residual) <= 0.01 * np.abs(found.measured)).all() or found.panels == 8
    np.testing.assert_allclose(found.contributions.sum(1) - found.measured, found.residual)


def curved(values: np.ndarray) -> SimpleNamespace:
    """What is seen of two losses that bend alike everywhere: sums of sin(3v + k) over three groups."""
    at = 3 * values + np.arange(2)[:, None, None]
    return SimpleNamespace(
        losses=lambda: np.sin(at).sum((1, 2)), loss_slopes=lambda: 3 * np.cos(at)
    )


def test_it_is_refined_until_it_closes_or_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, tasks = SimpleNamespace(shape=(1, 3)), SimpleNamespace(tasks=("en", "bn"))
    session: Any = SimpleNamespace(space=shape, roles=tasks, evaluator=curved)
    errors = []
    for most in (2, 4, 8):
        monkeypatch.setattr(line_of, "MOST_PANELS", most)
        monkeypatch.setattr(line_of, "CLOSES", 0.0)
        monkeypatch.setattr(line_of, "NEGLIGIBLE", 0.0)
        found = integrate(session)
        assert found.panels == most
        errors.append(np.abs(found.residual).max())
    assert (
        errors[0] > 12 * errors[1] > 12 * 12 * errors[2]
    )  # by Simpson 16 times less at half the step


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
