"""Divergences against float64 by definition: values, gradients, the zero point, the sign, buckets, and sizes that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crosstune.distillation.divergences import Divergence, value_and_gradient
from crosstune.foundation.errors import SettingsError

CASES = [("forward", 0.5), ("reverse", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.9)]


def divergence(
    student: torch.Tensor,
    teacher: torch.Tensor,
    chosen: Divergence | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """The values, with their derivative by the student's logits."""
    pair = student.detach(), teacher.detach()
    values, gradient = value_and_gradient(*pair, chosen or Divergence(), temperature)
    own = student[:, : gradient.shape[-1]].to(values)
    return values + (gradient * (own - own.detach())).sum(dim=-1)


def logits(rows: int = 6, size: int = 40, seed: int = 0, scale: float = 3.0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, size, generator=draws)


def by_definition(kind: str, beta: float, student: Tensor, teacher: Tensor) -> Tensor:
    """Of probabilities in float64, none of them 0."""
    if kind == "jsd":
        mixture = beta * teacher + (1 - beta) * student
        parts = ((beta, teacher), (1 - beta, student))
        return sum(share * (p * (p / mixture).log()).sum(-1) for share, p in parts)
    one, other = (teacher, student) if kind == "forward" else (student, teacher)
    return (one * (one / other).log()).sum(-1)


def oracle(
    kind: str, beta: float, student: Tensor, teacher: Tensor, T: float, k: int | None, own: int = 1
) -> Tensor:
    """Row by row, the buckets made by sets; with own = 0 of the teacher's first tokens alone."""
    found = []
    for s, t in zip(student.double(), teacher.double(), strict=True):
        p, q = (s / T).softmax(-1), (t / T).softmax(-1)
        if k is not None:
            kept = sorted({*s.topk(k * own).indices.tolist(), *t.topk(k).indices.tolist()})
            left = [v for v in range(len(s)) if v not in kept]
            p, q = (torch.cat([x[kept], x[left].sum().reshape(1)] if left else [x]) for x in (p, q))
        found.append(by_definition(kind, beta, p, q))
    return T**2 * torch.stack(found)


@pytest.mark.parametrize("k", [None, 1, 5, 30, 40])
@pytest.mark.parametrize("T", [1.0, 0.5, 3.0])
@pytest.mark.parametrize(("kind", "beta"), CASES)
def test_values_and_gradients_are_those_of_the_definition_in_float64(
    kind: str, beta: float, T: float, k: int | None
) -> None:
    student, teacher = logits(seed=1).requires_grad_(), logits(seed=2).requires_grad_()
    found = divergence(student, teacher, Divergence(kind, beta, top_k=k), T)
    expected = oracle(kind, beta, student, teacher.detach(), T, k)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    pull = torch.linspace(-1, 1, len(found))
    (own,) = torch.autograd.grad((found * pull).sum(), student)
    (theirs,) = torch.autograd.grad((expected * pull).sum(), student)
    torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-6)
    assert not divergence(student.detach(), teacher).requires_grad


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize(("kind", "beta"), CASES)
def test_equal_distributions_are_at_distance_0_and_nothing_pulls(
    kind: str, beta: float, k: int | None
) -> None:
    student = logits(scale=10.0).requires_grad_()
    # another sum of exponentials, the same distribution
    found = divergence(student, student.detach() + 8.0, Divergence(kind, beta, top_k=k), 2.0)
    assert found.abs().max() < 1e-6
    (own,) = torch.autograd.grad(found.sum(), student)
    assert own.abs().max() < 1e-6
    same = divergence(student, student.detach(), Divergence(kind, beta))
    assert torch.equal(same, torch.zeros(len(same)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [None, 50])
@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_no_divergence_is_negative(kind: str, k: int | None, dtype: torch.dtype) -> None:
    for scale in (0.1, 1.0, 10.0, 50.0):
        student = logits(32, 3000, scale=scale)
        for teacher in (student.bfloat16(), student + logits(32, 3000, 1, 0.01 * scale)):
            for T in (0.5, 1.0, 4.0):
                pair = student.to(dtype), teacher.to(dtype)
                found = divergence(*pair, Divergence(kind, top_k=k), T)
                assert found.dtype == torch.float32
                assert found.min() >= -1e-6
                assert found.isfinite().all()


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_buckets_lose_less_the_more_there_are_and_nothing_in_the_end(kind: str) -> None:
    student, teacher = logits(seed=1).double(), logits(seed=2).double()
    whole = divergence(student, teacher, Divergence(kind))
    lost = torch.stack(
        [whole - divergence(student, teacher, Divergence(kind, top_k=k)) for k in range(1, 41)]
    )
    assert (lost[:-1] - lost[1:] >= -1e-12).all()  # a finer partition tells more
    assert (lost[0] > 0.01).all()
    assert torch.equal(lost[-1], torch.zeros(6, dtype=torch.float64))


def test_what_only_one_side_has_is_cut_off_and_gets_no_gradient() -> None:
    student, teacher = logits(size=40).requires_grad_(), logits(size=43, seed=2)
    for one, other in ((student, teacher), (teacher.requires_grad_(), student.detach())):
        found = divergence(one, other, Divergence(vocabulary=38), 2.0)
        expected = divergence(one[:, :38], other[:, :38], temperature=2.0)
        assert torch.equal(found, expected)
        (own,) = torch.autograd.grad(found.sum(), one)
        assert own[:, :38].any()
        assert not own[:, 38:].any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 39, "vocabulary": 38}, "`top_k` must be at most 38, .*; found 39"),
        ({"top_k": 0, "vocabulary": 38}, "`top_k` must be at most 38, .* at least 1; found 0"),
        ({}, "`vocabulary` .*; found 40 rows of the student and 43 of the teacher. Give vocab"),
        ({"vocabulary": 41}, "`vocabulary` must be from 1 to 40, .*; found 41"),
    ],
)
def test_what_is_no_divergence_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        divergence(logits(size=40), logits(size=43), Divergence(**options))


def test_the_ends_of_jsd_are_the_two_kl() -> None:
    pair = logits(seed=1), logits(seed=2)
    for beta, kind in ((0.0, "forward"), (1.0, "reverse")):
        ends = divergence(*pair, Divergence("jsd", beta)), divergence(*pair, Divergence(kind))
        assert torch.equal(*ends)
