"""An evaluation is the loss of every task and fold; it is made once, stored, and refused where it is not finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import DataError, MeasurementError, SettingsError, UnsupportedError
from crosstune.merging import repair
from crosstune.merging.evaluations import Evaluator, make_items
from crosstune.merging.scoring import score_at
from crosstune.merging.session import Session


def rows() -> list[list[Encoded]]:
    return [tuned.encoded("en", 12), tuned.encoded("bn", 12)]


@pytest.fixture(scope="module")
def session() -> Session:
    return tuned.session(tuned.opened(*tuned.pair()))


def evaluator(session: Session, **options: object) -> Evaluator:
    own = session.evaluator
    return Evaluator(session.space, own.items, own.settings, own.identity, **options)  # type: ignore[arg-type]


def test_every_row_is_in_one_item_and_a_group_in_one_fold() -> None:
    items = make_items(rows(), 3, 40, seed=0)
    folds: dict[str, set[int]] = {}
    for item in items:
        assert max(map(len, (row.input_ids for row in item.rows))) * len(item.rows) <= 40
        for row in item.rows:
            assert row.row_id.startswith(("en", "bn")[item.task])
            folds.setdefault(row.group or "", set()).add(item.fold)
    assert all(len(found) == 1 for found in folds.values())  # translations among them
    assert sorted(r.row_id for item in items for r in item.rows) == sorted(
        r.row_id for given in rows() for r in given
    )


def test_folds_are_of_like_size_and_of_the_seed() -> None:
    def dealt(seed: int) -> dict[str, int]:
        items = make_items(rows(), 3, 40, seed)
        return {row.row_id: item.fold for item in items for row in item.rows}

    sizes = np.bincount(list(dealt(0).values()))
    assert sizes.tolist() == [8, 8, 8]
    assert dealt(0) == dealt(0) != dealt(1)


def test_more_folds_than_groups_are_refused() -> None:
    alike = [[replace(row, unit="one") for row in given] for given in rows()]
    with pytest.raises(DataError) as refused:
        make_items(alike, 2, 40, seed=0)
    assert refused.value.argument == "keep"
    assert "2 folds" in refused.value.law and "fewer folds" in refused.value.remedy
    assert "task number 1" in str(refused.value.found)


def test_losses_are_those_that_the_same_model_scores(session: Session) -> None:
    values = np.full(session.space.shape, 0.4)
    found = session.evaluator(values)
    given = {"en": tuned.encoded("en", 8), "bn": tuned.encoded("bn", 8)}
    scores = score_at(session.space, torch.from_numpy(values), given, session.settings)
    for at, name in enumerate(("en", "bn")):
        one = scores[name]
        assert found.losses()[at] == pytest.approx(
            (one.nats.sum() / one.tokens.sum()).item(),
            rel=1e-5,  # float32 logits in other batches
        )
        assert found.tokens[at].sum() == one.tokens.sum()


def test_some_folds_are_a_part_of_all(session: Session) -> None:
    found = session.evaluator(np.full(session.space.shape, 0.6))
    share = found.tokens / found.tokens.sum(axis=1, keepdims=True)
    parts = np.stack([found.losses([fold]) for fold in range(2)], axis=1)
    np.testing.assert_allclose((parts * share).sum(1), found.losses())
    slopes = np.stack([found.loss_slopes([fold]) for fold in range(2)], axis=1)
    np.testing.assert_allclose((slopes * share[..., None, None]).sum(1), found.loss_slopes())


def test_a_point_is_evaluated_once_and_reported(session: Session) -> None:
    heard: list[int] = []
    own = evaluator(session, progress=lambda: heard.append(1))
    values = np.full(session.space.shape, 0.2)
    assert own(values) is own(values.copy())
    assert own.made == 1 and len(heard) == 1
    own(values + 0.1)
    assert own.made == 2
    assert [float(place[0, 0]) for place, _ in own.seen] == pytest.approx([0.2, 0.3])
    assert own.tokens == sum(row.scored_tokens for i in own.items for row in i.rows)


def test_what_is_stored_comes_back_to_the_bit_and_of_another_identity_not(
    session: Session, tmp_path: Path
) -> None:
    values = np.full(session.space.shape, 0.7)
    first, second = evaluator(session, folder=tmp_path), evaluator(session, folder=tmp_path)
    made, read = first(values), second(values)
    assert second.made == 0
    for name in ("nats", "tokens", "slopes"):
        assert getattr(made, name).tobytes() == getattr(read, name).tobytes()
    other = evaluator(session, folder=tmp_path)
    other.identity = {**first.identity, "target": "other"}
    other(values)
    assert other.made == 1


def test_a_loss_that_is_not_finite_is_refused_with_the_point(session: Session) -> None:
    def broken(model: object, batch: dict[str, torch.Tensor], place: int) -> torch.Tensor:
        parameter = next(iter(session.ends.model.parameters()))
        return (parameter.sum() * float("nan")).double()

    with pytest.raises(MeasurementError, match=r"from 0.1 to 0.1"):
        evaluator(session, target=broken)(np.full(session.space.shape, 0.1))


@pytest.fixture(scope="module")
def taught() -> Session:
    return tuned.session(tuned.opened(*tuned.pair()), target="checkpoints", learned=("bn",))


def test_each_end_says_itself_what_it_teaches(taught: Session) -> None:
    before, after = (
        taught.evaluator(np.full(taught.space.shape, value)).losses() for value in (0.0, 1.0)
    )
    assert before[0] == 0.0 and after[1] == 0.0  # en by before, bn by after, to the bit
    assert before[1] > 0.5 and after[0] > 0.5


def test_between_the_ends_nothing_is_below_zero(taught: Session) -> None:
    for value in (0.25, 0.5, 0.75):
        assert (taught.evaluator(np.full(taught.space.shape, value)).losses() > 0).all()


def test_what_needs_more_memory_than_allowed_is_refused_with_the_bytes() -> None:
    rows = {"en": tuned.encoded("en", 8), "bn": tuned.encoded("bn", 8)}
    scored = sum(row.scored_tokens for given in rows.values() for row in given)
    needed = 4 * scored * 23
    options: dict[str, Any] = {"target": "checkpoints", "learned": ("bn",)}
    tuned.session(tuned.opened(*tuned.pair()), teacher_bytes=needed, **options)
    with pytest.raises(UnsupportedError) as refused:
        tuned.session(tuned.opened(*tuned.pair()), teacher_bytes=needed - 1, **options)
    assert refused.value.argument == "teacher_bytes"
    assert str(needed) in str(refused.value.found) and str(scored) in refused.value.law


def test_without_labels_the_learned_tasks_must_be_named() -> None:
    with pytest.raises(SettingsError, match="learned"):
        repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), target="checkpoints")
