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

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError, hold
from crosstune.wiring.moments import ROUNDING, Covariances, PairMoments

PENALTIES = tuple(10.0**power for power in range(-6, 2))
"""λ, in units of the mean eigenvalue of Σxx."""


@dataclass(frozen=True)
class MapScore:
    """What a map leaves of some rows, in sums of squares about these rows' own means; scores of several folds add up.

    Args:
        residual: Σ |y − ŷ|².
        total: Σ |y − mean y|².
        predicted: Σ |ŷ − mean ŷ|².
        product: Σ (y − mean y)·(ŷ − mean ŷ).
    """

    residual: Tensor
    total: Tensor
    predicted: Tensor
    product: Tensor

    @property
    def r2(self) -> float:
        """1 − residual / total: all columns together, below 0 where the rows' mean would have been better."""
        return float(1 - self.residual / self.total)

    @property
    def cosine(self) -> float:
        """Of the centred y and ŷ, all rows as one vector; it knows no scale. NaN where ŷ is constant."""
        return float(self.product / (self.predicted * self.total).sqrt())

    def __add__(self, other: MapScore) -> MapScore:
        """The score over both one's rows."""
        return MapScore(
            self.residual + other.residual,
            self.total + other.total,
            self.predicted + other.predicted,
            self.product + other.product,
        )


@dataclass(frozen=True)
class LinearMap:
    """x ↦ x W + b.

    Shapes: ``weight`` [p, q], ``bias`` [q], float32.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, covariances: Covariances, weight: Tensor) -> LinearMap:
        """The map of this weight that takes the mean to the mean."""
        bias = covariances.mean_y - covariances.mean_x @ weight
        return cls(weight.float(), bias.float())

    def __call__(self, states: Tensor) -> Tensor:
        """[..., p] → [..., q], float32."""
        return states.float() @ self.weight + self.bias

    def score(self, covariances: Covariances) -> MapScore:
        """How it does on the rows that these covariances are of."""
        c, weight = covariances, self.weight.double()
        total, product = c.yy.trace(), (weight * c.xy).sum()
        predicted = (weight * (c.xx @ weight)).sum()
        off = (c.mean_y - c.mean_x @ weight - self.bias).square().sum()
        parts = total - 2 * product + predicted + off, total, predicted, product
        return MapScore(*(c.rows * part for part in parts))


@dataclass(frozen=True)
class RidgeChoice:
    """A ridge whose penalty was chosen by documents it had not seen.

    Attributes:
        map: Of all rows.
        penalty: λ, in units of the mean eigenvalue.
        penalties: All that were tried, [L].
        scores: Held out, summed over folds, [L].
    """

    map: LinearMap
    penalty: float
    penalties: tuple[float, ...]
    scores: tuple[MapScore, ...]


def identity_map(covariances: Covariances) -> LinearMap:
    """States as they are, but for the shift between the means.

    Raises:
        MeasurementError: The two widths differ.
    """
    p, q = covariances.xy.shape
    words = "must be as wide as the sender", f"{p} and {q}", "Use another map."
    hold(p == q, MeasurementError, "receiver", words)
    return LinearMap.of(
        covariances, torch.eye(p, dtype=torch.float64, device=covariances.xy.device)
    )


def procrustes_map(covariances: Covariances) -> LinearMap:
    """A rotation, to a narrower or wider model a part of one, without scale.

    To a receiver as wide or wider (p ≤ q, W Wᵀ = I) it is the least squares of all such maps where Σxy has full rank; to a narrower one
    (p > q, Wᵀ W = I) only that of largest covariance with y, since |x W| then depends on W, and least squares has no closed form.
    What of Σxy is not more than rounding has no direction, and is taken to 0.

    Args:
        covariances: Of the rows to fit.

    Returns:
        The map, of the rank of Σxy.

    Raises:
        MeasurementError: Not more rows than the sender has columns.

    Source: Schönemann 1966, *A Generalized Solution of the Orthogonal Procrustes Problem*, Psychometrika 31, eq. 1.9, by a thin
        singular value decomposition.
    """
    _check(covariances)
    left, values, right = torch.linalg.svd(covariances.xy, full_matrices=False)
    kept = values > ROUNDING * values.max()
    return LinearMap.of(covariances, left[:, kept] @ right[kept])


def ridge_path(covariances: Covariances, penalties: Sequence[float] = PENALTIES) -> Tensor:
    """The weights of ridges of several penalties, from one eigendecomposition; 0 is the least squares of least norm.

    Shapes: result [L, p, q], float64.

    Args:
        covariances: Of the rows to fit.
        penalties: λ, in units of the mean eigenvalue of Σxx: one means the same at every site.

    Returns:
        W of each.

    Raises:
        MeasurementError: Not more rows than the sender has columns.

    Source: Hoerl and Kennard 1970, *Ridge Regression: Biased Estimation for Nonorthogonal Problems*, Technometrics 12, eq. 2.1.
    """
    _check(covariances)
    values, vectors = torch.linalg.eigh(covariances.xx)
    turned, unit = vectors.T @ covariances.xy, values.mean()
    weights = []
    for penalty in penalties:
        bounded = values + penalty * unit
        kept = (values > ROUNDING * values.max()) | (penalty * unit > 0)
        weights.append(vectors @ (torch.where(kept, 1 / bounded, 0.0)[:, None] * turned))
    return torch.stack(weights)


def ridge_map(covariances: Covariances, penalty: float) -> LinearMap:
    """The ridge of one penalty; see `ridge_path`."""
    return LinearMap.of(covariances, ridge_path(covariances, [penalty])[0])


def linear_map(covariances: Covariances) -> LinearMap:
    """Least squares; directions that are rounding are left out."""
    return ridge_map(covariances, 0.0)


def low_rank(covariances: Covariances, ridge: LinearMap, rank: int) -> tuple[Tensor, Tensor]:
    """Two factors of the best map of a rank: what a trained low-rank adapter begins at.

    Best in what the ridge minimises, |y − x W|² + λ|W|², of which Wᵀ Σxy = Wᵀ (Σxx + λ) W is the part that W explains.

    Args:
        covariances: Of the rows that the ridge was fitted to.
        ridge: By `ridge_map` or `linear_map`.
        rank: r, at most min(p, q).

    Returns:
        A [p, r] and B [r, q] float64: W = A B, Bᵀ orthonormal.

    Source: Izenman 1975, *Reduced-Rank Regression for the Multivariate Linear Model*, J. Multivar. Anal. 5, §2; Mukherjee and Zhu
        2011, *Reduced Rank Ridge Regression and Its Kernel Extensions*, Stat. Anal. Data Min. 4, §2 (with a penalty).
    """
    words = "must be at least 1 and at most either width", rank, "Name another."
    hold(1 <= rank <= min(ridge.weight.shape), MeasurementError, "rank", words)
    weight = ridge.weight.double()
    explained = weight.T @ covariances.xy
    vectors = torch.linalg.eigh((explained + explained.T) / 2)[1].flip(1)[:, :rank]
    return weight @ vectors, vectors.T


def reduced_rank_map(covariances: Covariances, ridge: LinearMap, rank: int) -> LinearMap:
    """The map of the two factors of `low_rank`; of full rank it is the ridge."""
    left, right = low_rank(covariances, ridge, rank)
    return LinearMap.of(covariances, left @ right)


def held_out(moments: PairMoments, fit: Callable[[Covariances], LinearMap]) -> list[MapScore]:
    """The score on each fold of documents of a map that is fitted to all others.

    Raises:
        MeasurementError: Documents of fewer than two folds.
    """
    return [fit(train).score(test) for train, test in _folds(moments)]


def ridge_by_folds(moments: PairMoments, penalties: Sequence[float] = PENALTIES) -> RidgeChoice:
    """The ridge whose penalty leaves least on documents of the fold that is left out, fitted to all rows.

    Args:
        moments: Of a sender's and a receiver's sites; a warning is given where rows are few.
        penalties: To choose from, above 0.

    Returns:
        The map, and what every penalty left.

    Raises:
        MeasurementError: Documents of fewer than two folds, or not more rows than the sender has columns in all folds but one.
    """
    scores: list[MapScore] = []
    for train, test in _folds(moments):
        maps = [LinearMap.of(train, weight) for weight in ridge_path(train, penalties)]
        more = [one.score(test) for one in maps]
        scores = [old + new for old, new in zip(scores, more, strict=True)] if scores else more
    best = min(range(len(penalties)), key=lambda at: float(scores[at].residual))
    chosen = ridge_map(moments.covariances(), penalties[best])
    return RidgeChoice(chosen, penalties[best], tuple(penalties), tuple(scores))


def _folds(moments: PairMoments) -> list[tuple[Covariances, Covariances]]:
    """Of each fold, all others and itself."""
    folds = moments.folds
    words = "must hold documents of at least two folds", len(folds), "Add documents."
    hold(len(folds) > 1, MeasurementError, "moments", words)
    return [
        (moments.covariances([f for f in folds if f != left]), moments.covariances([left]))
        for left in folds
    ]


def _check(covariances: Covariances) -> None:
    """A fit needs more rows than the sender has columns."""
    rows, columns = covariances.rows, covariances.xx.shape[0]
    words = (
        "must hold more rows than the sender has columns",
        f"{rows} rows for {columns} columns",
        "Add documents, or select fewer of the sender's sites.",
    )
    hold(rows > columns, MeasurementError, "moments", words)
