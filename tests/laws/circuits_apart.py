"""Circuit measurements of the tiny model that the laws of killing and of two processes run in processes of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from tests.interference import tiny

from crosstune.circuits import CircuitScores, CircuitSettings
from crosstune.circuits import api as face

SETTINGS = CircuitSettings(rows=12, length=12, batch_tokens=48)


def run(
    folder: Path | None = None, settings: CircuitSettings = SETTINGS, model: Any = None
) -> CircuitScores:
    """English against Bengali in the tiny model, in float64."""
    return face.measure_circuits(
        model or tiny.llama().double(),
        tiny.tokenizer(),
        tiny.rows("en", 20),
        tiny.rows("bn", 20),
        settings=settings,
        folder=folder,
    )


def work(rank: int, port: int, folder: str) -> None:
    """One of two processes: it writes down what it holds."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    Path(folder, f"{rank}.txt").write_text(bits(run()), encoding="utf-8")
    for name in ("kept", "begun"):  # the second one was begun by one process, which was killed
        found = run(Path(folder) / name)
        Path(folder, f"{rank}-{name}.txt").write_text(bits(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


def die(folder: str, layers: int) -> None:
    """A measurement that dies by SIGKILL once so many layers are kept."""
    torch.set_num_threads(1)
    put = CircuitScores.put

    def putting(scores: CircuitScores, layer: int, blocks: Any) -> None:
        put(scores, layer, blocks)
        if len(scores.done) == layers:
            os.kill(os.getpid(), signal.SIGKILL)

    CircuitScores.put = putting  # type: ignore[method-assign]
    run(Path(folder))


def bits(scores: CircuitScores) -> str:
    """Every pair score and margin, to the bit."""
    return "\n".join(
        f"{block} {form} {scores.pairs(block, form).tobytes().hex()}"
        for block in scores.blocks
        for form in scores.forms
    ) + "".join(
        f"\n{block} {form} {margin.tobytes().hex()}"
        for block in scores.blocks
        for form in scores.average_forms
        for margin in scores.margins(block, form)
    )
