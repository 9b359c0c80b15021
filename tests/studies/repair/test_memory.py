"""The peak of a block is its own, and what replay and rollback need beside the search is counted from the model."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import torch
from torch import nn

from crosstune.studies.repair import memory

MIB = 2**20


class Tuned(nn.Module):
    """Ten frozen numbers, four of an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.zeros(10))
        self.lora_A = nn.Parameter(torch.zeros(2))
        self.lora_B = nn.Parameter(torch.zeros(2))


def ends(kind, *names):
    return SimpleNamespace(model=Tuned(), kind=kind, names=names)


def test_a_full_model_is_needed_four_times_more_for_replay():
    assert memory.replay_bytes(ends("full", "base")) == 4 * 14 * 4


def test_of_an_adapter_only_the_factors_have_gradients_and_moments():
    assert memory.replay_bytes(ends("lora", "lora_B")) == 14 * 4 + 3 * 4 * 4


def test_a_side_is_what_moved():
    assert memory.side_bytes(ends("lora", "lora_B")) == 2 * 4


def test_a_peak_holds_what_was_let_go_of_and_forgets_the_peak_before():
    before = psutil.Process().memory_info().rss
    with memory.watched("cpu") as large:
        torch.ones(256 * MIB // 4).sum()
    with memory.watched("cpu") as small:
        torch.ones(MIB // 4).sum()
    assert 200 * MIB < large.bytes - before < 400 * MIB
    assert small.bytes < large.bytes - 100 * MIB
