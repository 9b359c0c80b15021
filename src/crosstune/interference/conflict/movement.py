"""Does agreement move through depth? b_t = slope of the signed cosine on depth; migration = slope of b_t on steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    jackknife_spread,
    mean_spread,
    t_quantile,
)
from crosstune.interference.conflict.cosine import LEVEL

MIN_PROBES = 10
MIN_LAYERS = 3
MIN_SEEDS = 2
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Movement:
    """The verdict on movement through depth over one stage.

    Attributes:
        verdict: ``"shown"``, ``"not shown"``, ``"too noisy"`` or ``"too few"``.
        change: Total change of the depth slope over the stage, migration × (last − first step), with its interval.
        excluded_above: A larger change, either way, is excluded: the larger of the bounds' magnitudes.
        relevant: The smallest change worth finding.
        needs_seeds: Seeds with which a study like this would exclude ``relevant``; NaN where unknown, and where the
            change is not below it, so that no number of seeds would.
        seeds, probes, sites: What the verdict rests on.
        words: The verdict as a sentence.
    """

    verdict: str
    change: float
    low: float
    high: float
    excluded_above: float
    relevant: float
    needs_seeds: float
    seeds: int
    probes: int
    sites: int
    words: str


def depth_slope(cosine: Tensor, depth: Tensor) -> Tensor:
    """The least-squares slope of the signed cosine on depth, [..., S] and [S] → [...], in cosine per layer."""
    return _slope(cosine, depth)


def migration(cosine: Tensor, depth: Tensor, steps: Tensor) -> Tensor:
    """The least-squares slope of the depth slope on steps, [..., T, S], [S] and [T] → [...], in cosine per layer and step."""
    return _slope(depth_slope(cosine, depth), steps)


def always_resolved(resolved: Tensor) -> Tensor:
    """The sites resolved at every probe (of every seed), [..., S] → [S]; only they take part."""
    return resolved.flatten(0, -2).all(0)


def relevant_change(cosine: Tensor, depth: Tensor, layers: float = 3.0) -> float:
    """The change of the depth slope when a peak as high as the profile's moves by some layers; NaN without sites.

    Height is the largest distance of the mean profile (over seeds and probes) from its median; a single site of that
    height moved by Δ layers changes the slope by height · Δ / Σ (d − d̄)². Shapes: cosine [..., T, S], depth [S].
    """
    profile = cosine.flatten(0, -2).mean(0)
    if not len(profile):
        return math.nan
    height = (profile - profile.median()).abs().max()
    places = depth.to(torch.float64)
    return float(height * layers / (places - places.mean()).square().sum())


def movement_across_seeds(
    cosine: Tensor,
    depth: Tensor,
    steps: Tensor,
    *,
    relevant: float | None = None,
    level: float = LEVEL,
) -> Movement:
    """The verdict on movement from several seeds, by a t-interval over the seeds' migrations.

    Args:
        cosine: Corrected cosines of sites resolved throughout, [seeds, T, S].
        depth: Layer of each site, [S].
        steps: Optimizer step of each probe, [T].
        relevant: Smallest change worth finding; by default a peak of the profile's height moving 3 layers.
    """
    span = float(steps[-1] - steps[0])
    change = migration(cosine, depth, steps) * span
    interval = interval_from(change.mean(0), [mean_spread(change)], level)
    worth = relevant_change(cosine, depth) if relevant is None else relevant
    error = float(change.std(0)) if len(change) > 1 else math.nan
    basis = _Basis(len(cosine), len(steps), len(depth), len(depth.unique()), error)
    return _verdict(interval, worth, basis, "seeds")


def movement_within_run(
    cosine: Tensor,
    leave_one_out: Tensor,
    depth: Tensor,
    steps: Tensor,
    *,
    sizes: Sequence[int],
    shared: Tensor | None = None,
    level: float = LEVEL,
) -> Movement:
    """The verdict on movement within one run, about this run's path and no other.

    The error has two parts: the blocks, by a joint jackknife that deletes a block at all steps, and the scatter of b_t
    about its line, by least squares (widened for autocorrelation between probes). The second part is needed since the sign
    of the agreement may oscillate from probe to probe.

    Args:
        cosine: Corrected cosines of sites resolved throughout, [T, S].
        leave_one_out: The same without each block, [D, T, S].
        depth: Layer of each site, [S].
        steps: Optimizer step of each probe, [T].
        sizes, shared: Blocks of the two tasks, and pairs that share rows: see ``jackknife_spread``.
    """
    span = float(steps[-1] - steps[0])
    without = migration(leave_one_out, depth, steps) * span
    spreads = [
        jackknife_spread(without, sizes, shared),
        _scatter_about_line(depth_slope(cosine, depth), steps, span),
    ]
    interval = interval_from(migration(cosine, depth, steps) * span, spreads, level)
    basis = _Basis(1, len(steps), len(depth), len(depth.unique()), math.nan)
    return _verdict(interval, relevant_change(cosine, depth), basis, "this run")


def too_few(seeds: int) -> Movement:
    """The verdict where no probe was made."""
    nothing = torch.tensor(math.nan, dtype=torch.float64)
    interval = Interval(nothing, nothing, nothing, LEVEL, nothing)
    return _verdict(interval, math.nan, _Basis(seeds, 0, 0, 0, math.nan), "")


@dataclass(frozen=True)
class _Basis:
    seeds: int
    probes: int
    sites: int
    layers: int
    between_seeds: float  # standard deviation of the change, NaN within one run


def _verdict(interval: Interval, relevant: float, basis: _Basis, scope: str) -> Movement:
    """The verdict that the interval allows, with its sentence."""
    low, high = float(interval.low), float(interval.high)
    excluded = max(abs(low), abs(high)) if low == low else math.nan
    needs = math.nan
    if basis.probes < MIN_PROBES or basis.layers < MIN_LAYERS or not math.isfinite(relevant):
        verdict = "too few"
        words = (
            f"Movement cannot be judged: too few ({basis.probes} probes, {basis.sites} sites in "
            f"{basis.layers} layers; it takes {MIN_PROBES} probes and {MIN_LAYERS} layers with sites "
            "above the noise floor)."
        )
    elif low > 0 or high < 0:
        verdict = "shown"
        words = (
            f"Movement is shown ({scope}): the slope of agreement on depth changed by "
            f"{Estimate(float(interval.value), low, high)} per layer."
        )
    elif excluded <= relevant:
        verdict = "not shown"
        words = (
            f"Movement is not shown ({scope}): a change above {excluded:.3g} per layer is excluded."
        )
    else:
        verdict = "too noisy"
        margin = relevant - abs(float(interval.value))
        needs = seeds_needed(basis.between_seeds, margin, interval.level, basis.seeds + 1)
        if margin <= 0:
            remedy = "the change found is not smaller, so more seeds would not exclude it"
        else:
            remedy = f"needs {'more' if math.isnan(needs) else f'{needs:.0f}'} seeds"
        words = (
            f"Movement cannot be told ({scope}): too noisy to exclude a change of {relevant:.3g} "
            f"per layer ({remedy})."
        )
    return Movement(
        verdict=verdict,
        change=float(interval.value),
        low=low,
        high=high,
        excluded_above=excluded,
        relevant=relevant,
        needs_seeds=needs,
        seeds=basis.seeds,
        probes=basis.probes,
        sites=basis.sites,
        words=words,
    )


def seeds_needed(
    between_seeds: float, margin: float, level: float = LEVEL, at_least: int = MIN_SEEDS
) -> float:
    """The smallest number of seeds, from ``at_least`` on, whose half-width is at most the margin; NaN where unknown.

    A change c is excluded where |c| + half-width ≤ relevant, so the margin is relevant − |c|.
    """
    if not (between_seeds >= 0 and margin > 0):
        return math.nan
    seeds = torch.arange(at_least, MAX_SEEDS + 1, dtype=torch.float64)
    reach = t_quantile(0.5 + level / 2, seeds - 1) * between_seeds / seeds.sqrt()
    enough = (reach <= margin).nonzero()
    return float(seeds[enough[0, 0]]) if len(enough) else math.nan


def _scatter_about_line(slopes: Tensor, steps: Tensor, span: float) -> Spread:
    """The error of a fitted line's rise over the span from the scatter of its points.

    Autocorrelated scatter widens it by (1 + ρ)/(1 − ρ), where ρ is the lag-one autocorrelation of the residuals if
    positive; the degrees of freedom shrink by the same factor.
    """
    points = len(slopes)
    if points < MIN_PROBES:
        return Spread(torch.full((1,), math.nan, dtype=torch.float64), math.nan)
    x = steps.to(torch.float64) - steps.to(torch.float64).mean()
    residual = slopes - slopes.mean() - _slope(slopes, steps) * x
    squares = residual.square().sum()
    if float(squares) == 0:
        return Spread(torch.zeros(1, dtype=torch.float64), float(points - 2))
    rho = float((residual[1:] * residual[:-1]).sum() / squares)
    inflation = (1 + rho) / (1 - rho) if rho > 0 else 1.0
    error = (squares / (points - 2) / x.square().sum() * inflation).sqrt() * span
    return Spread(error.reshape(1), max(1.0, (points - 2) / inflation))


def _slope(values: Tensor, places: Tensor) -> Tensor:
    """The least-squares slope of the last axis on its places; NaN where the places do not differ."""
    x = places.to(torch.float64)
    x = x - x.mean()
    return (values.to(torch.float64) @ x) / x.square().sum()
