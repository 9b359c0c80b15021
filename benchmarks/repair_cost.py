"""What a repair costs: `python benchmarks/repair_cost.py`; with `--whole` it writes docs/repair_cost.md.

The embedded model learns a toy language and is repaired. Time is held against one scoring pass over the same rows and
against the replay fine-tune, all in one process and in turns; growth is measured with rows and with parameter groups; memory
is the peak of fresh processes that score a larger random model, or evaluate loss and gradient between its two folders.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from peers.command import CLOCKS, markdown, publish, spread, timed_command

from crosstune.foundation.data import Task, encode, parse_language
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.worlds import embedded_world, random_model
from crosstune.merging import RepairSettings, open_endpoints, repair_endpoints
from crosstune.merging.scoring import score_tasks
from crosstune.merging.selection import encode_rows
from crosstune.merging.session import Watch, find_roles, open_session

WHOLE = RepairSettings(
    granularity=("component", "tensor", "embedding_rows", "singular"), rows=32, reported_rows=100
)
QUICK = replace(
    WHOLE,
    granularity=("component",),
    baselines=("global",),
    exchange_rates=(0.5, 2.0),
    budgets=(),
    rows=16,
)
GROWING = (  # rows a task, granularities, directions; the quick run takes every other one
    *((rows, ("global",), 4) for rows in (8, 16, 32, 64)),
    (32, ("component", "embedding_rows"), 4),
    *((32, ("singular",), directions) for directions in (1, 4, 16)),
)
LARGE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}


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


def times(before: Path, after: Path, settings: RepairSettings, rounds: int) -> list[str]:
    """The whole repair by method, in scoring passes over the validation rows; each round draws other rows."""
    now = CLOCKS["wall"]  # as the methods' own seconds are
    passes, costs = [], []
    for seed in range(rounds):
        ends, chosen = open_endpoints(before, after), replace(settings, seed=seed)
        rows = encode_rows(tasks(), ends.tokenizer, chosen)
        some = []
        for _ in range(5):
            began = now()
            score_tasks(ends, rows.validation, chosen)
            some.append(now() - began)
        passes.append(median(some))
        found = repair_endpoints(ends, tasks(), chosen)
        costs.append({cost.method: cost for cost in found.costs})
    lines = [
        [
            name,
            f"{median(cost[name].looks for cost in costs):g}",
            f"{median(cost[name].seconds for cost in costs):.1f}",
            spread([cost[name].seconds / one for cost, one in zip(costs, passes, strict=True)]),
            spread([cost[name].seconds / cost["replay"].seconds for cost in costs]),
        ]
        for name in costs[0]
    ]
    heads = ("method", "evaluations", "seconds", "scoring passes", "of the replay fine-tune")
    return [
        f"One scoring pass over the {settings.rows} + {settings.rows} validation rows: {median(passes) * 1e3:.0f} ms "
        f"(median of 5); medians of {rounds} draws of rows, lowest to highest.",
        "",
        markdown(heads, lines),
    ]


def growth(
    before: Path,
    after: Path,
    cases: Sequence[tuple[int, tuple[str, ...], int]],
    now: Callable[[], float],
) -> str:
    """Seconds of one evaluation as rows and parameter groups grow, each against the scoring pass over the same rows."""
    lines = []
    for count, granularity, directions in cases:
        settings = replace(
            WHOLE, rows=count, granularity=granularity, baselines=(), directions=directions
        )
        ends = open_endpoints(before, after)
        rows = encode_rows(tasks(), ends.tokenizer, settings)
        roles = find_roles(ends, rows.validation, settings)
        session = open_session(ends, rows.validation, roles, settings, Watch())
        evaluations, passes = [], []
        for turn in range(6):
            began = now()
            session.evaluator(np.full(session.space.shape, 0.4 + 0.05 * turn))
            evaluations.append(now() - began)
            began = now()
            score_tasks(ends, rows.validation, settings)
            passes.append(now() - began)
        which = f" ({directions})" if "singular" in granularity else ""
        lines.append(
            [
                str(count),
                f"{', '.join(granularity)}{which}",
                str(len(session.groups)),
                f"{median(evaluations[1:]) * 1e3:.0f}",
                f"{median(passes[1:]) * 1e3:.0f}",
                spread([one / other for one, other in zip(evaluations, passes, strict=True)][1:]),
            ]
        )
    heads = ("rows a task", "granularities", "parameter groups")
    return markdown((*heads, "evaluation, ms", "scoring pass, ms", "ratio"), lines)


def memory(folder: Path) -> list[str]:
    """Peak resident memory of fresh processes: importing alone, scoring one model, evaluating between two folders."""
    before = random_model("llama", folder / "large-before", seed=0, **LARGE)
    model, tokenizer = load_model(before), load_tokenizer(before)
    size = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))
    after = save_model(model, tokenizer, folder / "large-after")
    peaks = {}
    for what in ("import", "score", "evaluate"):
        done = subprocess.run(
            [sys.executable, __file__, "--peak", what, str(before), str(after)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[what] = json.loads(done.stdout.splitlines()[-1])
    base = peaks["import"]
    return [
        f"A random Llama of {size:.0f} MiB (float32). Above what importing takes ({base:.0f} MiB): scoring one model "
        f"{peaks['score'] - base:.0f} MiB, evaluating models between two folders {peaks['evaluate'] - base:.0f} MiB "
        f"({(peaks['evaluate'] - base) / (peaks['score'] - base):.2f} times). Files that are read through memory maps count "
        "while they are resident."
    ]


def peak(what: str, before: str, after: str) -> None:
    """Do one thing in this process and print its peak memory in MiB."""
    settings = replace(WHOLE, rows=8, granularity=("component",), baselines=())
    if what != "import":
        ends: Any = open_endpoints(after if what == "score" else before, after)
        rows = encode_rows(tasks(), ends.tokenizer, settings)
        if what == "score":
            score_tasks(ends, rows.validation, settings)
        else:
            roles = find_roles(ends, rows.validation, replace(settings, learned=("bn",)))
            session = open_session(ends, rows.validation, roles, settings, Watch())
            session.evaluator(np.full(session.space.shape, 0.5))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Measure, and print or write the page."""
    parser = timed_command(__doc__)
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(*options.peak)
        return
    now = CLOCKS[options.clock]
    settings, cases = (WHOLE, GROWING) if options.whole else (QUICK, GROWING[::2])
    with tempfile.TemporaryDirectory() as folder:
        before, after = pair(Path(folder))
        parts = [
            "# What a repair costs",
            f"Written by `benchmarks/repair_cost.py`: the embedded model, {options.threads} thread, {options.clock} time; "
            "by method, wall time.",
            "## By method",
            "\n".join(times(before, after, settings, options.rounds or 2)),
            "## One evaluation, as rows and parameter groups grow",
            growth(before, after, cases, now),
            "## Memory",
            *memory(Path(folder)),
        ]
    publish("\n\n".join(parts) + "\n", "repair_cost.md", whole=options.whole)


if __name__ == "__main__":
    main()
