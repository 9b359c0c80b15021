"""Alone, a process is its own company; two processes are tried in tests/laws/test_circuit_capture.py."""

from __future__ import annotations

import pytest

from crosstune.foundation.errors import DataError
from crosstune.foundation.ranks.together import by_each, by_first


def test_one_process_is_the_first_and_all() -> None:
    assert by_each(lambda: 3) == [3]
    assert by_first(lambda: None) is None


def test_its_error_is_raised() -> None:
    def fail() -> None:
        raise DataError("rows", law="must be", found="not", remedy="Do.")

    for run in (by_each, by_first):
        with pytest.raises(DataError, match="`rows` must be; found not. Do."):
            run(fail)


def test_an_error_that_is_no_user_error_is_not_held_back() -> None:
    with pytest.raises(ZeroDivisionError):
        by_each(lambda: 1 // 0)
