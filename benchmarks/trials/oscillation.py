"""How the agreement of two tasks oscillates: `python benchmarks/trials/oscillation.py OUT [--write]` measures every optimizer step.

The real tiny model learns English news, then Bengali; the gradients of both are compared at each of consecutive
states in the middle of the Bengali stage. What a verdict at one state would have been worth, the periods, and how far means of bursts of
several lengths lie from the mean of the whole stretch are summed up; `--write` writes docs/oscillation.md. A run that is there is only read.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch

from crosstune.foundation.data import TaskSettings, encode, read_tasks
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.interference import ConflictProbe, ProbeSettings
from crosstune.interference.conflict.history import ProbeHistory

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
MODEL = SHARED / "models" / "stories260K"
LANGUAGES = ("en", "bn")
RATES = (2e-4, 1e-3)
SEEDS = (0, 42)
STEPS, BATCH, LENGTH = 100, 16, 128
STRETCH = range(18, 82)
PROBE = ProbeSettings(
    every=1, burst=1, blocks=16, rows_per_block=2, length=LENGTH, window_rows=True
)


@dataclass(frozen=True)
class Case:
    """One run: its learning rate and seed."""

    rate: float
    seed: int

    @property
    def name(self) -> str:
        """A name that may be a folder."""
        return f"{self.rate:g}-{self.seed}"


def run(case: Case, out: Path) -> ProbeHistory:
    """The states of one run's Bengali stage, read where they are there."""
    history, folder = ProbeHistory(PROBE), out / case.name
    if not folder.exists():
        began = time.perf_counter()
        probe = _learn(case)
        partial = folder.with_suffix(".partial")
        partial.mkdir(parents=True)
        probe.history.save(partial, case.name)
        partial.rename(folder)
        print(f"{case.name}: {time.perf_counter() - began:.0f} s", flush=True)
    history.load(folder)
    history.states = [state for state in history.states if state.step in STRETCH]
    return history


def _learn(case: Case) -> ConflictProbe:
    """Train both stages, the second one watched at every step."""
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    files = {name: SHARED / "data" / "languages" / f"{name}.jsonl" for name in LANGUAGES}
    sources = [
        TaskSettings(name=name, source=str(file), group="doc") for name, file in files.items()
    ]
    tasks = {task.name: task for task in read_tasks(sources, test_share=0.2, samples=None, seed=0)}
    settings = TrainingSettings(
        learning_rate=case.rate, steps=STEPS, batch_rows=BATCH, length=LENGTH
    )
    probe = ConflictProbe(list(tasks.values()), PROBE, tokenizer=tokenizer)
    for name in LANGUAGES:
        rows = encode(tasks[name].train, tokenizer, LENGTH, window=True)
        data = StageData(rows, pad_id=tokenizer.pad_token_id)
        watching = [probe] if name == LANGUAGES[-1] else []
        with tempfile.TemporaryDirectory() as scratch:
            train_stage(
                model,
                data,
                settings,
                output_folder=Path(scratch),
                callbacks=watching,
                seed=case.seed,
            )
    return probe


def main() -> None:
    """Run what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--write", action="store_true", help="write docs/oscillation.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for case in (Case(*one) for one in product(RATES, SEEDS)):
        run(case, arguments.out)


if __name__ == "__main__":
    main()
