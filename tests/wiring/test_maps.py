"""Closed-form maps: against scipy, scikit-learn and rows held whole; planted rotations, ranks and penalties by folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from tests.wiring.rows import collected, documents_of, folds_of, like_rows
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.wiring import maps
from crosstune.wiring.moments import Covariances

X, Y, DOCUMENTS = like_rows(40, 6, 0, shared=0.5)
MOMENTS = collected(X, Y, DOCUMENTS)
C = MOMENTS.covariances()
XC, YC = (states - states.mean(0) for states in (X, Y))


def rotation(p: int, q: int) -> Tensor:
    return torch.from_numpy(ortho_group.rvs(max(p, q), random_state=p))[:p, :q]


def of(x: Tensor, y: Tensor) -> Covariances:
    return collected(x, y, documents_of(len(x) // 6, 6)).covariances()


def error(weight: Tensor, x: Tensor = XC, y: Tensor = YC) -> float:
    return float((y - x @ weight.double()).square().sum())


def test_every_map_takes_the_mean_to_the_mean_and_is_float32() -> None:
    ridge = maps.ridge_map(C, 1e-2)
    low = maps.reduced_rank_map(C, ridge, 2)
    for one in (ridge, low, maps.linear_map(C), maps.procrustes_map(C)):
        assert one.weight.dtype == one.bias.dtype == torch.float32
        found = one(X.to(torch.float32)).mean(0)
        torch.testing.assert_close(found.double(), Y.mean(0), rtol=1e-5, atol=1e-4)
    shift = maps.identity_map(of(X[:, :6], Y))
    expected = (Y - X[:, :6]).mean(0)
    torch.testing.assert_close(shift.bias.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(shift.weight, torch.eye(6))


def test_procrustes_is_scipys_where_both_are_as_wide() -> None:
    expected, _ = orthogonal_procrustes(XC[:, :6].numpy(), YC.numpy())
    np.testing.assert_allclose(maps.procrustes_map(of(X[:, :6], Y)).weight, expected, atol=1e-6)


@pytest.mark.parametrize(("p", "q"), [(5, 9), (9, 5)])
def test_a_planted_rotation_is_found_to_a_wider_and_to_a_narrower_model(p: int, q: int) -> None:
    """To the wider one from any x; to the narrower one from white x, where largest covariance is least squares."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, p, generator=generator, dtype=torch.float64)
    if p > q:
        x = torch.linalg.qr(x - x.mean(0))[0] * 30
    planted = rotation(p, q)
    found = maps.procrustes_map(of(x - 4.0, x @ planted + 3.0))
    torch.testing.assert_close(found.weight.double(), planted, rtol=1e-5, atol=1e-5)


def test_procrustes_is_least_squares_upwards_and_only_of_largest_covariance_downwards() -> None:
    trials = [ortho_group.rvs(7, random_state=seed) for seed in range(200)]
    up, down = maps.procrustes_map(of(Y, X)), maps.procrustes_map(C)
    assert error(up.weight, YC, XC) < min(error(torch.from_numpy(t[:6]), YC, XC) for t in trials)
    covariances = [float((torch.from_numpy(t[:, :6]) * C.xy).sum()) for t in trials]
    assert float((down.weight * C.xy).sum()) > max(covariances)
    large = XC * torch.tensor([30.0, 1, 1, 1, 1, 1, 1])  # a direction that tells little of y
    weight = maps.procrustes_map(of(large, Y)).weight.double()
    without = torch.linalg.qr(weight * torch.tensor([[0.0]] + [[1.0]] * 6))[0]
    without = without @ torch.from_numpy(orthogonal_procrustes(large @ without, YC)[0])
    assert error(without, large) < error(weight, large)


def test_procrustes_has_no_part_where_there_is_no_covariance() -> None:
    flat = rotation(7, 2)
    weight = maps.procrustes_map(of((X @ flat @ flat.T).float(), Y.float())).weight
    assert torch.linalg.matrix_rank(weight, atol=1e-3) == 2
    torch.testing.assert_close(torch.linalg.svdvals(weight)[:2], torch.ones(2))


def test_the_ridge_path_is_scikit_learns_and_its_end_least_squares() -> None:
    penalties = [1e-6, 1e-3, 1e-1, 10.0]
    unit = float(XC.square().sum()) / 7
    for penalty, weight in zip(penalties, maps.ridge_path(C, penalties), strict=True):
        oracle = Ridge(alpha=penalty * unit, solver="svd").fit(X.numpy(), Y.numpy())
        np.testing.assert_allclose(weight.T, oracle.coef_, rtol=1e-8, atol=1e-8)
    expected = np.linalg.lstsq(XC.numpy(), YC.numpy())[0]
    np.testing.assert_allclose(maps.linear_map(C).weight, expected, atol=1e-6)


def test_of_dependent_columns_least_squares_is_that_of_least_norm() -> None:
    doubled = torch.cat([X, X[:, :2]], dim=1)
    expected = np.linalg.lstsq((doubled - doubled.mean(0)).numpy(), YC.numpy(), rcond=1e-9)[0]
    np.testing.assert_allclose(maps.linear_map(of(doubled, Y)).weight, expected, atol=1e-6)
    assert not maps.linear_map(of(torch.ones_like(X), Y)).weight.any()


def test_scores_held_out_are_those_of_the_rows() -> None:
    fold = folds_of(DOCUMENTS)
    scores = maps.held_out(MOMENTS, lambda train: maps.ridge_map(train, 1e-2))
    whole = []
    for left, score in enumerate(scores):
        train, test = fold != left, fold == left
        fit = Ridge(alpha=1e-2 * float((X[train] - X[train].mean(0)).square().sum()) / 7)
        guess, truth = fit.fit(X[train].numpy(), Y[train].numpy()).predict(X[test]), Y[test].numpy()
        expected = r2_score(truth, guess, multioutput="variance_weighted")
        assert score.r2 == pytest.approx(expected, abs=1e-6)
        a, b = (guess - guess.mean(0)).ravel(), (truth - truth.mean(0)).ravel()
        assert score.cosine == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-6)
        whole.append(((truth - guess) ** 2).sum())
    pooled = sum(scores[1:], scores[0])
    assert float(pooled.sums[0]) == pytest.approx(sum(whole), rel=1e-6)
    _, _, path = maps.ridge_by_folds(MOMENTS, [1e-2])
    torch.testing.assert_close(path[0].sums, pooled.sums, rtol=1e-12, atol=0)


def test_the_penalty_chosen_is_that_which_leaves_least_and_noise_wants_a_large_one() -> None:
    chosen, penalty, scores = maps.ridge_by_folds(MOMENTS)
    assert penalty == 10.0 ** (min(range(8), key=lambda at: -scores[at].r2) - 6)
    assert torch.equal(chosen.weight, maps.ridge_map(C, penalty).weight)
    x, y, documents = like_rows(40, 6, 1)
    assert maps.ridge_by_folds(collected(x, y, documents))[1] > penalty


def test_a_full_rank_is_the_ridge_and_error_falls_to_it() -> None:
    ridge = maps.ridge_map(C, 1e-2)
    found = [maps.reduced_rank_map(C, ridge, rank) for rank in range(1, 7)]
    torch.testing.assert_close(found[-1].weight, ridge.weight, rtol=1e-5, atol=1e-6)
    errors = [error(one.weight) for one in found]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.1 * errors[-1]
    left, right = maps.low_rank(C, ridge, 3)
    assert (left.shape, right.shape) == ((7, 3), (3, 6))


def test_a_low_rank_is_the_best_of_the_rank_in_what_the_ridge_minimises() -> None:
    """Rows √λ I with nothing to predict make a ridge least squares: there it is the projection of the fit, by its SVD."""
    unit = 0.3 * float(XC.square().sum()) / 7
    rows = torch.cat([XC, unit**0.5 * torch.eye(7, dtype=torch.float64)])
    goal = torch.cat([YC, torch.zeros(7, 6, dtype=torch.float64)])
    fit = torch.linalg.lstsq(rows, goal).solution
    main = torch.linalg.svd(rows @ fit)[2][:2].T
    found = maps.reduced_rank_map(C, maps.ridge_map(C, 0.3), 2)
    torch.testing.assert_close(found.weight.double(), fit @ main @ main.T, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_fitted_is_said() -> None:
    with pytest.raises(MeasurementError, match="`receiver` must be as wide .*found 7 and 6"):
        maps.identity_map(C)
    few = collected(X[:6], Y[:6], DOCUMENTS[:6])
    with pytest.raises(MeasurementError, match="more rows than .* columns; found 6 for 7"):
        maps.procrustes_map(few.covariances())
    with pytest.raises(MeasurementError, match="at least two folds; found 1"):
        maps.held_out(few, maps.linear_map)
    with pytest.raises(MeasurementError, match="`rank` must be 1 to 6, the smaller width; found 7"):
        maps.low_rank(C, maps.LinearMap.of(C, rotation(7, 6)), 7)
