"""How much repair gives back: `python benchmarks/trials/repair_fronts.py PAIRS OUT [--write]` repairs the pairs of repair_pairs.py.

Every pair is repaired at every granularity and with every baseline in one harness, chosen on some held-out rows and
reported on others. A pair whose tables are there is not repaired again. `--write` sums up over seeds into
docs/repair_fronts.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from repair_pairs import CHECKOUT, MODELS, RATES, SEEDS, TRANSITIONS, Case, cases, tasks

from crosstune.foundation.data import Task
from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import t_interval
from crosstune.foundation.storage import atomic_folder
from crosstune.merging import RepairSettings, repair
from crosstune.merging.optimise.archive import hypervolume

FINE = {
    "full": ("component", "tensor", "embedding_rows", "singular"),
    "lora": (
        "component",
        "singular",
    ),  # an adapter changes one matrix a component, and no embedding
}
# What was not searched together with those: heads, and in the larger model tensors. Components come again, to start from and to check.
LATER = {
    "full": ("component", "tensor", "kv_head", "head"),
    "lora": ("component", "kv_head", "head"),
}
SETTINGS = RepairSettings(
    rows=16,
    reported_rows=60,
    length=96,
    exchange_rates=(0.25, 1.0, 4.0),
    budgets=(0.02,),
    penalties=(0.0, 0.1),
    folds=2,
    evaluations=6,
)
BUDGET = 0.02
QUESTIONS = (f"lose ≤ {BUDGET:g}", "rate 1")
LIGHTER = {
    "stories3M": {"rows": 12, "length": 64}
}  # twelve times the parameters, on the same machine
KEPT = ("repair_points", "repair_tasks", "repair_hypervolume", "repair_coefficients", "repair_cost")


def run(case: Case, transition: str, pairs: Path, out: Path, every: dict[str, Task]) -> None:
    """Repair one pair and keep its tables."""
    methods = tuple(
        name for name in FINE[case.kind] if case.model not in LIGHTER or name != "tensor"
    )
    _repair(case, transition, pairs, out, every, {"granularity": methods})


def run_later(case: Case, transition: str, pairs: Path, out: Path, every: dict[str, Task]) -> None:
    """Repair one pair at the granularities that joined later, with the same rows and looks, beside the tables of `run`."""
    options = {"granularity": LATER[case.kind], "baselines": (), "replay": False}
    _repair(case, transition, pairs, out / "later", every, options)


def _repair(
    case: Case,
    transition: str,
    pairs: Path,
    out: Path,
    every: dict[str, Task],
    options: dict[str, Any],
) -> None:
    before, after, names = TRANSITIONS[transition]
    folder = out / f"{case.name}-{transition}"
    if folder.exists() or not (pairs / case.name / after).exists():
        return
    began = time.perf_counter()
    found = repair(
        case.source if before is None else pairs / case.name / before,
        pairs / case.name / after,
        keep={name: every[name].test for name in names},
        settings=replace(SETTINGS, **LIGHTER.get(case.model, {}), **options),
    )
    with atomic_folder(folder) as scratch:
        for name in KEPT:
            if name in found.tables:
                found.tables[name].write(scratch / f"{name}.parquet")
    print(f"{folder}: {time.perf_counter() - began:.0f} s", flush=True)


Key = tuple[str, str, float, str]


def kept(out: Path, name: str) -> Iterator[tuple[Key, int, Table]]:
    """One table of every pair that was repaired, with its place in the matrix and its seed."""
    for model in MODELS:
        for case in cases([model], list(RATES), list(SEEDS)):
            for transition in TRANSITIONS:
                file = out / f"{case.name}-{transition}" / f"{name}.parquet"
                if file.exists():
                    yield (model, case.kind, case.rate, transition), case.seed, Table.read(file)


def replay_answers(rows: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The stop of the replay fine-tunes that answers each question, by the rows that judge them (see `rivals`)."""
    stops = [row for row in rows if row["method"] == "replay" and row["kind"] == "replay"]
    starts = {row["rate"]: row for row in stops if "step 0 " in row["label"]}
    within = [
        row
        for row in stops
        if row["selection_new"] <= starts[row["rate"]]["selection_new"] + BUDGET
    ]
    yield f"lose ≤ {BUDGET:g}", min(within, key=lambda row: row["selection_old"])
    yield "rate 1", min(stops, key=lambda row: row["selection_old"] + row["selection_new"])


def over_seeds(values: list[float]) -> str:
    """Mean and 95 % t-interval over seeds; one seed has a value alone."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return "–"
    if len(finite) == 1:
        return f"{finite[0]:.2f}"
    found = t_interval(torch.tensor(finite, dtype=torch.float64)[:, None])
    return f"{found.value.item():.2f} [{found.low.item():.2f}, {found.high.item():.2f}]"


Found = dict[Key, dict[str, dict[str, list[float]]]]


def collect(out: Path) -> tuple[Found, dict[Key, int]]:
    """Each figure of each method at each place of the matrix, one value a seed; and how many seeds there are."""
    points: Found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    seeds: dict[Key, int] = defaultdict(int)
    for key, _, table in kept(out, "repair_points"):
        seeds[key] += 1
        for row in table.rows():
            cell = points[key][row["method"]]
            if row["kind"] in ("budget", "rate") and row["label"] in QUESTIONS:
                _answer(cell, row["label"], row)
            if row["kind"] == "before":
                cell["forgotten"].append(row["regained"])
                cell["learned"].append(row["paid"])
        for label, row in replay_answers(table.rows()):
            _answer(points[key]["replay"], label, row)
        shares = room_shares(table.rows())
        for method, share in shares.items():
            points[key][method]["share"].append(share)
            points[key][method]["over global"].append(share - shares["global"])
            points[key][method]["over replay"].append(share - shares["replay"])
    return points, seeds


def overview(points: Found, seeds: dict[Key, int]) -> Iterator[str]:
    """One row a place of the matrix: what was forgotten, and how much of it the main methods regain."""
    yield "\n## At a glance\n"
    yield (
        f"Share of what was forgotten that is regained where at most {BUDGET:g} nats may be paid (for replay in "
        "brackets what it paid; below 0 it went on learning), and the share of the room (hypervolume) that each front opens up.\n"
    )
    shown = ("global", "component", "singular", "replay")
    head = [f"≤ {BUDGET:g}: {name}" for name in shown] + [f"share: {name}" for name in shown]
    yield "| pair | model | kind | lr | seeds | forgotten | " + " | ".join(head) + " |"
    yield "| --- " * (6 + len(head)) + "|"
    for (model, kind, rate, transition), methods in points.items():
        lost = next(iter(methods.values()))["forgotten"]
        cells = []
        for name in shown:
            regained = methods[name][f"{QUESTIONS[0]} regained"]
            paid = methods[name][f"{QUESTIONS[0]} paid"]
            share = mean(regained) / mean(lost)
            cells.append(f"{share:.0%}" + (f" ({mean(paid):+.2f})" if name == "replay" else ""))
        cells += [f"{mean(methods[name]['share']):.2f}" for name in shown]
        place = (
            f"{transition} | {model} | {kind} | {rate:g} | {seeds[model, kind, rate, transition]}"
        )
        yield f"| {place} | {mean(lost):.2f} | " + " | ".join(cells) + " |"


def mean(values: list[float]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def details(points: Found, seeds: dict[Key, int]) -> Iterator[str]:
    """One table a place of the matrix, one row a method, with intervals over seeds."""
    yield "\n## Every method\n"
    for key, methods in points.items():
        model, kind, rate, transition = key
        first = next(iter(methods.values()))
        yield f"\n### {transition}, {model}, {kind}, learning rate {rate:g}, {seeds[key]} seeds\n"
        yield (
            f"Forgotten {over_seeds(first['forgotten'])}, learned {over_seeds(first['learned'])} "
            "nats per token on reported rows.\n"
        )
        yield "| method | ≤ .02: regained | paid | rate 1: regained | paid | share | over global | over replay |"
        yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
        columns = (
            *(f"{label} {what}" for label in QUESTIONS for what in ("regained", "paid")),
            "share",
            "over global",
            "over replay",
        )
        for method, cell in methods.items():
            yield f"| {method} | " + " | ".join(over_seeds(cell[name]) for name in columns) + " |"


def by_head(out: Path) -> Iterator[str]:
    """One row a place of the matrix: what finer cuts open up beyond components, searched together from the same start."""
    shares: dict[Key, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, _, table in kept(out / "later", "repair_points"):
        found = room_shares(table.rows())
        for method, share in found.items():
            shares[key][method].append(share)
            shares[key][f"{method} over component"].append(share - found["component"])
    if not shares:
        return
    yield "\n## By head\n"
    yield (
        "Share of the room by heads, by key-value heads with the query heads they serve, and by tensors, beside components that were searched "
        "with them: the same rows and looks as above, but no coarser granularity to start from and no replay. Tensors of an adapter are its components.\n"
    )
    finer = ("tensor", "kv_head", "head")
    head = [*("component", *finer), *(f"{name} over component" for name in finer)]
    yield "| pair | model | kind | lr | seeds | " + " | ".join(head) + " |"
    yield "| --- " * (5 + len(head)) + "|"
    for (model, kind, rate, transition), own in shares.items():
        place = f"{transition} | {model} | {kind} | {rate:g} | {len(own['component'])}"
        yield f"| {place} | " + " | ".join(over_seeds(own[name]) for name in head) + " |"


def room_shares(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The share of the room that each method's points open up on reported rows (`ScoredPoints.share`, without intervals)."""
    found = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method and "step 0 " not in row["label"]]
        ends = {row["kind"]: row for row in own}
        before, after = ends["before"], ends["after"]
        best = np.array([before["old"], after["new"]])
        dearest = min(before["new"], after["new"] + after["old"] - before["old"])
        worst = np.array([after["old"], dearest])
        points = np.maximum([[row["old"], row["new"]] for row in own], best)
        found[method] = float(hypervolume(points, worst, best))
    return found


def _answer(cell: dict[str, list[float]], label: str, row: dict[str, Any]) -> None:
    for name in ("regained", "paid"):
        cell[f"{label} {name}"].append(row[name])


HEAD = f"""# Fronts of repair on real tiny models

Written by `benchmarks/trials/repair_fronts.py` from the pairs of `benchmarks/trials/repair_pairs.py`; every figure is on reported
rows that chose nothing, and held out from training; mean and 95 % t-interval over the seeds of the fine-tune
(the rows are the same for all seeds). Search: {SETTINGS.rows} selection and {SETTINGS.reported_rows} reported rows a
task of at most {SETTINGS.length} tokens (stories3M: 12 rows that choose, 64 tokens), {SETTINGS.folds} folds, at most {SETTINGS.evaluations} looks a point.

*≤ .02*: the point that may lose at most .02 nats of what was learned, on selection rows; *rate 1*: a nat of the old is
worth a nat of the new; *regained* and *paid* are against the model after. *Share*: hypervolume, see docs/repair.md.
The replay fine-tunes had the compute of the dearest granularity's own looks, learned the half of the selection rows that
is not the last fold, and stopped half way and at the end of each learning rate; the library gives them the compute of
all looks, of every granularity that is searched together. A point takes at most six looks, which bounds what is found at a budget (a
component's search with eighteen looks found more on one pair: see the notebook). Heads joined later and have a table of their own.
"""


def main() -> None:
    """Repair what is asked for, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS), help="none: only sum up")
    parser.add_argument("--kinds", nargs="+", default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--transitions", nargs="+", default=list(TRANSITIONS))
    parser.add_argument("--rates", nargs="+", type=float, help="by default all")
    parser.add_argument("--later", action="store_true", help="repair by heads, and by tensors")
    parser.add_argument("--write", action="store_true", help="sum up into docs/repair_fronts.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = tasks()
    for case in cases(arguments.models, arguments.kinds, arguments.seeds):
        if arguments.rates and case.rate not in arguments.rates:
            continue
        for transition in arguments.transitions:
            one = run_later if arguments.later else run
            one(case, transition, arguments.pairs, arguments.out, every)
    found = collect(arguments.out)
    text = "\n".join((HEAD, *overview(*found), *by_head(arguments.out), *details(*found))) + "\n"
    if arguments.write:
        (CHECKOUT / "docs" / "repair_fronts.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
