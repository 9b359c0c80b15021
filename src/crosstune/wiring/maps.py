"""Maps from a sender's states to a receiver's, x ↦ x W + b, in closed form from moments alone; nothing in them learns.

With Σ the covariances and μ, ν the means of x and y, b = ν − μ W always, and W is

    identity      I
    Procrustes    U Vᵀ, of Σxy = U S Vᵀ
    linear        Σxx⁺ Σxy
    ridge         (Σxx + λ (tr Σxx / p) I)⁻¹ Σxy
    rank r        W V_r V_rᵀ, V_r the leading eigenvectors of Wᵀ Σxy, of a ridge's or linear W

Solved in float64, kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError, hold
from crosstune.wiring.moments import ROUNDING, Covariances, PairMoments

PENALTIES = tuple(10.0**power for power in range(-6, 2))
"""λ, in units of the mean eigenvalue of Σxx."""


@dataclass(frozen=True)
class MapScore:
    """What a map leaves of some rows; scores of several folds add up.

    Shapes: ``sums`` [4]: Σ|y − ŷ|², and about the rows' own means Σ|y|², Σ|ŷ|² and Σ y·ŷ.
    """

    sums: Tensor

    @property
    def r2(self) -> float:
        """1 − Σ|y − ŷ|² / Σ|y − ȳ|², all columns together; below 0 where the rows' own mean would have been better."""
        return float(1 - self.sums[0] / self.sums[1])

    @property
    def cosine(self) -> float:
        """Of y and ŷ, both centred, all rows as one vector; it knows no scale, and is NaN where ŷ is constant."""
        return float(self.sums[3] / (self.sums[1] * self.sums[2]).sqrt())

    def __add__(self, other: MapScore) -> MapScore:
        """Over both one's rows."""
        return MapScore(self.sums + other.sums)


@dataclass(frozen=True)
class LinearMap:
    """x ↦ x W + b.

    Shapes: ``weight`` [p, q], ``bias`` [q], float32.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, covariances: Covariances, weight: Tensor) -> LinearMap:
        """The map of this weight that takes mean to mean."""
        bias = covariances.mean_y - covariances.mean_x @ weight
        return cls(weight.float(), bias.float())

    def __call__(self, states: Tensor) -> Tensor:
        """States of any float type, [..., p] → [..., q], float32."""
        return states.float() @ self.weight + self.bias

    def score(self, covariances: Covariances) -> MapScore:
        """On the rows of these covariances."""
        c, weight = covariances, self.weight.double()
        total, product = c.yy.trace(), (weight * c.xy).sum()
        predicted = (weight * (c.xx @ weight)).sum()
        off = (c.mean_y - c.mean_x @ weight - self.bias).square().sum()
        residual = total - 2 * product + predicted + off
        return MapScore(c.rows * torch.stack([residual, total, predicted, product]))


def identity_map(covariances: Covariances) -> LinearMap:
    """States as they are, but for the shift between the means; a MeasurementError where widths differ."""
    p, q = covariances.xy.shape
    words = "must be as wide as the sender", f"{p} and {q}", "Use another map."
    hold(p == q, MeasurementError, "receiver", words)
    return LinearMap.of(covariances, torch.eye(p).to(covariances.xy))


def procrustes_map(covariances: Covariances) -> LinearMap:
    """A rotation without scale, to a narrower or wider receiver a part of one.

    To one at least as wide (p ≤ q, W Wᵀ = I) it is the least squares of all such maps; to a narrower one (p > q, Wᵀ W = I) only that of largest
    covariance with y: |x W| then depends on W, and least squares has no closed form. Where Σxy is 0 or rounding, so is W.

    Source: Schönemann 1966, *A Generalized Solution of the Orthogonal Procrustes Problem*, Psychometrika 31; ours by the thin decomposition.
    """
    _check(covariances)
    left, values, right = torch.linalg.svd(covariances.xy, full_matrices=False)
    kept = values > ROUNDING * values.max()
    return LinearMap.of(covariances, left[:, kept] @ right[kept])


def ridge_path(covariances: Covariances, penalties: Sequence[float]) -> Iterator[Tensor]:
    """W of each penalty, [p, q] float64, from one eigendecomposition; of 0 the least squares of least norm.

    A penalty counts in units of the mean eigenvalue of Σxx, so that one means the same at every site.

    Source: Hoerl and Kennard 1970, *Ridge Regression: Biased Estimation for Nonorthogonal Problems*, Technometrics 12, eq. 2.1.
    """
    _check(covariances)
    values, vectors = torch.linalg.eigh(covariances.xx)
    turned, least = vectors.T @ covariances.xy, ROUNDING * values.max()
    for bound in (penalty * values.mean() for penalty in penalties):
        kept = (values > least) | (bound > 0)
        yield vectors @ (torch.where(kept, 1 / (values + bound), 0.0)[:, None] * turned)


def ridge_map(covariances: Covariances, penalty: float) -> LinearMap:
    """The ridge of one penalty, as in `ridge_path`."""
    return LinearMap.of(covariances, next(ridge_path(covariances, [penalty])))


def linear_map(covariances: Covariances) -> LinearMap:
    """Least squares; directions that may be rounding are left out."""
    return ridge_map(covariances, 0.0)


def low_rank(covariances: Covariances, ridge: LinearMap, rank: int) -> tuple[Tensor, Tensor]:
    """Two factors A [p, r] and B [r, q], float64, of the best map W = A B of a rank: what a trained adapter begins at.

    Best in what a ridge of the same covariances minimises, |y − x W|² + λ|W|², of which Wᵀ Σxy = Wᵀ (Σxx + λ) W is what W takes off.

    Source: Izenman 1975, *Reduced-Rank Regression for the Multivariate Linear Model*, J. Multivar. Anal. 5; Mukherjee and Zhu 2011, *Reduced Rank
        Ridge Regression and Its Kernel Extensions*, Stat. Anal. Data Min. 4 (with a penalty).
    """
    words = f"must be 1 to {min(ridge.weight.shape)}, the smaller width", rank, "Name another."
    hold(1 <= rank <= min(ridge.weight.shape), MeasurementError, "rank", words)
    weight = ridge.weight.double()
    gained = weight.T @ covariances.xy
    vectors = torch.linalg.eigh((gained + gained.T) / 2)[1].flip(1)[:, :rank]
    return weight @ vectors, vectors.T


def reduced_rank_map(covariances: Covariances, ridge: LinearMap, rank: int) -> LinearMap:
    """The map of the factors of `low_rank`; of full rank it is the ridge."""
    left, right = low_rank(covariances, ridge, rank)
    return LinearMap.of(covariances, left @ right)


def held_out(moments: PairMoments, fit: Callable[[Covariances], LinearMap]) -> list[MapScore]:
    """The score on each fold of documents of a map that is fitted to all others."""
    return [fit(train).score(test) for train, test in _folds(moments)]


def ridge_by_folds(
    moments: PairMoments, penalties: Sequence[float] = PENALTIES
) -> tuple[LinearMap, float, list[MapScore]]:
    """The ridge whose penalty leaves least of documents in folds that are left out, fitted to all.

    Args:
        moments: Of the sites to map; a warning is given where rows are few.
        penalties: To choose from, in units of the mean eigenvalue of Σxx.

    Returns:
        The map, its penalty, and what each penalty leaves of all folds.

    Raises:
        MeasurementError: Documents of fewer than two folds, or not more rows in all folds but one than the sender has columns.
    """
    by_fold = [
        [LinearMap.of(train, weight).score(test).sums for weight in ridge_path(train, penalties)]
        for train, test in _folds(moments)
    ]
    scores = [MapScore(torch.stack(sums).sum(dim=0)) for sums in zip(*by_fold, strict=True)]
    _, penalty = min((float(s.sums[0]), p) for s, p in zip(scores, penalties, strict=True))
    return ridge_map(moments.covariances(), penalty), penalty, scores


def _folds(moments: PairMoments) -> Iterator[tuple[Covariances, Covariances]]:
    """Of each fold, all others and itself."""
    folds = moments.folds
    words = "must hold documents of at least two folds", len(folds), "Add documents."
    hold(len(folds) > 1, MeasurementError, "moments", words)
    for left in folds:
        others = [fold for fold in folds if fold != left]
        yield moments.covariances(others), moments.covariances([left])


def _check(covariances: Covariances) -> None:
    """A fit needs more rows than the sender has columns."""
    rows, columns = covariances.rows, covariances.xx.shape[0]
    law, found = "must hold more rows than the sender has columns", f"{rows} for {columns}"
    remedy = "Add documents, or select fewer of the sender's sites."
    hold(rows > columns, MeasurementError, "moments", (law, found, remedy))
