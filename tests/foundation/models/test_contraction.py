"""Contraction: each module's rule gives, group by group, what autograd gives for the group alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.pytorch_utils import Conv1D

from crosstune.foundation.models import Groups, capture, grouped_gradients

K, ROWS, TOKENS = 3, 6, 4
IDS = torch.randint(0, 5, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
X = torch.randn(ROWS, TOKENS, 5, generator=torch.Generator().manual_seed(2)).double()


class Experts(nn.Module):
    """A stack of matrices chosen by a second input, called with the batch's tokens in one row."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices = nn.Parameter(torch.randn(2, 5, 5))

    def forward(self, hidden: Tensor, *, choice: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.einsum("nd,nde->ne", hidden, self.matrices[choice])
        return out.tanh(), choice


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        choice = (x[..., 0] > 0).long().flatten()
        out: Tensor = self.experts(x.flatten(0, 1), choice=choice)[0]
        return out


class TurnedNorm(nn.Module):
    """A norm of features that lie on heads, as in Gemma 3: its input is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(torch.stack([x, x.square()], dim=2).transpose(1, 2))
        return out


MODULES: dict[str, tuple[Any, Tensor]] = {
    "linear": (lambda: nn.Linear(5, 7), X),
    "conv1d": (lambda: Conv1D(7, 5), X),
    "embedding": (lambda: nn.Embedding(5, 7), IDS),
    "padded embedding": (lambda: nn.Embedding(5, 7, padding_idx=2), IDS),
    "rare embedding": (lambda: nn.Embedding(5, 7, scale_grad_by_freq=True), IDS),
    "layer norm": (lambda: nn.LayerNorm(5), X),
    "rms norm": (lambda: nn.RMSNorm(5), X),
    "turned norm": (TurnedNorm, X),
    "gemma norm": (lambda: Gemma2RMSNorm(5), X),
    "bilinear": (Tokens, X),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_group_has_the_gradient_of_its_rows_alone(name: str) -> None:
    make, x = MODULES[name]
    torch.manual_seed(0)
    module = nn.Sequential(make()).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    names = [name for name, _ in module.named_parameters()]
    (tap,) = capture(module, names, lambda: module(x).sin()).taps
    groups = Groups(K, ROWS, TOKENS)
    assert groups.hold(tap)
    found = grouped_gradients(tap, groups)
    assert set(found) == set(names)
    for group, part in enumerate(x.chunk(K)):
        alone = torch.autograd.grad(module(part).sin().sum(), list(module.parameters()))
        for name, expected in zip(names, alone, strict=True):
            # Gemma's norm goes through float32: 6e-8 · √(40 terms), and a condition of 10.
            torch.testing.assert_close(found[name][group], expected, rtol=1e-5, atol=1e-6)


def test_only_what_was_asked_for_is_formed() -> None:
    module = nn.Linear(5, 7).double()
    (tap,) = capture(module, ["bias"], lambda: module(X)).taps
    found = grouped_gradients(tap, Groups(K, ROWS, TOKENS))
    assert list(found) == ["bias"]
    torch.testing.assert_close(found["bias"], torch.full((K, 7), 8.0).double())


def test_what_does_not_reach_the_sum_brings_nothing() -> None:
    module = nn.Linear(5, 7).double()
    loose = torch.ones(7, requires_grad=True)
    (tap,) = capture(module, ["weight"], lambda: loose * module(X).detach()).taps
    assert grouped_gradients(tap, Groups(K, ROWS, TOKENS)) == {}


def test_half_precision_is_summed_in_float32() -> None:
    module = nn.Linear(5, 7).bfloat16()
    (tap,) = capture(module, ["weight"], lambda: module(X.bfloat16())).taps
    assert grouped_gradients(tap, Groups(K, ROWS, TOKENS))["weight"].dtype == torch.float32


def test_an_input_that_is_one_for_all_rows_cannot_be_told_apart() -> None:
    module = nn.Linear(5, 7).double()
    (tap,) = capture(module, ["weight"], lambda: module(X[:1])).taps
    assert not Groups(K, ROWS, TOKENS).hold(tap)
