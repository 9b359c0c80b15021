"""What a repair costs: `python benchmarks/repair_cost.py [--write]` writes docs/repair_cost.md.

The embedded model learns a toy language and is repaired. Time is held against one evaluation pass over the same rows and
against the replay fine-tune, all in one process and in turns; growth is measured with rows and with groups; memory is the
peak of fresh processes that evaluate a larger random model, or repair it from its two folders.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crosstune.foundation.data import Task, encode, parse_language
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.worlds import embedded_world, random_model
from crosstune.merging import RepairSettings, open_endpoints, repair_endpoints
from crosstune.merging.scoring import score_tasks
from crosstune.merging.selection import encode_rows
from crosstune.merging.session import Watch, find_roles, open_session

CHECKOUT = Path(__file__).resolve().parents[1]
SETTINGS = RepairSettings(
    granularity=("component", "tensor", "embedding_rows", "singular"), rows=32, reported_rows=100
)
LARGE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def tasks() -> dict[str, Task]:
    """Two toy languages of one world; no row learned here chooses or reports."""
    found = {}
    for name, source in (("en", "toy:latin-svo"), ("bn", "toy:bengali-sov-0.3")):
        rows = parse_language(source).sentences(400, start=1000)
        found[name] = Task(name, tuple(rows[:200]), tuple(rows[200:]))
    return found


def pair(folder: Path) -> tuple[Path, Path]:
    """The embedded model, and what it is after 100 steps of the second language."""
    before = embedded_world().folder
    model, tokenizer = load_model(before), load_tokenizer(before)
    rows = encode(parse_language("toy:bengali-sov-0.3").sentences(800), tokenizer, 64)
    settings = TrainingSettings(learning_rate=1e-3, steps=100, length=64)
    data = StageData(rows, pad_id=tokenizer.pad_token_id)
    train_stage(model, data, settings, output_folder=folder / "training")
    return before, save_model(model, tokenizer, folder / "after")


def times(before: Path, after: Path, now: Callable[[], float]) -> list[str]:
    """The whole repair by method, in evaluation passes over the selection rows."""
    ends = open_endpoints(before, after)
    keep = tasks()
    rows = encode_rows(keep, ends.tokenizer, SETTINGS)
    passes = []
    for _ in range(5):
        began = now()
        score_tasks(ends, rows.validation, SETTINGS)
        passes.append(now() - began)
    one = float(np.median(passes))
    found = repair_endpoints(ends, keep, SETTINGS)
    costs = {cost.method: cost for cost in found.costs}
    lines = [
        f"One evaluation pass over the {SETTINGS.rows} + {SETTINGS.rows} selection rows: {one * 1e3:.0f} ms (median of 5).",
        "",
        "| method | looks | seconds | evaluation passes | of the replay fine-tune |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, cost in costs.items():
        lines.append(
            f"| {name} | {cost.looks} | {cost.seconds:.1f} | {cost.seconds / one:.0f} | "
            f"{cost.seconds / costs['replay'].seconds:.2f} |"
        )
    return lines


def growth(before: Path, after: Path, now: Callable[[], float]) -> list[str]:
    """Seconds of one look as rows and groups grow, each against the evaluation pass over the same rows."""
    lines = [
        "| rows a task | granularities | groups | look, ms | evaluation pass, ms | ratio |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    cases = [(rows, ("global",), 4) for rows in (8, 16, 32, 64)]
    cases += [(32, ("component", "embedding_rows"), 4)]
    cases += [(32, ("singular",), directions) for directions in (1, 4, 16)]
    for count, granularity, directions in cases:
        settings = replace(
            SETTINGS, rows=count, granularity=granularity, baselines=(), directions=directions
        )
        ends = open_endpoints(before, after)
        rows = encode_rows(tasks(), ends.tokenizer, settings)
        roles = find_roles(ends, rows.validation, settings)
        session = open_session(ends, rows.validation, roles, settings, Watch())
        looks, passes = [], []
        for turn in range(6):
            began = now()
            session.evaluator(np.full(session.space.shape, 0.4 + 0.05 * turn))
            looks.append(now() - began)
            began = now()
            score_tasks(ends, rows.validation, settings)
            passes.append(now() - began)
        look, one = float(np.median(looks[1:])), float(np.median(passes[1:]))
        lines.append(
            f"| {count} | {', '.join(granularity)}{f' ({directions})' if 'singular' in granularity else ''} | "
            f"{len(session.groups)} | {look * 1e3:.0f} | {one * 1e3:.0f} | {look / one:.2f} |"
        )
    return lines


def memory(folder: Path) -> list[str]:
    """Peak resident memory of fresh processes: importing alone, evaluating one model, repairing from two folders."""
    before = random_model("llama", folder / "large-before", seed=0, **LARGE)
    model, tokenizer = load_model(before), load_tokenizer(before)
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))
    after = save_model(model, tokenizer, folder / "large-after")
    peaks = {}
    for what in ("import", "evaluate", "look"):
        done = subprocess.run(
            [sys.executable, __file__, "--peak", what, str(before), str(after)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[what] = json.loads(done.stdout.splitlines()[-1])
    base = peaks["import"]
    return [
        f"A random Llama of {size:.0f} MiB (float32). Above what importing takes ({base:.0f} MiB): evaluating one model "
        f"{peaks['evaluate'] - base:.0f} MiB, looking at models between two folders {peaks['look'] - base:.0f} MiB "
        f"({(peaks['look'] - base) / (peaks['evaluate'] - base):.2f} times). Files that are read through memory maps count "
        "while they are resident."
    ]


def peak(what: str, before: str, after: str) -> None:
    """Do one thing in this process and print its peak memory in MiB."""
    settings = replace(SETTINGS, rows=8, granularity=("component",), baselines=())
    if what != "import":
        ends: Any = open_endpoints(after if what == "evaluate" else before, after)
        rows = encode_rows(tasks(), ends.tokenizer, settings)
        if what == "evaluate":
            score_tasks(ends, rows.validation, settings)
        else:
            roles = find_roles(ends, rows.validation, replace(settings, learned=("bn",)))
            session = open_session(ends, rows.validation, roles, settings, Watch())
            session.evaluator(np.full(session.space.shape, 0.5))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--write", action="store_true", help="write docs/repair_cost.md")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        peak(*arguments.peak)
        return
    now = CLOCKS[arguments.clock]
    with tempfile.TemporaryDirectory() as folder:
        before, after = pair(Path(folder))
        parts = [
            "# What a repair costs",
            f"Written by `benchmarks/repair_cost.py`: the embedded model, one thread, {arguments.clock} time "
            "(the methods' own seconds are wall time).",
            "## By method",
            "\n".join(times(before, after, now)),
            "## One look, as rows and groups grow",
            "\n".join(growth(before, after, now)),
            "## Memory",
            *memory(Path(folder)),
        ]
    text = "\n\n".join(parts) + "\n"
    if arguments.write:
        (CHECKOUT / "docs" / "repair_cost.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
