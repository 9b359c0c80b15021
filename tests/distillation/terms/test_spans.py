"""Likelihoods of spans: a slow float64 twin, 0 for the teacher itself, finite differences, chunks, and likelihoods near 1."""

from __future__ import annotations

import copy
from itertools import accumulate, pairwise
from math import exp, log, log1p
from typing import Any

import pytest
import torch
from tests.distillation.pair import across
from tests.distillation.terms.pair import batch_of, schedule, summed

from crosstune.distillation.head import Head
from crosstune.distillation.terms.alignment import Alignment, OwnTokens
from crosstune.distillation.terms.spans import SpanLikelihoods, binary_kl, token_logs
from crosstune.foundation.data import Row, encode
from crosstune.foundation.training import StageData, Terms
from crosstune.foundation.training.loss import LossModule

TEXTS = ["বিড়াল the cat 😀 end", "the 😀😀 বই", "17 [ক] শেষ"]
ROWS = [Row(text, text, prompt) for text, prompt in zip(TEXTS, ("the ", "", "17"), strict=True)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Any, Any]]:
    """Student and teacher in float64, which say something, with tokenizer and rows."""
    *models, own, other = across(tmp_path_factory.mktemp("pair"))
    for model in models:
        model.double().eval().get_output_embeddings().weight.data.mul_(40.0)
    return [(m, t, encode(ROWS, t, 200)) for m, t in zip(models, (own, other), strict=True)]


def module_of(student: Any, teacher: Any) -> LossModule:
    shared = Alignment(StageData(student[2], 0), StageData(teacher[2], 0), "both")
    assert shared.share == 1.0
    term = SpanLikelihoods(schedule("spans"), (student[0], teacher[0]), shared)
    return LossModule(student[0], Terms((term,), OwnTokens(teacher[0], shared)))


def slow(sides: Any, at: int) -> float:
    """One row, span by span, from the letters of its pieces: one a byte."""
    ends, logs = [], []
    for model, tokenizer, rows in sides:
        ids = rows[at].input_ids
        with torch.no_grad():
            said = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        sizes = map(len, tokenizer.convert_ids_to_tokens(ids)[1:])
        ends.append({byte: n for n, byte in enumerate(accumulate(sizes, initial=0))})
        logs.append([float(said[n, token]) for n, token in enumerate(ids[1:])])
    prompt, total = len(ROWS[at].prompt.encode()), 0.0
    for begin, end in pairwise(sorted(ends[0].keys() & ends[1].keys())):
        first = min(
            byte for byte in ends[0] if byte > begin
        )  # where the student's first token ends
        if first > prompt or not prompt:
            q, p = (exp(sum(own[e[begin] : e[end]])) for own, e in zip(logs, ends, strict=True))
            total += p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
    return total


def test_a_padded_batch_is_the_sum_of_a_slow_twin_and_of_its_rows(sides: Any) -> None:
    """Of text whose tokens are parts of characters, after prompts; and the slope along each gradient is that of finite differences."""
    module, rows = module_of(*sides), sides[0][2]
    expected = sum(slow(sides, at) for at in range(len(ROWS)))
    assert expected > 0.1
    whole, gradient = summed(module, [rows])
    alone, same = summed(module, [[row] for row in rows])
    assert [whole["spans"], alone["spans"]] == pytest.approx([expected] * 2, rel=1e-9)
    for name, slope in gradient.items():
        torch.testing.assert_close(slope, same[name], rtol=1e-7, atol=1e-10)
        value, norm, found = module.get_parameter(name).data, slope.norm(), []
        for step in (1e-3, -2e-3, 1e-3):  # the models' norms round to float32: not less
            value += step / norm * slope
            found.append(module(batch_of(rows), {"spans": 1.0}, 0).loss.item())
        assert float(norm) == pytest.approx((found[0] - found[1]) / 2e-3, rel=5e-3), name


def test_the_teacher_itself_costs_nothing_and_learns_nothing(sides: Any) -> None:
    own = sides[0]
    module = module_of(own, (copy.deepcopy(own[0]), *own[1:]))
    totals, gradient = summed(module, [own[2]])
    assert totals["spans"] == 0.0
    assert max(float(value.abs().max()) for value in gradient.values()) < 1e-12


def test_logits_in_chunks_give_the_same_and_the_same_gradient() -> None:
    drawn: Any = {"generator": torch.Generator().manual_seed(0), "requires_grad": True}
    inputs = hidden, weight, bias = [torch.randn(n, **drawn) for n in ((7, 4), (11, 4), (11,))]
    labels, weights = torch.arange(7), torch.arange(1.0, 8.0).double()
    right = (
        (((hidden @ weight.T + bias) / 6.0).tanh() * 3.0)
        .double()
        .log_softmax(dim=-1)[range(7), labels]
    )
    wanted = torch.autograd.grad((weights * right).sum(), inputs)
    for most in (2**20, 3 * 11 * 4, 1):
        found = token_logs(hidden, Head(weight, bias, scale=0.5, softcap=3.0), labels, most)
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-7)
        slopes = torch.autograd.grad((weights * found).sum(), inputs)
        torch.testing.assert_close(slopes, wanted, rtol=1e-4, atol=1e-5)


def test_likelihoods_near_1_and_0_keep_their_digits() -> None:
    states = torch.tensor([[40.0, 0.0, 0.0]])
    sure = token_logs(states, Head(torch.eye(3)), torch.tensor([0]))
    assert sure.item() == pytest.approx(-log1p(2 * exp(-40)), rel=1e-6)
    logs = torch.tensor([-1e-18, -1e-9, -0.7, -50.0, -2000.0]).double().requires_grad_()
    assert binary_kl(logs, logs).tolist() == [0.0] * 5
    nearly = binary_kl(logs[:1], logs[1:2])  # 1 − p is 1e-18, 1 − q 1e-9
    assert nearly.item() == pytest.approx(1e-9, rel=1e-6)
    (slope,) = torch.autograd.grad(binary_kl(logs.detach() - 1.0, logs).sum(), logs)
    assert slope.isfinite().all()
