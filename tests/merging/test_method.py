"""A granularity begins with what coarser ones saw, chooses its penalty by folds, and answers later questions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.merging import pairs, tuned

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.merging.line import integrate
from crosstune.merging.method import Method
from crosstune.merging.scoring import score_at
from crosstune.merging.session import Session


@pytest.fixture(scope="module")
def session() -> Session:
    made = tuned.session(tuned.opened(*tuned.pair()), granularity=("component", "ramp"))
    integrate(made)
    return made


def under(session: Session, **options: Any) -> Session:
    """The same session, which has seen the same, asked otherwise."""
    settings = replace(session.settings, **options)
    return Session(
        session.ends,
        session.roles,
        settings,
        session.space,
        session.evaluator,
        session.groups,
        session.layers,
    )


def test_it_begins_with_all_that_lies_on_its_axes(session: Session) -> None:
    before = session.evaluator.made
    coarse, fine = (Method.begin(session, name) for name in ("global", "component"))
    assert session.evaluator.made == before
    assert len(fine.archive.seen) == len(session.evaluator.seen) >= len(coarse.archive.seen) >= 5
    assert {one.at.tobytes() for one in coarse.archive.seen} >= {
        np.zeros(1).tobytes(),
        np.ones(1).tobytes(),
    }


def test_slopes_are_pulled_to_the_coordinates(session: Session) -> None:
    method = Method.begin(session, "global")
    at = np.array([0.5])
    seen = method.evaluate(at)
    whole = session.evaluator(np.full(session.space.shape, 0.5))
    np.testing.assert_allclose(seen.slopes[:, 0], whole.loss_slopes().sum((-2, -1)))
    np.testing.assert_allclose(seen.losses, whole.losses())


def test_coordinates_lead_to_values_and_back(session: Session) -> None:
    method = Method.begin(session, "component")
    at = np.random.default_rng(0).uniform(size=method.axes.count).round(6)
    back = method.coordinates_of(method.values(at))
    assert back is not None
    np.testing.assert_allclose(back, at, atol=1e-12)
    assert Method.begin(session, "global").coordinates_of(method.values(at)) is None


def test_two_coordinates_or_fewer_have_nothing_to_shrink(session: Session) -> None:
    for name in ("global", "ramp"):
        method = Method.begin(session, name)
        before = session.evaluator.made
        method.choose_penalty()
        assert method.penalty == 0.0 and session.evaluator.made == before


def test_a_penalty_is_a_share_of_what_was_forgotten(session: Session) -> None:
    forgotten = session.roles.after["en"] - session.roles.before["en"]
    lone = Method.begin(under(session, penalties=(0.5,)), "component")
    lone.choose_penalty()
    assert lone.penalty == pytest.approx(0.5 * forgotten, rel=1e-4)
    several = Method.begin(under(session, penalties=(0.25, 2.0)), "component")
    several.choose_penalty()
    assert several.penalty in [pytest.approx(share * forgotten, rel=1e-4) for share in (0.25, 2.0)]


def test_where_nothing_rose_no_penalty_pushes_away(session: Session) -> None:
    """Roles that are named may be the wrong way round; a negative penalty would reward distance."""
    roles = replace(session.roles, learned=("en",), forgotten=("bn",))
    turned = under(session, penalties=(0.5,))
    turned.roles = roles
    method = Method.begin(turned, "component")
    method.choose_penalty()
    assert method.penalty == 0.0


def test_a_stronger_penalty_stays_nearer_to_after(session: Session) -> None:
    def distance(strength: float) -> float:
        method = Method.begin(under(session, penalties=(strength,), evaluations=6), "component")
        point = method.search()[1]
        assert point.coefficients is not None and point.penalty == method.penalty
        return float(((1 - point.coefficients) ** 2).mean())

    assert distance(100.0) < distance(0.0)


def test_a_point_carries_what_was_asked_and_what_was_seen(session: Session) -> None:
    method = Method.begin(session, "component")
    first, second, budget = method.search()
    assert [p.label for p in (first, second, budget)] == ["rate 0.5", "rate 2", "lose ≤ 0.1"]
    for point in (first, second, budget):
        assert point.coefficients is not None
        found = session.evaluator(point.coefficients.numpy())
        assert list(point.validation.values()) == found.losses().tolist()
        assert point.coordinates == method.axes.count and point.swept
        assert float(point.coefficients.min()) >= 0.0 and float(point.coefficients.max()) <= 1.0


def test_a_wider_range_may_be_used(session: Session) -> None:
    narrow, rate = Method.begin(session, "component"), 2.0
    theirs = narrow.answer({}, rate)
    wide = Method.begin(under(session, low=-0.5, high=1.5), "component")
    assert wide.bounds == (-0.5, 1.5)
    mine = wide.answer({}, rate)  # it begins with all that the narrow one saw
    wider, within = (p.validation["bn"] + rate * p.validation["en"] for p in (mine, theirs))
    assert wider <= within + 1e-9


def test_what_is_asked_later_keeps_its_limits_and_takes_no_part_in_the_sweep(
    session: Session,
) -> None:
    method = Method.begin(session, "component")
    asked = method.answer({"bn": 0.3}, 1.0)
    after = session.evaluator(np.ones(session.space.shape)).losses()
    assert asked.kind == "asked" and dict(asked.limits) == {"bn": 0.3}
    assert asked.validation["bn"] <= after[1] + 0.3
    assert asked.validation["en"] <= after[0]
    rated = method.answer({}, 3.0)
    assert (rated.kind, rated.rate, rated.swept) == ("rate", 3.0, False)


def test_a_margin_goes_as_many_tenths_of_the_way_as_the_upper_bound_allows(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fold is given one point here, so that its bound is that of all validation rows, which can be told otherwise."""
    method = Method.begin(under(session, margin=True, level=0.9), "component")
    most = {"bn": 0.3}
    best = method._within(most, method.evaluate, method.archive)
    assert best is not None
    monkeypatch.setattr(method, "_within", lambda *_: best)
    found = method.within(most)
    assert found is not None
    moved = best.at < 0.99
    (tenths,) = {round(10 * share, 6) for share in (1 - found.at[moved]) / (1 - best.at[moved])}
    rows = {"bn": [row for item in session.evaluator.items if item.task == 1 for row in item.rows]}

    def bound(step: float) -> float:
        scores = [
            score_at(session.space, torch.from_numpy(method.values(at)), rows, session.settings)[
                "bn"
            ]
            for at in (1 + step / 10 * (best.at - 1), np.ones(len(best.at)))
        ]
        changes = scores[0].nats - scores[1].nats  # every row is a unit of its own
        return ratio_jackknife(changes, scores[0].tokens, 0.8).high.item()

    assert tenths == round(tenths)
    assert bound(tenths) <= 0.3 < (bound(tenths + 1) if tenths < 10 else math.inf)


def test_what_cannot_be_kept_is_refused_with_what_could(session: Session) -> None:
    method = Method.begin(session, "component")
    with pytest.raises(MeasurementError) as refused:
        method.answer({"bn": -50.0}, 1.0)
    assert refused.value.argument == "max_loss"
    assert "validation rows" in refused.value.law and "alone, the least are bn" in str(
        refused.value.found
    )


def test_of_several_checkpoints_each_has_its_coefficients() -> None:
    before, after = tuned.pair()
    made = tuned.session(tuned.opened(before, after, between=[tuned.teach(before, "bn", 10)]))
    integrate(made)
    method = Method.begin(made, "component")
    point = method.answer({}, 2.0)
    assert point.coefficients is not None
    assert point.coefficients.shape == (2, len(made.groups))
    assert point.coordinates == 2 * method.axes.count
    ends = [
        made.evaluator(v).losses() for v in (np.zeros(made.space.shape), np.ones(made.space.shape))
    ]
    best = min(loss[1] + 2 * loss[0] for loss in ends)
    assert point.validation["bn"] + 2 * point.validation["en"] < best
    assert pairs.IDS.shape[0] == 1
