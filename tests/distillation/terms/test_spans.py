"""Likelihoods of spans: a slow float64 twin, 0 for the teacher itself, finite differences, chunks, and likelihoods near 1."""

from __future__ import annotations

import copy
from itertools import pairwise
from math import exp, log, log1p
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distillation.pair import across
from tests.distillation.terms.pair import batch_of, schedule, summed
from tests.distillation.terms.test_alignment import TEXTS

from crosstune.distillation.head import Head
from crosstune.distillation.terms.alignment import Alignment, OwnTokens
from crosstune.distillation.terms.spans import SpanLikelihoods, binary_kl, token_logs
from crosstune.foundation.data import Row, encode
from crosstune.foundation.training import StageData, Terms
from crosstune.foundation.training.loss import LossModule

ROWS = [
    Row(str(at), text, prompt)
    for at, (text, prompt) in enumerate(zip(TEXTS, ("the ", "", "17"), strict=True))
]


class Pair:
    """Two models in float64 that say something, their tokenizers, and the rows in both."""

    def __init__(self, folder: Path) -> None:
        *models, own, other = across(folder)
        self.student, self.teacher = (model.double().eval() for model in models)
        for model in models:
            model.get_output_embeddings().weight.data.mul_(40.0)
        self.tokenizers = own, other
        self.rows, self.others = (encode(ROWS, some, 200) for some in (own, other))

    def module(self) -> LossModule:
        shared = Alignment(StageData(self.rows, 0), StageData(self.others, 0), "both")
        term = SpanLikelihoods(schedule("spans"), (self.student, self.teacher), shared)
        return LossModule(self.student, Terms((term,), OwnTokens(self.teacher, shared)))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


def slow(pair: Pair, at: int) -> float:
    """One row, span by span, from the letters of its pieces: one a byte."""
    ends, logs = [], []
    sides = (
        (pair.student, pair.rows, pair.tokenizers[0]),
        (pair.teacher, pair.others, pair.tokenizers[1]),
    )
    for model, rows, tokenizer in sides:
        ids = torch.tensor(rows[at].input_ids)
        with torch.no_grad():
            said = torch.log_softmax(model(ids[None]).logits[0], dim=-1)
        pieces = tokenizer.convert_ids_to_tokens(ids.tolist())[1:]
        ends.append({sum(map(len, pieces[: n + 1])): n for n in range(len(pieces))} | {0: -1})
        logs.append([float(said[n, ids[n + 1]]) for n in range(len(pieces))])
    shared = sorted(ends[0].keys() & ends[1].keys())
    prompt, total = len(ROWS[at].prompt.encode()), 0.0
    for begin, end in pairwise(shared):
        tokens = range(ends[0][begin] + 1, ends[0][end] + 1)
        places = {n: byte for byte, n in ends[0].items()}
        if any(places[n] <= prompt for n in tokens if prompt):
            continue
        q, p = (exp(sum(own[e[begin] + 1 : e[end] + 1])) for own, e in zip(logs, ends, strict=True))
        total += p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))
    return total


def test_a_padded_batch_is_the_sum_of_a_slow_twin_and_of_its_rows(pair: Pair) -> None:
    module = pair.module()
    whole, gradient = summed(module, [pair.rows])
    alone, same = summed(module, [[row] for row in pair.rows])
    expected = sum(slow(pair, at) for at in range(len(ROWS)))
    assert expected > 0.1
    assert whole["spans"] == pytest.approx(expected, rel=1e-9)
    assert alone["spans"] == pytest.approx(expected, rel=1e-9)
    for name, value in gradient.items():
        torch.testing.assert_close(value, same[name], rtol=1e-7, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences(pair: Pair) -> None:
    """Along each parameter's gradient; norms round to float32, which a small step would show."""
    module = pair.module()
    _, gradient = summed(module, [pair.rows])
    for name, slope in gradient.items():
        value, norm, found = module.get_parameter(name).data, slope.norm(), []
        for step in (1e-3, -2e-3, 1e-3):
            value += step / norm * slope
            found.append(module(batch_of(pair.rows), {"spans": 1.0}, 0).loss.item())
        assert float(norm) == pytest.approx((found[0] - found[1]) / 2e-3, rel=5e-3), name


def test_the_teacher_itself_costs_nothing_and_learns_nothing(pair: Pair) -> None:
    rows = StageData(pair.rows, 0)
    shared, twin = Alignment(rows, rows, "one"), copy.deepcopy(pair.student)
    term = SpanLikelihoods(schedule("spans"), (pair.student, twin), shared)
    _, own, other = shared.spans(batch_of(pair.rows))
    assert torch.equal(own, other) and (own[:, 1] - own[:, 0] == 1).all()
    assert len(own) == sum(row.scored_tokens for row in pair.rows)
    totals, gradient = summed(LossModule(pair.student, Terms((term,), twin)), [pair.rows])
    assert totals["spans"] == 0.0
    assert max(float(value.abs().max()) for value in gradient.values()) < 1e-12


def test_logits_in_chunks_give_the_same_and_the_same_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn: Any = {"generator": generator, "requires_grad": True}
    hidden, weight = torch.randn(7, 4, **drawn), torch.randn(11, 4, **drawn)
    bias, labels = torch.randn(11, **drawn), torch.arange(7)
    head = Head(weight, bias, scale=0.5, softcap=3.0)
    expected = ((hidden @ weight.T + bias) * 0.5 / 3.0).tanh() * 3.0
    right = expected.double().log_softmax(dim=-1)[range(7), labels]
    weights, inputs = torch.arange(1.0, 8.0).double(), (hidden, weight, bias)
    wanted = torch.autograd.grad((weights * right).sum(), inputs)
    for most in (2**20, 3 * 11 * 4, 1):
        found = token_logs(hidden, head, labels, most)
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-7)
        for one, other in zip(
            torch.autograd.grad((weights * found).sum(), inputs), wanted, strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_likelihoods_near_1_and_0_keep_their_digits() -> None:
    head = Head(torch.eye(3))
    sure = token_logs(torch.tensor([[40.0, 0.0, 0.0]]), head, torch.tensor([0]))
    assert sure.item() == pytest.approx(-log1p(2 * exp(-40)), rel=1e-6)
    logs = torch.tensor(
        [-1e-18, -1e-9, -0.7, -50.0, -2000.0], dtype=torch.float64, requires_grad=True
    )
    assert binary_kl(logs, logs).tolist() == [0.0] * 5
    nearly = binary_kl(logs[:1].detach(), logs[1:2])  # 1 − p is 1e-18, 1 − q 1e-9
    assert nearly.item() == pytest.approx(1e-9, rel=1e-6)
    (slope,) = torch.autograd.grad(binary_kl(logs.detach() - 1.0, logs).sum(), logs)
    assert slope.isfinite().all()
