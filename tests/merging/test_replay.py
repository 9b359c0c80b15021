"""The rival that trains begins at after, learns as many tokens as were evaluated, and is judged by other rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs, tuned

from crosstune.foundation.evaluation import score_rows
from crosstune.merging import replay as replay_of
from crosstune.merging.replay import Replayed, replay
from crosstune.merging.selection import Rows
from crosstune.merging.session import Session

RATES = (1e-4, 1e-3)
TOKENS = 900


@pytest.fixture(scope="module")
def session() -> Session:
    return tuned.session(tuned.opened(*tuned.pair()), replay_rates=RATES)


def rows() -> Rows:
    names = ("en", "bn")
    return Rows(
        {name: tuned.encoded(name, 8) for name in names},
        {name: tuned.encoded(name, 8, start=40) for name in names},
    )


@pytest.fixture(scope="module")
def found(session: Session) -> Replayed:
    return replay(session, rows(), TOKENS, stops=4)


def test_every_rate_begins_at_after(found: Replayed) -> None:
    after = tuned.pair()[1]
    starts = [(point, scores) for point, scores in found.points if point.step == 0]
    assert [point.rate for point, _ in starts] == list(RATES)
    for _, scores in starts:
        for name, given in rows().test.items():
            truth = score_rows(after, given, pad_id=0, batch_tokens=64)
            assert torch.equal(scores[name].nats, truth.nats)


def test_it_stops_as_often_as_was_asked_and_moves(found: Replayed) -> None:
    for rate in RATES:
        steps = [point.step for point, _ in found.points if point.rate == rate]
        assert len(steps) == 1 + 2 and steps == sorted(set(steps))
        first, *_, last = (p.validation["en"] for p, _ in found.points if p.rate == rate)
        assert last != first
    assert all(point.method == point.kind == "replay" for point, _ in found.points)


def test_compute_is_equal_within_a_step_of_every_run(found: Replayed, session: Session) -> None:
    learned, _ = replay_of._parted(session)
    mixed = [row for given in learned.values() for row in given]
    step = min(replay_of.BATCH_ROWS, len(mixed)) * sum(r.scored_tokens for r in mixed) / len(mixed)
    assert abs(found.tokens - TOKENS) <= len(RATES) * step
    last = max(point.step for point, _ in found.points)
    assert last * step * len(RATES) == pytest.approx(found.tokens, rel=0.01)
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("steps", "count", "due"),
    [
        (80, 4, {80, 40, 20, 10}),
        (5, 4, {5, 3, 2, 1}),
        (3, 3, {1, 2, 3}),
        (7, 1, {7}),
        (7, 0, set()),
    ],
)
def test_stops_halve_the_way_and_are_as_many_as_was_asked(
    steps: int, count: int, due: set[int]
) -> None:
    assert replay_of._halvings(steps, count) == due


def test_rows_that_judge_are_not_learned(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    learned_ids: set[str] = set()
    train = replay_of.train_stage

    def watched(model: Any, data: Any, *others: Any, **options: Any) -> Any:
        learned_ids.update(row.row_id for row in data.train)
        return train(model, data, *others, **options)

    monkeypatch.setattr(replay_of, "train_stage", watched)
    replay(session, rows(), 100, stops=1)
    last = session.settings.folds - 1
    judging = {r.row_id for i in session.evaluator.items if i.fold == last for r in i.rows}
    others = {r.row_id for i in session.evaluator.items if i.fold != last for r in i.rows}
    assert learned_ids == others and not learned_ids & judging


def test_the_work_model_is_as_good_as_before(session: Session, found: Replayed) -> None:
    flags = [p.requires_grad for p in session.ends.model.parameters()]
    state = torch.get_rng_state()
    replay(session, rows(), 100, stops=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.requires_grad for p in session.ends.model.parameters()] == flags
    assert not session.ends.model.training
    session.space.place(torch.ones(session.space.shape, dtype=torch.float64))
    assert torch.equal(pairs.logits(session.ends.model), pairs.logits(tuned.pair()[1]))


def test_of_an_adapter_only_the_factors_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    session = tuned.session(tuned.opened(*tuned.adapted()), replay_rates=(1e-2,))
    moved: set[str] = set()
    train = replay_of.train_stage

    def watched(model: Any, *others: Any, **options: Any) -> Any:
        kept = {name: p.clone() for name, p in model.named_parameters()}
        result = train(model, *others, **options)
        moved.update(n for n, p in model.named_parameters() if not torch.equal(p, kept[n]))
        return result

    monkeypatch.setattr(replay_of, "train_stage", watched)
    replay(session, rows(), 200, stops=1)
    assert moved and all("lora_" in name for name in moved)
    assert any("lora_A" in name for name in moved) and any("lora_B" in name for name in moved)


def test_few_rows_make_small_steps_and_are_counted_so() -> None:
    few = {"en": tuned.encoded("en", 3), "bn": tuned.encoded("bn", 3)}
    session = tuned.session(tuned.opened(*tuned.pair()), rows=few, replay_rates=(1e-3,))
    learned, _ = replay_of._parted(session)
    mixed = [row for given in learned.values() for row in given]
    assert len(mixed) < replay_of.BATCH_ROWS
    found = replay(session, Rows(few, rows().test), 300, stops=1)
    assert abs(found.tokens - 300) <= sum(row.scored_tokens for row in mixed)
    assert tiny.llama().config.num_hidden_layers == 2
