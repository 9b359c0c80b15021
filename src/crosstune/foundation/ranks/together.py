"""Together: what one process finds out, or trips over, all processes of the run know."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from crosstune.foundation.errors import CrosstuneError
from crosstune.foundation.ranks.collectives import gather_over_ranks, is_first

T = TypeVar("T")


def by_each(work: Callable[[], T]) -> list[T]:
    """What each process returns, in rank order.

    Args:
        work: Run by every process; it may fail in one of them.

    Returns:
        The same list everywhere.

    Raises:
        CrosstuneError: What the first process that failed raised, in all of them: none waits for another in vain.
    """
    found: list[T] = []
    failed: CrosstuneError | None = None
    try:
        found.append(work())
    except CrosstuneError as error:
        failed = error
    everywhere = gather_over_ranks((found, failed))
    for _, problem in everywhere:
        if problem is not None:
            raise problem
    return [value for values, _ in everywhere for value in values]


def by_first(work: Callable[[], T]) -> T:
    """What the first process returns, in every process.

    Args:
        work: Run by the first process alone.

    Returns:
        Its result.

    Raises:
        CrosstuneError: What it raised, in every process.
    """
    (found,) = by_each(lambda: [work()] if is_first() else [])[0]
    return found
