"""What does the conflict probe cost? Trainings with and without it, interleaved, against the cost model.

    python benchmarks/probe_overhead.py [--whole] [--model FOLDER] [--rounds 5] [--steps 40] [--threads 1] [--clock cpu]

Each round trains the same number of steps without and with the probe, in turns, so that a machine that slows down
slows down both. Times run from before the probe's first event to the training's end: blocks, tables and all.
`--whole` writes docs/probe_overhead.md.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peers.command import CLOCKS, markdown, publish, spread, timed_command
from transformers import Trainer, TrainerCallback, TrainingArguments

from crosstune.foundation.data import Encoded, Row, collate, encode, parse_language
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import embedded_world
from crosstune.interference import ConflictProbe, ProbeSettings, probe_cost

LENGTH = 128
CASES = (  # rows of a training step, settings of the probe; the quick run takes the first two
    (8, ProbeSettings(every=20, burst=1, blocks=8, length=LENGTH)),
    (8, ProbeSettings(every=20, burst=4, blocks=8, length=LENGTH)),
    (32, ProbeSettings(every=20, burst=1, blocks=16, length=LENGTH)),
    (32, ProbeSettings(every=20, burst=1, blocks=16, length=LENGTH, keep_gib=0.0)),
)
HEADS = (
    *("rows a step", "every", "burst", "blocks", "passes", "plain, s", "probed, s"),
    *("overhead, probed / plain − 1", "predicted overhead", "measured / predicted"),
)


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


def measure(folder: Path, case: tuple[int, ProbeSettings], options: Any) -> list[str]:
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
    overheads = [b / a - 1 for a, b in zip(plain, probed, strict=True)]
    return [
        *map(str, (batch, settings.every, settings.burst, settings.blocks, cost.passes)),
        f"{statistics.median(plain):.3f}",
        f"{statistics.median(probed):.3f}",
        spread(overheads),
        f"{cost.overhead:.2f}",
        spread([overhead / cost.overhead for overhead in overheads]),
    ]


def main() -> None:
    """Measure every case and print the table."""
    parser = timed_command(__doc__)
    parser.add_argument("--model", type=Path, help="a model folder; default: the embedded model")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    options.rounds = options.rounds or (5 if options.whole else 3)
    torch.set_num_threads(options.threads)
    folder = options.model or embedded_world().folder
    cases = CASES if options.whole else CASES[:2]
    rows = [measure(folder, case, options) for case in cases]
    text = (
        "# What the conflict probe costs\n\n"
        f"Written by `benchmarks/probe_overhead.py`: {options.model or 'the embedded world'}, {options.steps} steps, "
        f"{options.rounds} interleaved rounds, {options.threads} thread(s), {options.clock} time. "
        "Predicted: 1.15 × passes × probe tokens / training tokens.\n\n"
        f"{markdown(HEADS, rows)}\n"
    )
    publish(text, "probe_overhead.md", whole=options.whole)


if __name__ == "__main__":
    main()
