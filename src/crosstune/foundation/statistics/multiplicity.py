"""What remains significant when many are tested: Holm's adjustment, and the smallest p a design can give."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import as_float64


def holm(p: Tensor) -> Tensor:
    """The adjusted p-values; rejecting those below α errs anywhere with probability at most α.

    NaN is a test that was not made: it stays NaN and does not count among the tests.

    Shapes: p [S, ...] → [S, ...]; families are columns, tests lie on axis 0.

    Returns:
        The adjusted p-values.

    Source: Holm (1979), *A simple sequentially rejective multiple test procedure*.
    """
    values = as_float64(p, "p")
    tests = (~values.isnan()).sum(0, keepdim=True)
    ordered, order = values.nan_to_num(nan=math.inf).sort(dim=0)
    place = torch.arange(values.shape[0]).reshape(-1, *[1] * (values.ndim - 1))
    factor = (tests - place).clamp(min=1)
    adjusted = (ordered * factor).cummax(0).values.clamp(max=1.0) if len(values) else ordered
    back = torch.empty_like(adjusted).scatter_(0, order, adjusted)
    return torch.where(values.isnan(), math.nan, back)


def smallest_attainable_p(units: int, resamples: int | None = None) -> float:
    """The smallest two-sided p that flipping the signs of so many paired units can give.

    Units are what was drawn independently (seeds). Resampling m times cannot go below 1/(m+1).

    Returns:
        A probability; NaN without units.
    """
    if units < 1:
        return math.nan
    exact = min(1.0, 2.0 ** (1 - units))
    return exact if resamples is None else max(exact, 1.0 / (resamples + 1))
