"""What does the conflict probe cost? Trainings with and without it, interleaved, against the cost model.

    python benchmarks/probe_overhead.py [--model FOLDER] [--rounds 5] [--steps 40] [--threads 1]
                                        [--clock cpu] [--write]

Each round trains the same number of steps without and with the probe, in turns, so that a machine that slows down
slows down both; on a machine shared with others, `--clock cpu` counts this process's own time. Times run from before the probe's first event to the training's end: blocks, tables and all.
`--write` keeps the table in docs/probe_overhead.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from crosstune.foundation.data import Encoded, Row, collate, encode, parse_language
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.records import Column, Table
from crosstune.foundation.worlds import embedded_world
from crosstune.interference import ConflictProbe, ProbeSettings, probe_cost

LENGTH = 128
CASES = (
    # rows of a training step, settings of the probe
    (8, ProbeSettings(every=20, burst=1, blocks=8, length=LENGTH)),
    (8, ProbeSettings(every=20, burst=4, blocks=8, length=LENGTH)),
    (32, ProbeSettings(every=20, burst=1, blocks=16, length=LENGTH)),
    (32, ProbeSettings(every=20, burst=1, blocks=16, length=LENGTH, keep_gib=0.0)),
)
COLUMNS = (
    Column.axis("rows_per_step", "int64"),
    Column.axis("every", "int64"),
    Column.axis("burst", "int64"),
    Column.axis("blocks", "int64"),
    Column.axis("passes", "float64"),
    Column.value("plain_seconds", unit="s", about="Median of the rounds."),
    Column.value("probed_seconds", unit="s", about="Median of the rounds."),
    Column.value("overhead", about="Median over rounds of probed / plain − 1."),
    Column.value("predicted", about="1.15 × passes × probe tokens / training tokens."),
    Column.value("ratio", about="Measured over predicted; the model holds up to 1."),
)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock(TrainerCallback):
    """Times a training from before the other callbacks' first event to its end."""

    def __init__(self, kind: str) -> None:
        self.now = CLOCKS[kind]
        self.began = self.seconds = 0.0

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start; this callback comes first."""
        self.began = self.now()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop; nothing but the last window's figures comes after."""
        self.seconds = self.now() - self.began


def long_rows(language: str, count: int, first: int) -> list[Row]:
    """Rows of about LENGTH tokens: sentences of a toy language, sixteen at a time."""
    sentences = parse_language(f"toy:{language}").sentences(16 * count, start=first)
    parts = [sentences[16 * i : 16 * (i + 1)] for i in range(count)]
    return [Row(part[0].id, " ".join(row.text for row in part)) for part in parts]


def seconds(
    model: Any, rows: Sequence[Encoded], batch: int, probe: ConflictProbe | None, options: Any
) -> float:
    """The time of one training."""
    clock = Clock(options.clock)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                max_steps=options.steps,
                per_device_train_batch_size=batch,
                learning_rate=1e-4,
                report_to=[],
                save_strategy="no",
                logging_steps=10**9,
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
            ),
            train_dataset=[{"row": row} for row in rows],  # type: ignore[arg-type]
            data_collator=lambda items: dict(collate([item["row"] for item in items], 0)),
            callbacks=[clock] if probe is None else [clock, probe],
        ).train()
    return clock.seconds


def measure(folder: Path, case: tuple[int, ProbeSettings], options: Any) -> dict[str, Any]:
    """One row of the table."""
    batch, settings = case
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    tasks = {
        name: long_rows(language, 80, 0)
        for name, language in (("first", "latin-svo"), ("second", "bengali-sov"))
    }
    learned = encode(long_rows("bengali-sov", 256, 4000), tokenizer, LENGTH)
    plain, probed = [], []
    for turn in range(options.rounds + 1):
        without = seconds(model, learned, batch, None, options)
        probe = ConflictProbe(tasks, settings, tokenizer=tokenizer)
        with_probe = seconds(model, learned, batch, probe, options)
        if turn > 0:  # the first round warms caches up
            plain.append(without)
            probed.append(with_probe)
    blocks = [block for some in probe.comparison.blocks.values() for block in some]
    probe_rows = [len(row.input_ids) for block in blocks for row in block.rows]
    cost = probe_cost(
        settings,
        tasks=len(tasks),
        tokens_per_row=statistics.fmean(probe_rows),
        steps=options.steps,
        tokens_per_step=batch * statistics.fmean(len(row.input_ids) for row in learned),
        parameters=sum(p.numel() for p in model.parameters()),
    )
    overhead = statistics.median(b / a - 1 for a, b in zip(plain, probed, strict=True))
    return {
        "rows_per_step": batch,
        "every": settings.every,
        "burst": settings.burst,
        "blocks": settings.blocks,
        "passes": cost.passes,
        "plain_seconds": statistics.median(plain),
        "probed_seconds": statistics.median(probed),
        "overhead": overhead,
        "predicted": cost.overhead,
        "ratio": overhead / cost.overhead,
    }


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description="What does the conflict probe cost?")
    parser.add_argument("--model", type=Path, help="a model folder; default: the embedded model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--write", action="store_true", help="keep the table in docs/")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.model or embedded_world().folder
    rows = [measure(folder, case, options) for case in CASES]
    text = Table("probe_overhead", COLUMNS, rows).markdown()
    print(text)
    if options.write:
        about = (
            "# What the conflict probe costs\n\n"
            f"Written by `benchmarks/probe_overhead.py`: {options.model or 'the embedded world'}, {options.steps} steps, "
            f"{options.rounds} interleaved rounds, {options.threads} thread(s), "
            f"{options.clock} time.\n\n"
        )
        Path(__file__).parents[1].joinpath("docs/probe_overhead.md").write_text(
            about + text, "utf-8"
        )


if __name__ == "__main__":
    main()
