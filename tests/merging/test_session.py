"""A session knows who learned and who forgot, what can be moved, and what its looks depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.merging import pairs, tuned

from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import SettingsError
from crosstune.merging.checkpoints.endpoints import Ends
from crosstune.merging.session import Roles, Watch, find_roles


def rows() -> dict[str, list[Encoded]]:
    return {"en": tuned.encoded("en", 8), "bn": tuned.encoded("bn", 8)}


@pytest.fixture(scope="module")
def ends() -> Ends:
    return tuned.opened(*tuned.pair())


def roles(ends: Ends, **options: Any) -> Roles:
    return find_roles(ends, rows(), replace(tuned.SMALL, **options))


def test_roles_are_read_off_the_losses(ends: Ends) -> None:
    found = roles(ends)
    assert (found.learned, found.forgotten) == (("bn",), ("en",))
    assert found.after["bn"] < found.before["bn"] and found.after["en"] > found.before["en"]
    assert found.places(("bn", "en")) == (1, 0)


def test_tasks_that_are_named_are_the_learned_ones(ends: Ends) -> None:
    found = roles(ends, learned=("en",))
    assert (found.learned, found.forgotten) == (("en",), ("bn",))


def test_naming_every_task_as_learned_is_refused(ends: Ends) -> None:
    with pytest.raises(SettingsError, match="may have been forgotten") as refused:
        roles(ends, learned=("en", "bn"))
    assert refused.value.argument == "learned"


@pytest.mark.parametrize("options", [{"learned": ("ar",)}, {"max_loss": {"ar": 0.1}}])
def test_a_task_that_is_not_there_is_refused(ends: Ends, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        roles(ends, **options)
    assert refused.value.argument == next(iter(options))
    assert "en, bn" in refused.value.law and refused.value.found == "ar"


def test_directions_of_several_changes_are_refused() -> None:
    before, after = tuned.pair()
    ends = tuned.opened(before, after, between=[pairs.moved(before)])
    with pytest.raises(SettingsError, match="3 checkpoints"):
        tuned.session(ends, granularity=("singular",))


def test_only_what_a_granularity_needs_is_cut(ends: Ends) -> None:
    plain = tuned.session(ends)
    assert not any(piece.rows or piece.direction >= 0 for piece in plain.pieces)
    fine = tuned.session(ends, granularity=("embedding_rows", "singular"))
    assert {piece.rows for piece in fine.pieces} > {"", "new", "old"}
    assert max(piece.direction for piece in fine.pieces) == tuned.SMALL.directions - 1
    assert fine.sizes.shape == fine.box.shape == (1, len(fine.pieces))


def test_rows_of_an_embedding_are_classed_by_the_tokens_of_the_tasks(ends: Ends) -> None:
    session = tuned.session(ends, granularity=("embedding_rows",))
    masks = session.box._rows
    used = {name: {t for row in given for t in row.input_ids} for name, given in rows().items()}
    assert set(masks["new"].nonzero().flatten().tolist()) == used["bn"] - used["en"]
    assert set(masks["old"].nonzero().flatten().tolist()) == used["en"] - used["bn"]
    assert torch.stack(list(masks.values())).sum(0).eq(1).all()


def test_an_identity_is_that_of_ends_rows_pieces_and_target(ends: Ends) -> None:
    kept = tuned.session(ends).looks.identity
    assert tuned.session(ends).looks.identity == kept
    for options in ({"folds": 3}, {"granularity": ("singular",)}, {"batch_tokens": 32}):
        assert tuned.session(ends, **options).looks.identity != kept
    # How long a search is, or what it asks, is none of a look's business.
    assert tuned.session(ends, evaluations=9, exchange_rates=(3.0,)).looks.identity == kept


def test_a_listener_is_told_and_none_is_needed() -> None:
    told: list[tuple[str, int, int]] = []
    Watch(listener=lambda *what: told.append(what)).tell("looking", 1, 2)
    Watch().tell("looking", 1, 2)
    assert told == [("looking", 1, 2)]
