"""The parser of the command line, built once: a quarter of a second, for every command of these tests."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from crosstune.cli import main


@pytest.fixture(scope="session", autouse=True)
def _one_parser() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "build_parser", functools.cache(main.build_parser))
        yield
