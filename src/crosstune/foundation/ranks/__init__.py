"""Processes of one run: the only room that knows torch.distributed. Alone, everything is rank 0 of 1."""

from __future__ import annotations

from crosstune.foundation.ranks.collectives import (
    by_each,
    by_first,
    from_first,
    gather_over_ranks,
    is_first,
    owned,
    rank,
    start,
    sum_over_ranks,
    wait_for_all,
    world_size,
)

__all__ = [
    "by_each",
    "by_first",
    "from_first",
    "gather_over_ranks",
    "is_first",
    "owned",
    "rank",
    "start",
    "sum_over_ranks",
    "wait_for_all",
    "world_size",
]
