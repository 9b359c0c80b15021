"""Where is the peak? The site whose dissimilarity 1 − cos exceeds every other's beyond their joint error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import Spread
from crosstune.foundation.statistics.winners import winner_of
from crosstune.interference.conflict.cosine import LEVEL

NO_PEAK = -1
MAX_NAMED = 6  # sites a sentence can bear


@dataclass(frozen=True)
class PeakVerdict:
    """The verdict on the most dissimilar of some sites.

    Attributes:
        site: Index of the peak; −1 where no site can be told from all others.
        kind: ``"conflict peak"`` where the winner conflicts, ``"most dissimilar"`` where it does not,
            ``"no peak"``, ``"no interval"`` where the errors are unknown, or
            ``"unresolved"`` where fewer than two sites are above the noise floor.
        leader: Index of the largest dissimilarity, peak or not; −1 where no site is resolved.
        confidence: Dissimilarity of the peak less the second largest; 0 without a peak.
        p: Two-sided p of the smallest standardised difference to another site.
        indistinguishable: Sites that may be the largest, the leader among them.
    """

    site: int
    kind: str
    leader: int
    confidence: float
    p: float
    indistinguishable: tuple[int, ...]

    def words(self, names: Sequence[str]) -> str:
        """The verdict as a sentence, given the names of all sites."""
        if self.kind == "unresolved":
            return "Peak cannot be judged: fewer than two sites are above the noise floor."
        if self.kind == "no interval":
            return "Peak cannot be judged: too few blocks or states for an interval."
        if self.site == NO_PEAK:
            rivals = ", ".join(names[i] for i in self.indistinguishable[:MAX_NAMED])
            more = len(self.indistinguishable) - MAX_NAMED
            rivals += f" and {more} more" if more > 0 else ""
            return f"No peak: {rivals} cannot be told apart ({_p(self.p)})."
        sentence = {
            "conflict peak": "The conflict peaks at",
            "most dissimilar": "The tasks are most dissimilar, without conflict, at",
        }[self.kind]
        return f"{sentence} {names[self.site]} ({_p(self.p)})."


def _p(value: float) -> str:
    # Below this the tail of t says more about the model of the errors than about the data.
    return "p < 1e-6" if value < 1e-6 else f"p = {value:.2g}"


def find_peak(
    cosine: Tensor,
    spreads: Sequence[Spread],
    resolved: Tensor,
    conflict: Tensor,
    level: float = LEVEL,
) -> PeakVerdict:
    """The peak among the given sites, in one component across layers or over all of them.

    Args:
        cosine: Corrected cosines of a window (or of seeds' windows), [S].
        spreads: Their deviations from each independent source of error, [D, S] each.
        resolved: Sites above the noise floor, [S]; the others are left out.
        conflict: Sites in conflict, [S].
        level: A false peak has probability at most 1 − level.

    Source: arXiv 2503.01065, rank verification by the smallest standardised difference.
    """
    dissimilarity = torch.where(resolved, 1 - cosine, math.nan)
    winner = winner_of(dissimilarity, spreads, level)
    runner_up = _second(dissimilarity, winner.index)
    if runner_up < 0:
        kind, site = "unresolved", NO_PEAK
    elif math.isnan(winner.p):
        kind, site = "no interval", NO_PEAK
    elif not winner.verified:
        kind, site = "no peak", NO_PEAK
    else:
        kind = "conflict peak" if bool(conflict[winner.index]) else "most dissimilar"
        site = winner.index
    gap = float(dissimilarity[site] - dissimilarity[runner_up]) if site >= 0 else 0.0
    return PeakVerdict(
        site=site,
        kind=kind,
        leader=winner.index,
        confidence=gap,
        p=winner.p,
        indistinguishable=winner.indistinguishable,
    )


def heuristics(cosines: Tensor, norms: Tensor) -> dict[str, int]:
    """Rules of thumb that users know, by the name of their column; none of them knows its error, NaN sites are left out.

    Args:
        cosines: Corrected cosines at the single states of a window, oldest first, [T, S].
        norms: Gradient norms of the new task at the newest state, [S].
    """
    dissimilarity = 1 - cosines
    newest = dissimilarity[-1]
    return {
        "gap_site": ten_percent_gap(newest),
        "windowed_site": _top(dissimilarity.nanmean(0)),
        "weighted_site": _top(newest * norms),
    }


def ten_percent_gap(dissimilarity: Tensor) -> int:
    """The top site if it exceeds 1.1 × the second; −1 when flat."""
    top = _top(dissimilarity)
    second = _second(dissimilarity, top)
    is_clear = second >= 0 and bool(dissimilarity[top] > 1.1 * dissimilarity[second])
    return top if is_clear else NO_PEAK


def _top(values: Tensor) -> int:
    if bool(values.isnan().all()):
        return NO_PEAK
    return int(values.nan_to_num(nan=-math.inf).argmax())


def _second(values: Tensor, top: int) -> int:
    if top < 0:
        return NO_PEAK
    others = values.clone()
    others[top] = math.nan
    return _top(others)
