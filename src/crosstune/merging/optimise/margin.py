"""How far from after towards a chosen point may one go so that a limit also holds on rows that have not chosen it?

w(s) = 1 + s · (w − 1) for s = 0.1, 0.2, …, 1, stopped before the first s whose upper bound breaks a limit. The bound is that of
the loss against after on held-out folds: each fold judges the point that was chosen without it. Because s goes up from
after, which loses nothing, and stops at the first failure, the many looks need no correction.

One thing is not held out: how strongly coefficients are pulled to 1 was chosen on all folds. A fold's point has seen fewer rows
than the one that goes the way, and so fits them by chance a little more: the bound errs to the safe side.

Source: fixed-sequence testing as in Angelopoulos, Bates, Candès, Jordan & Lei (2021, arXiv 2110.01052), *Learn then Test*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.merging.optimise.archive import Array

STEPS = 10


@dataclass(frozen=True)
class HeldOut:
    """Rows cut into ``count`` folds of whole units, and points that were chosen without one of them.

    ``search(f)`` is the point chosen without fold f; ``changes(f, w)`` gives for each limited task the nats that w loses
    against after, and the tokens, of every unit of fold f.
    """

    count: int
    search: Callable[[int], Array]
    changes: Callable[[int, Array], Sequence[tuple[Tensor, Tensor]]]


def steps_within(
    folds: HeldOut, part_way: Callable[[Array, float], Array], limits: Sequence[float], level: float
) -> int:
    """How many tenths of the way keep every limit (nats per token) by their upper bound, one-sided at ``level``."""
    found = [folds.search(fold) for fold in range(folds.count)]
    for step in range(1, STEPS + 1):
        judged = [folds.changes(fold, part_way(at, step / STEPS)) for fold, at in enumerate(found)]
        for limit, of_task in zip(limits, zip(*judged, strict=True), strict=True):
            nats, tokens = (torch.cat(parts) for parts in zip(*of_task, strict=True))
            if not ratio_jackknife(nats, tokens, 2 * level - 1).high <= limit:
                return step - 1
    return STEPS
