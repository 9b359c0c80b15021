"""Moments: against rows held whole; CKA against its Gram matrices, and where states have nothing in common; files and processes."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from tests import processes
from tests.wiring.rows import collected, documents_of, folds_of, like_rows, split
from torch import Tensor

from crosstune.foundation.errors import DataError, MeasurementError
from crosstune.foundation.ranks import rank
from crosstune.foundation.seeds import content_key
from crosstune.wiring.maps import procrustes_map, ridge_map
from crosstune.wiring.moments import PairMoments, ranks_of, shuffled

X, Y, DOCUMENTS = like_rows(30, 6, 0, shared=0.5)


def assert_same(found: PairMoments, expected: PairMoments, rtol: float = 1e-12) -> None:
    assert (found.sender, found.receiver) == (expected.sender, expected.receiver)
    for name, part in expected.sums.items():
        torch.testing.assert_close(found.sums[name], part, rtol=rtol, atol=rtol * 100, msg=name)


def by_gram(x: Tensor, y: Tensor, fold: np.ndarray) -> float:
    """CKA of n × n Gram matrices: means over blocks of rows, of every four different folds."""
    share = [(fold == name) / (fold == name).sum() for name in np.unique(fold)]

    def hsic(k: np.ndarray, l_: np.ndarray) -> float:
        return sum(
            f @ (k * l_) @ g + (f @ k @ g) * (h @ l_ @ e) - 2 * ((f @ k) * g) @ (l_ @ h)
            for f, g, h, e in permutations(share, 4)
        )

    k, l_ = ((s @ s.T).numpy() for s in (x - x.mean(0), y - y.mean(0)))
    return hsic(k, l_) / (hsic(k, k) * hsic(l_, l_)) ** 0.5


def song(x: Tensor, y: Tensor) -> float:
    """Unbiased CKA of rows that are all independent, as textbooks have it."""

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        k, l_ = a @ a.T, b @ b.T
        k, l_, n = k - k.diag().diag(), l_ - l_.diag().diag(), len(a)
        whole = (k @ l_).trace() + k.sum() * l_.sum() / ((n - 1) * (n - 2))
        return (whole - 2 * (k @ l_).sum() / (n - 2)) / (n * (n - 3))

    return float(hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt())


def test_covariances_are_those_of_the_rows_whole_by_fold_and_by_site() -> None:
    moments = collected(X, Y, DOCUMENTS)
    for folds in (None, [0, 2, 3, 4]):
        chosen = np.isin(folds_of(DOCUMENTS), folds or range(5))
        found = moments.covariances(folds)
        joint = np.cov(np.hstack([X, Y])[chosen].T, bias=True)
        assert found.rows == chosen.sum()
        np.testing.assert_allclose(found.mean_x, X.numpy()[chosen].mean(0), rtol=1e-12)
        blocks = (found.xx, joint[:7, :7]), (found.xy, joint[:7, 7:]), (found.yy, joint[7:, 7:])
        for part, expected in blocks:
            np.testing.assert_allclose(part, expected, rtol=1e-11)
    some = moments.select(["3"], ["5", "1"])
    assert (some.sender, some.receiver) == ({"3": 3}, {"1": 2, "5": 4})
    assert_same(replace(some, sender={"0": 3}), collected(X[:, 4:], Y, DOCUMENTS))


def test_shards_about_any_origin_add_up_to_one_and_float32_rows_nearly_do() -> None:
    whole = collected(X, Y, DOCUMENTS)
    first = collected(X[:100], Y[:100], DOCUMENTS[:100])
    rest = collected(X[100:], Y[100:], DOCUMENTS[100:], by=3.0)
    assert_same(first + rest, whole, rtol=1e-11)
    again = collected(X[100:].float(), Y[100:].float(), DOCUMENTS[100:])
    assert_same(first + again, whole, rtol=1e-5)


def test_cka_is_that_of_the_gram_matrices_and_of_shards() -> None:
    expected = by_gram(X, Y, folds_of(DOCUMENTS))
    interval, reason = collected(X, Y, DOCUMENTS).cka()
    assert interval.value.item() == pytest.approx(expected, abs=1e-12) and reason == ""
    one, two, three = (
        collected(X[some], Y[some], DOCUMENTS[some])
        for some in (slice(0, 50), slice(50, 131), slice(131, 180))
    )
    assert (one + two + three).cka()[0].value.item() == pytest.approx(expected, abs=1e-12)


def test_where_every_fold_is_one_row_it_is_the_unbiased_cka_of_rows() -> None:
    names = {content_key(f"{at}", "fold") % 12: f"{at}" for at in range(1000)}
    x, y, _ = like_rows(12, 1, 3, shared=0.5)
    interval, _ = collected(x, y, list(names.values()), folds=12).cka()
    assert interval.value.item() == pytest.approx(song(x - 5.0, y - 5.0), abs=1e-12)


def test_cka_knows_no_rotation_scale_or_shift_and_so_no_procrustes() -> None:
    turn = torch.from_numpy(ortho_group.rvs(7, random_state=0))
    turned = collected(3.0 * X @ turn - 11.0, Y, DOCUMENTS).cka()[0].value
    assert (turned - collected(X, Y, DOCUMENTS).cka()[0].value).abs() < 1e-12
    before = collected(X[:, :6], Y, DOCUMENTS)
    mapped = X[:, :6] @ procrustes_map(before.covariances()).weight.double()
    after = collected(mapped, Y, DOCUMENTS).cka()[0].value
    assert (after - before.cka()[0].value).abs() < 1e-7


def test_states_with_nothing_in_common_have_cka_0_within_its_interval() -> None:
    """Not so if biased, nor if rows of one document count as independent; where there is something, it is found."""
    found = []
    for seed in range(40):
        x, y, documents = like_rows(40, 6, seed)
        moments = collected(x, y, documents)
        interval, c = moments.cka()[0], moments.covariances()
        biased = c.xy.square().sum() / (c.xx.norm() * c.yy.norm())
        found.append([interval.value, interval.low, interval.high, biased, song(x, y)])
    value, low, high, biased, of_rows = torch.tensor(found, dtype=torch.float64).T
    error = value.std() / 40**0.5
    assert value.mean().abs() < 3 * error and value.min() < 0
    assert ((low < 0) & (high > 0)).sum() >= 36
    assert biased.min() > 0.03 and of_rows.mean() > 10 * error
    x, y, documents = like_rows(200, 6, 0, shared=0.5)
    assert collected(x, y, documents).cka()[0].low > 0.05


def test_cka_is_nan_with_its_reason_where_nothing_varies() -> None:
    last_bit = 50.0 + torch.finfo(torch.float32).eps * 25 * (X > 5.0).double()
    interval, reason = collected(last_bit, Y, DOCUMENTS).cka()
    assert interval.value.isnan() and reason.startswith("one side's states do not vary")
    kept = folds_of(DOCUMENTS).nonzero()[0]
    interval, reason = collected(X[kept], Y[kept], [DOCUMENTS[at] for at in kept]).cka()
    assert not interval.value.isnan() and interval.low.isnan() and reason.startswith("no estimate")


def test_shuffled_rows_are_of_two_documents_at_equal_places_and_say_nothing() -> None:
    x, y, documents = like_rows(40, 6, 0, shared=2.0)
    del documents[-4:]
    ids = torch.arange(len(documents), dtype=torch.float64)[:, None]
    generator = torch.Generator().manual_seed(0)
    of, left, right = shuffled(documents, {"0": ids}, {"0": ids}, generator)
    pairs = list(zip(left["0"][:, 0].int().tolist(), right["0"][:, 0].int().tolist(), strict=True))
    assert [documents[at] for at, _ in pairs] == of and len(of) == 232
    assert all(at % 6 == other % 6 and at // 6 != other // 6 for at, other in pairs)
    at, other = zip(*pairs, strict=True)
    interval, _ = collected(x[[*at]], y[[*other]], of).cka()
    assert interval.low < 0 < interval.high < collected(x, y, documents_of(40, 6)).cka()[0].low
    with pytest.raises(DataError, match="`documents` must name three; found 2"):
        shuffled(["a", "b"], {}, {}, generator)


def test_an_origin_keeps_what_float32_products_lose() -> None:
    """A mean offset and condition 1e-7: the error of a ridge's weight, against float64 throughout."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 32, generator=generator) * torch.logspace(0, -3.5, 32) + 3.0
    y = x @ torch.randn(32, 6, generator=generator) + torch.randn(20_000, 6, generator=generator)
    documents = documents_of(100, 200)
    exact = ridge_map(collected(x.double(), y.double(), documents).covariances(), 1e-6).weight
    for by, least, most in ((1.0, 0.0, 1e-5), (0.0, 0.1, torch.inf)):
        weight = ridge_map(collected(x, y, documents, 5, 500, by).covariances(), 1e-6).weight
        assert least < (weight - exact).norm() / exact.norm() < most


def test_ranks_are_those_of_planted_directions() -> None:
    turn = torch.from_numpy(ortho_group.rvs(6, random_state=0))
    uneven = turn @ torch.tensor([0.5, 0.25, 0.25, 0, 0, 0]).double().diag() @ turn.T
    assert ranks_of(uneven) == (3, pytest.approx(2.0**1.5))


def test_a_file_holds_them_to_the_bit(tmp_path: Path) -> None:
    moments = collected(X, Y, DOCUMENTS)
    moments.save(tmp_path / "moments.safetensors")
    again = PairMoments.load(tmp_path / "moments.safetensors")
    assert_same(again, moments, rtol=0.0)
    assert all(torch.equal(again.origin[side], moments.origin[side]) for side in "xy")


def _uneven(_: int, folder: str) -> None:
    mine = slice(0, 132) if rank() == 0 else slice(132, 180)
    x, y = X[mine], Y[mine]
    moments = PairMoments.about(split(x, "x"), split(y, "y"))
    moments.add(DOCUMENTS[mine], split(x, "x"), split(y, "y"))
    moments.all_reduced().save(Path(folder) / f"{rank()}.safetensors")


def test_two_processes_with_uneven_shares_find_what_one_finds(tmp_path: Path) -> None:
    processes.in_two(_uneven, str(tmp_path))
    first, second = (PairMoments.load(tmp_path / f"{at}.safetensors") for at in (0, 1))
    assert_same(second, first, rtol=0.0)
    assert_same(first, collected(X, Y, DOCUMENTS, part=132))


def test_bad_rows_sites_and_folds_are_named(caplog: pytest.LogCaptureFixture) -> None:
    moments = collected(X, Y, DOCUMENTS)
    x, y = split(X[:2], "x"), split(Y[:2], "y")
    with pytest.raises(DataError, match="`x` must be finite; found NaN .* 2 rows, of 'a'. Leave"):
        moments.add(["a", "b"], {**x, "3": torch.full((2, 3), torch.nan)}, y)
    with pytest.raises(DataError, match="`y` must have these sites, rows and widths: .*'5', 2, 4"):
        moments.add(["a", "b"], x, {"1": y["1"]})
    with pytest.raises(DataError, match="`receiver` must be among .*'1', '5'.*found .'2'"):
        moments.select(["0"], ["2"])
    with pytest.raises(DataError, match="`other` must have the same sites and folds"):
        moments + moments.select(["0"], ["1"])
    with pytest.raises(MeasurementError, match="at least four folds; found 1"):
        collected(X[:12], Y[:12], ["one"] * 12).cka()
    moments.covariances()
    assert caplog.text == ""
    collected(X[:30], Y[:30], DOCUMENTS[:30]).covariances()
    assert "30 rows are fewer than 5 for each of the sender's 7 columns" in caplog.text
