"""A session knows who learned and who forgot, what can be moved, and what its evaluations depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.merging import pairs, tuned

from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import SettingsError
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.session import Roles, Watch, find_roles


def rows() -> dict[str, list[Encoded]]:
    return {"en": tuned.encoded("en", 8), "bn": tuned.encoded("bn", 8)}


@pytest.fixture(scope="module")
def ends() -> Endpoints:
    return tuned.opened(*tuned.pair())


def roles(ends: Endpoints, **options: Any) -> Roles:
    return find_roles(ends, rows(), replace(tuned.SMALL, **options))


def test_roles_are_read_off_the_losses(ends: Endpoints) -> None:
    found = roles(ends)
    assert (found.learned, found.forgotten) == (("bn",), ("en",))
    assert found.after["bn"] < found.before["bn"] and found.after["en"] > found.before["en"]
    assert found.places(("bn", "en")) == (1, 0)


def test_tasks_that_are_named_are_the_learned_ones(ends: Endpoints) -> None:
    found = roles(ends, learned=("en",))
    assert (found.learned, found.forgotten) == (("en",), ("bn",))


def test_naming_every_task_as_learned_is_refused(ends: Endpoints) -> None:
    with pytest.raises(SettingsError, match="may have been forgotten") as refused:
        roles(ends, learned=("en", "bn"))
    assert refused.value.argument == "learned"


@pytest.mark.parametrize("options", [{"learned": ("ar",)}, {"max_loss": {"ar": 0.1}}])
def test_a_task_that_is_not_there_is_refused(ends: Endpoints, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        roles(ends, **options)
    assert refused.value.argument == next(iter(options))
    assert "en, bn" in refused.value.law and refused.value.found == "ar"


def test_directions_of_several_changes_are_refused() -> None:
    before, after = tuned.pair()
    ends = tuned.opened(before, after, between=[pairs.moved(before)])
    with pytest.raises(SettingsError, match="3 checkpoints"):
        tuned.session(ends, granularity=("singular",))


def test_only_what_a_granularity_needs_is_cut(ends: Endpoints) -> None:
    plain = tuned.session(ends)
    assert not any(group.rows or group.direction >= 0 for group in plain.groups)
    fine = tuned.session(ends, granularity=("embedding_rows", "singular"))
    assert {group.rows for group in fine.groups} > {"", "new", "old"}
    assert max(group.direction for group in fine.groups) == tuned.SMALL.directions - 1
    assert fine.sizes.shape == fine.space.shape == (1, len(fine.groups))


def test_an_identity_is_that_of_endpoints_rows_groups_and_target(ends: Endpoints) -> None:
    kept = tuned.session(ends).evaluator.identity
    assert tuned.session(ends).evaluator.identity == kept
    for options in ({"folds": 3}, {"granularity": ("singular",)}, {"batch_tokens": 32}):
        assert tuned.session(ends, **options).evaluator.identity != kept
    # How long a search is, or what it asks, is none of an evaluation's business.
    assert tuned.session(ends, evaluations=9, exchange_rates=(3.0,)).evaluator.identity == kept


def test_a_listener_is_called_and_none_is_needed() -> None:
    heard: list[tuple[str, int, int]] = []
    Watch(listener=lambda *what: heard.append(what)).tell("searching", 1, 2)
    Watch().tell("searching", 1, 2)
    assert heard == [("searching", 1, 2)]
