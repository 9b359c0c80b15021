"""Law: two processes, each with every other block, find the sums that one process finds, and train the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests import processes
from tests.interference import known_sources, tiny

NAMES = ("own_a", "within_a", "across_a", "own_b", "within_b", "across_b", "masked")
TASKS = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24)}  # parallel: pairs share groups


def sums_of(keep_gib: float) -> dict[str, torch.Tensor]:
    """The sums of the tiny model, current and against a snapshot of other weights."""
    model: Any = tiny.llama()
    settings = replace(known_sources.SMALL, blocks=9, rows_per_block=2, keep_gib=keep_gib)
    compared = known_sources.comparison(model, TASKS, settings)
    snapshot = compared.snapshot(tiny.llama(seed=3))
    found = compared.sums(model, snapshot)
    return {
        f"{reference}.{name}": getattr(found[reference]["en", "bn"], name)
        for reference in ("current", "frozen")
        for name in NAMES
    }


def work(number: int, folder: Path) -> None:
    for keep_gib in (2.0, 0.0):
        save_file(sums_of(keep_gib), folder / f"{number}-{keep_gib}.safetensors")


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    processes.in_two(work, tmp_path)
    for keep_gib in (2.0, 0.0):
        one = sums_of(keep_gib)
        first, second = (
            load_file(tmp_path / f"{number}-{keep_gib}.safetensors") for number in range(2)
        )
        for name, value in one.items():
            assert torch.equal(first[name], second[name]), f"{name} differs between processes"
            # S_t is summed in another order: float32, 9 blocks, 1.2e-7 * sqrt(9), at the scale of a site's largest entry.
            scale = value.abs().amax(0) if len(value) else 0.0
            assert bool(((first[name] - value).abs() <= 1e-5 * scale).all()), name
