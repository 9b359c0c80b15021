"""Errors finish their sentence and survive a process boundary."""

from __future__ import annotations

import pickle

import pytest

from crosstune.foundation import errors


def test_the_message_has_argument_law_finding_and_remedy():
    error = errors.SettingsError(
        "blocks", law="must be at least 2", found=1, remedy="Ask for more."
    )
    assert str(error) == "`blocks` must be at least 2; found 1. Ask for more."


@pytest.mark.parametrize("name", [name for name in dir(errors) if name.endswith("Error")])
def test_every_error_is_of_the_tree_and_pickles(name):
    kind = getattr(errors, name)
    if kind is not errors.CrosstuneError:
        assert issubclass(kind, errors.CrosstuneError)
    error = kind("a", law="must b", found="c", remedy="D.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_an_argument_is_told_by_the_users_word_and_others_pass():
    with (
        pytest.raises(errors.StorageError, match="`model` must") as caught,
        errors.renamed("path", "model"),
    ):
        raise errors.StorageError("path", law="must be there", found="nothing", remedy="Make it.")
    assert caught.value.remedy == "Make it."
    with pytest.raises(errors.StorageError, match="`other`"), errors.renamed("path", "model"):
        raise errors.StorageError("other", law="must be there", found="nothing", remedy="Make it.")
