"""Each checkpoint teaches what it knows: no divergence where it teaches, never a negative one, within its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.errors import SettingsError, UnsupportedError
from crosstune.merging import repair
from crosstune.merging.session import Session


@pytest.fixture(scope="module")
def session() -> Session:
    return tuned.session(tuned.opened(*tuned.pair()), target="checkpoints", learned=("bn",))


def test_each_end_says_itself_what_it_teaches(session: Session) -> None:
    before, after = (
        session.evaluator(np.full(session.space.shape, value)).losses() for value in (0.0, 1.0)
    )
    assert before[0] == 0.0 and after[1] == 0.0  # en by before, bn by after, to the bit
    assert before[1] > 0.5 and after[0] > 0.5


def test_between_the_ends_nothing_is_below_zero(session: Session) -> None:
    for value in (0.25, 0.5, 0.75):
        assert (session.evaluator(np.full(session.space.shape, value)).losses() > 0).all()


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
