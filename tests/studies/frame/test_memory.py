"""The peak of a block is its own."""

from __future__ import annotations

import psutil
import torch

from crosstune.studies.frame import memory

MIB = 2**20


def test_a_peak_holds_what_was_let_go_of_and_forgets_the_peak_before():
    before = psutil.Process().memory_info().rss
    with memory.watched("cpu") as large:
        torch.ones(256 * MIB // 4).sum()
    with memory.watched("cpu") as small:
        torch.ones(MIB // 4).sum()
    assert 200 * MIB < large.bytes - before < 400 * MIB
    assert small.bytes < large.bytes - 100 * MIB


def test_a_model_is_as_large_as_its_parameters():
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    assert memory.bytes_of(model.weight) == 2 * 3 * 2
    assert memory.size(model) == 2 * (3 * 2 + 2)
