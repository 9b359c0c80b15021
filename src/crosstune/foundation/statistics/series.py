"""What a series of dependent values is worth: effective sample size, fluctuations about a line, moving-block bootstrap."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import Spread, as_float64


def effective_sample_size(series: Tensor) -> Tensor:
    """How many independent values would give a mean as precise as this series, at most T.

    T / τ with τ = 1 + 2 Σ ρ_lag, summed while consecutive pairs of autocorrelations stay positive. Series
    that alternate would have τ < 1; they count as T, since a short series cannot prove more.
    A constant series counts as T, fewer than two values give NaN.

    Shapes: series [T, ...] → [...].

    Source: Geyer (1992), *Practical Markov chain Monte Carlo*, §3.3 (initial monotone sequence).
    """
    data = as_float64(series, "series")
    length = data.shape[0]
    if length < 2:
        return torch.full(data.shape[1:], math.nan, dtype=torch.float64)
    centred = data - data.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * length, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * length, dim=0)[:length]
    correlation = covariance / covariance[0]
    pairs = correlation[: length // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).cumprod(0).bool()
    pairs = torch.where(positive, pairs, 0.0).cummin(0).values
    size = length / (2 * pairs.sum(0) - 1).clamp(min=1.0)
    size = torch.where(covariance[0] == 0, float(length), size)
    return torch.where(data.isnan().any(0), math.nan, size)


def detrended(series: Tensor) -> Tensor:
    """The series [T, ...], equally spaced, without its least-squares line in time: fluctuations around its mean."""
    data = as_float64(series, "series")
    time = _centred_time(data.shape[0])
    slope = torch.tensordot(time, data, dims=1) / time.square().sum().clamp(min=1e-300)
    line: Tensor = time.reshape(-1, *[1] * (data.ndim - 1)) * slope
    return data - line


def block_bootstrap(
    series: Tensor, generator: torch.Generator, *, resamples: int = 1000, block: int | None = None
) -> Tensor:
    """Means of resampled series, each put together from runs of consecutive values of the original.

    Args:
        series: [T, ...], equally spaced.
        generator: Where the draws come from.
        resamples: Number of resampled series R.
        block: Length of a run; by default the cube root of T, rounded up, and at least 2.

    Shapes: series [T, ...] → [R, ...].

    Returns:
        The means of the resampled series.

    Raises:
        MeasurementError: The series is empty.

    Source: Künsch (1989), *The jackknife and the bootstrap for general stationary observations*.
    """
    data = as_float64(series, "series")
    length = data.shape[0]
    if length == 0:
        raise MeasurementError(
            "series", law="must hold a value", found="none", remedy="Measure at least one state."
        )
    run = block_length(length) if block is None else min(block, length)
    runs = math.ceil(length / run)
    starts = torch.randint(length - run + 1, (resamples, runs, 1), generator=generator)
    places = (starts + torch.arange(run)).flatten(1)[:, :length]
    weights = torch.zeros(resamples, length, dtype=torch.float64)
    weights.scatter_add_(1, places, torch.full(places.shape, 1.0 / length, dtype=torch.float64))
    return (weights @ data.reshape(length, -1)).reshape(resamples, *data.shape[1:])


def block_length(length: int) -> int:
    """The default run of the block bootstrap: the cube root of the length, at least 2."""
    return min(max(2, math.ceil(round(math.cbrt(length), 9))), length)


def replicate_spread(
    replicates: Tensor, length: int, df: float, *, block: int | None = None, line: bool = False
) -> Spread:
    """The deviations of a figure given its block-bootstrap replicates; NaN where the series is no longer than one run.

    Runs that fill a share b/T of the series repeat each other, which makes the bootstrap variance of a
    mean too small by the factor 1 − b/T for independent values; a line taken out of the series makes
    it smaller still, by what the line explains of a run's mean. Both are taken out here.
    """
    run = block_length(length) if block is None else min(block, length)
    if length <= run:
        return Spread(torch.full_like(replicates[:1], math.nan), math.nan)
    kept = 1 - run / length
    if line:
        time = _centred_time(length)
        means = time.unfold(0, run, 1).mean(1)
        kept -= run * float(means.square().mean() / time.square().sum())
    scale = 1 / math.sqrt(kept * (replicates.shape[0] - 1))
    return Spread(scale * (replicates - replicates.mean(0)), df)


def _centred_time(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64) - (length - 1) / 2
