"""What does an ordinary stage of training cost? StageTrainer against transformers' Trainer, or against another checkout's.

    python benchmarks/stage_cost.py [--whole] [--against ../before/src] [--launches 8] [--rounds 8] [--steps 20] [--threads 1]

Both sides train one random model on the same rows with the same arguments, in turns; who begins alternates. Every launch
is two new processes, for two that run the same code may differ while they live. `--against` never writes the page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import transformers
from peers.command import CHECKOUT, markdown, publish, timed_command
from probe_overhead import LENGTH, Clock, long_rows
from transformers import PrinterCallback, Trainer

import crosstune
from crosstune.foundation.data import collate, encode
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.training.arguments import training_arguments
from crosstune.foundation.worlds import random_model

BATCH = 8
DIMENSIONS = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"
SHAPES = {"stories260K": (64, 172, 5, 8, 4, 512), "stories3M": (192, 512, 6, 6, 2, 4096)}


@cache
def start(shape: str) -> tuple[Any, StageData]:
    """A random model of a shape, and rows that fill its batches without padding."""
    with tempfile.TemporaryDirectory() as folder:
        dimensions = dict(zip(DIMENSIONS.split(), SHAPES[shape], strict=True))
        path = random_model("llama", Path(folder) / "model", **dimensions)
        model, tokenizer = load_model(path), load_tokenizer(path)
    rows = encode(long_rows("latin-svo", 8 * BATCH, 0), tokenizer, LENGTH)
    assert {len(row.input_ids) for row in rows} == {LENGTH}
    return model, StageData(rows, tokenizer.pad_token_id)


def train(way: str, shape: str, accumulation: int, steps: int, kind: str) -> float:
    """The seconds of an optimizer step, from before the first to after the last."""
    model, data = start(shape)
    clock = Clock(kind)
    settings = TrainingSettings(steps=steps, batch_rows=BATCH, accumulation=accumulation)
    with tempfile.TemporaryDirectory() as folder:
        if way == "stage":
            train_stage(model, data, settings, output_folder=Path(folder), callbacks=[clock])
        else:
            args = training_arguments(settings, Path(folder), 0, evaluates=False, on_cpu=True)
            together: Any = partial(collate, pad_id=data.pad_id)
            trainer = Trainer(model, args, together, data.train, callbacks=[clock])  # type: ignore[arg-type]
            trainer.remove_callback(PrinterCallback)
            trainer.train()
    return clock.seconds / steps


def serve() -> None:
    """Say whose code this is, then answer each line of arguments with the seconds of that training."""
    answers, sys.stdout = sys.stdout, sys.stderr
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(Path(crosstune.__file__).parents[1], file=answers, flush=True)
    for line in sys.stdin:
        way, shape, accumulation, steps, kind = line.split()
        print(train(way, shape, int(accumulation), int(steps), kind), file=answers, flush=True)


class Side:
    """A process that has imported crosstune from one tree and trains when asked."""

    def __init__(self, way: str, tree: Path, threads: int) -> None:
        self.way = way
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = (sys.executable, __file__, "--serve")
        self.process: Any = subprocess.Popen(command, env=environment, **pipes)
        assert (found := self._answer()) == str(tree), f"{found} was imported, not {tree}"

    def _answer(self) -> str:
        return self.process.stdout.readline().strip()

    def seconds(self, *case: object) -> float:
        """What one training took."""
        print(self.way, *case, file=self.process.stdin, flush=True)
        return float(self._answer())


def measure(sides: Sequence[tuple[str, Path]], case: tuple[str, int], options: Any) -> list[str]:
    """One row of the table."""
    times: list[list[tuple[float, float]]] = []
    for launch in range(options.launches):
        pair = [Side(way, tree, options.threads) for way, tree in sides]
        rounds = []
        for turn in range(options.rounds + 1):
            order = (0, 1) if (launch + turn) % 2 else (1, 0)
            taken = {at: pair[at].seconds(*case, options.steps, options.clock) for at in order}
            rounds.append((taken[0], taken[1]))
        times.append(rounds[1:])  # the first round warms caches up
        for side in pair:
            side.process.communicate()
    every = [both for rounds in times for both in rounds]
    low, middle, high = quantiles((a / b for a, b in every), n=4)
    launches = [median(a / b for a, b in rounds) for rounds in times]
    own = [f"{1000 * median(taken):.2f}" for taken in zip(*every, strict=True)]
    spreads = (f"{low:.3f} to {high:.3f}", f"{min(launches):.3f} to {max(launches):.3f}")
    return [*map(str, case), *own, f"{middle:.3f}", *spreads]


def main() -> None:
    """Measure every case and print the table."""
    parser = timed_command(__doc__)
    parser.add_argument("--against", type=Path, help="the src of another checkout")
    parser.add_argument("--launches", type=int, help="pairs of processes, one after another")
    parser.add_argument("--steps", type=int, default=20, help="of each training")
    options = parser.parse_args()
    whole, tree, (one, other) = options.whole, CHECKOUT / "src", ("StageTrainer", "Trainer")
    sides = [("stage", tree), ("plain", tree)]
    if options.against:
        (one, other), sides[1] = ("here", "there"), ("stage", options.against.resolve())
    options.rounds = options.rounds or (8 if whole else 3)
    options.launches = options.launches or (8 if whole else 2)
    cases = product(list(SHAPES) if whole else list(SHAPES)[:1], (1, 4))
    heads = ("shape", "accumulation", f"{one}, ms a step", f"{other}, ms a step")
    heads += (f"{one} / {other}", "middle half of rounds", "medians of launches")
    text = (
        "# What a stage of training costs\n\n"
        f"Written by `benchmarks/stage_cost.py`: {BATCH} rows of {LENGTH} tokens a step, trainings of {options.steps} steps, "
        f"{options.launches} launches of {options.rounds} rounds, {options.threads} thread(s), {options.clock} time; "
        "medians; ratios are taken round by round.\n\n"
        f"{markdown(heads, [measure(sides, case, options) for case in cases])}\n"
    )
    publish(text, "stage_cost.md", whole=whole and not options.against)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
