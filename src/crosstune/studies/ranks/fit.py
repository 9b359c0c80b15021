"""Loss against rank, loss(r) = floor + amount · r^(−power), and the rank beyond which doubling gains too little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from crosstune.foundation.records import Measurement
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.records.page import Statement, Tone
from crosstune.foundation.statistics.intervals import jackknife
from crosstune.studies.frame.over_seeds import mean_over_seeds

_POWERS = (0.05, 5.0)  # nearly straight in log r, to a curve that ends at once
WORTHWHILE = "worthwhile rank"


class RankCurve(NamedTuple):
    """A power law of the rank."""

    floor: float
    amount: float
    power: float

    def at(self, rank: Any) -> Any:
        """The loss at a rank, or at each of an array."""
        return self.floor + self.amount * rank**-self.power

    def worthwhile(self, worth: float) -> float:
        """log2 of the rank at which doubling gains `worth`; −∞ where it never does."""
        gain = self.amount * (1.0 - 2.0**-self.power)
        return math.log2(gain / worth) / self.power if gain > 0.0 else -math.inf


def fit_curve(ranks: Sequence[int], losses: NDArray[Any]) -> RankCurve:
    """The curve of least squares through one loss a rank, in units of their mean."""
    own = losses / losses.mean()
    start = (0.9 * own.min(), max(own[0] - own.min(), 1e-3), 0.5)
    bounds = ((0.0, 0.0, _POWERS[0]), (np.inf, np.inf, _POWERS[1]))
    at, law = np.asarray(ranks, dtype=float), lambda rank, *three: RankCurve(*three).at(rank)
    found, _ = curve_fit(law, at, own, start, bounds=bounds, max_nfev=20_000)
    floor, amount, power = map(float, found)
    return RankCurve(floor * float(losses.mean()), amount * float(losses.mean()), power)


def judge(
    ranks: Sequence[int], losses: NDArray[Any], worth: float
) -> tuple[RankCurve, Measurement, Statement]:
    """The curve of the mean over seeds, the worthwhile rank, and that in words.

    The rank is the curve's, with a jackknife interval over seeds on the scale of log r, within the ranks that were tried. It is
    the smallest where no other gains `worth` over it, the largest where the last step is shown to gain more, and read from the
    means, without an interval, where the step it lies in excludes what the curve says of it. Shapes: ``losses`` [seeds, ranks].
    """
    mean, seeds, least, most = losses.mean(0), len(losses), ranks[0], ranks[-1]
    curve, place = fit_curve(ranks, mean), _place(ranks, mean, worth)
    value, low, high = 2.0**place, math.nan, math.nan
    if seeds > 1:
        without = [_place(ranks, np.delete(losses, at, 0).mean(0), worth) for at in range(seeds)]
        found = jackknife(torch.tensor(without), torch.tensor(place))
        low, high = max(2.0 ** float(found.low), least), min(2.0 ** float(found.high), most)
    at = max(sum(rank < value for rank in ranks) - 1, 0)  # the step that the rank lies in
    said = float(curve.at(float(ranks[at])) - curve.at(float(ranks[at + 1])))
    own, last = (mean_over_seeds((losses[:, i] - losses[:, i + 1]).tolist()) for i in (at, -2))
    gain, tone = f"gains {worth:g} nats per token", "shown" if high < most else "not_shown"
    how = f"{curve.floor:.3g} + {curve.amount:.3g} · r^(−{curve.power:.2f}) through the mean over seeds; jackknife over seeds"
    if mean[0] - mean.min() < worth:
        text = f"Rank {least} is enough: no larger one {gain} over it."
    elif last.low > worth:
        value, low, high, tone, how = most, most, most, "shown", "the last step, over seeds"
        text = f"Rank {most} is not enough: the step to it, the largest tried, still gained {last.estimate} nats per token."
    elif said < own.low or said > own.high:
        value = next(rank for i, rank in enumerate(ranks) if mean[i] - mean[i:].min() < worth)
        low, high, tone, how = math.nan, math.nan, "not_shown", "the means of the ranks tried"
        text = f"Beyond rank {value} none that was tried {gain}. No power law fits: it says {said:.2g} where {own.estimate} was gained."
    elif value >= most:
        text = f"Rank {most}, the largest tried, may not be enough: by the fit doubling it {gain}."
    else:
        text = f"Beyond rank {Estimate(value, low, high)} doubling no longer {gain}, by the fit."
    rank = Measurement(WORTHWHILE, float(value), low, high, seeds, "", how, n_unit="seeds")
    sure = cast(Tone, "too_noisy" if seeds == 1 else tone)
    return curve, rank, Statement(text, sure, f"By {how}.")


def _place(ranks: Sequence[int], mean: NDArray[Any], worth: float) -> float:
    """log2 of the worthwhile rank by the fit, among the ranks that were tried."""
    first, last = math.log2(ranks[0]), math.log2(ranks[-1])
    is_flat = mean[0] - mean.min() < worth
    return min(max(first if is_flat else fit_curve(ranks, mean).worthwhile(worth), first), last)
