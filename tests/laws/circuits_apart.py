"""Circuit measurements of the tiny model that the laws of killing and of two processes run in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import processes
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


def work(rank: int, folder: Path) -> None:
    """One of two processes: it writes down what it holds."""
    (folder / f"{rank}.txt").write_text(bits(run()), encoding="utf-8")
    for name in ("kept", "begun"):  # the second one was begun by one process, which was killed
        found = run(folder / name)
        (folder / f"{rank}-{name}.txt").write_text(bits(found), encoding="utf-8")


def die(folder: Path, layers: int) -> None:
    """A measurement that dies by SIGKILL once so many layers are kept."""
    put = CircuitScores.put

    def putting(scores: CircuitScores, layer: int, blocks: Any) -> None:
        put(scores, layer, blocks)
        if len(scores.done) == layers:
            processes.die()

    CircuitScores.put = putting  # type: ignore[method-assign]
    run(folder)


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
