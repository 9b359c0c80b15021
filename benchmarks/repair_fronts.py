"""How much repair gives back: `python benchmarks/repair_fronts.py PAIRS OUT [--write]` repairs the pairs of repair_pairs.py.

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

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from repair_pairs import CHECKOUT, MODELS, RATES, SEEDS, TRANSITIONS, Case, cases, tasks

from crosstune.foundation.data import Task
from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import t_interval
from crosstune.foundation.storage import atomic_folder
from crosstune.interference.repair import RepairSettings, repair

FINE = {
    "full": ("component", "tensor", "embedding_rows", "singular"),
    "lora": (
        "component",
        "singular",
    ),  # an adapter changes one matrix a component, and no embedding
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
LIGHTER = {
    "stories3M": {"rows": 12, "length": 64}
}  # twelve times the parameters, on the same machine
KEPT = ("repair_points", "repair_tasks", "repair_hypervolume", "repair_coefficients", "repair_cost")


def run(case: Case, transition: str, pairs: Path, out: Path, every: dict[str, Task]) -> None:
    """Repair one pair and keep its tables."""
    before, after, names = TRANSITIONS[transition]
    methods = tuple(
        name for name in FINE[case.kind] if case.model not in LIGHTER or name != "tensor"
    )
    folder = out / f"{case.name}-{transition}"
    if folder.exists() or not (pairs / case.name / after).exists():
        return
    began = time.perf_counter()
    found = repair(
        case.source if before is None else pairs / case.name / before,
        pairs / case.name / after,
        keep={name: every[name].test for name in names},
        settings=replace(SETTINGS, granularity=methods, **LIGHTER.get(case.model, {})),
    )
    with atomic_folder(folder) as scratch:
        for name in KEPT:
            found.tables[name].write(scratch / f"{name}.parquet")
    print(f"{folder.name}: {time.perf_counter() - began:.0f} s", flush=True)


Key = tuple[str, str, float, str]


def kept(out: Path, name: str) -> Iterator[tuple[Key, int, Table]]:
    """One table of every pair that was repaired, with its place in the matrix and its seed."""
    for model in MODELS:
        for case in cases([model], list(RATES), list(SEEDS)):
            for transition in TRANSITIONS:
                file = out / f"{case.name}-{transition}" / f"{name}.parquet"
                if file.exists():
                    yield (model, case.kind, case.rate, transition), case.seed, Table.read(file)


def over_seeds(values: list[float]) -> str:
    """Mean and 95 % t-interval over seeds; one seed has a value alone."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return "–"
    if len(finite) == 1:
        return f"{finite[0]:.2f}"
    found = t_interval(torch.tensor(finite, dtype=torch.float64)[:, None])
    return f"{found.value.item():.2f} [{found.low.item():.2f}, {found.high.item():.2f}]"


def summary(out: Path) -> Iterator[str]:
    """The matrix as Markdown: one table a pair of checkpoints, one row a method."""
    points: dict[Key, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    seeds: dict[Key, int] = defaultdict(int)
    for key, _, table in kept(out, "repair_points"):
        seeds[key] += 1
        for row in table.rows():
            cell = points[key][row["method"]]
            if row["kind"] in ("budget", "rate") and row["label"] in ("lose ≤ 0.02", "rate 1"):
                cell[f"{row['label']} regained"].append(row["regained"])
                cell[f"{row['label']} paid"].append(row["paid"])
            if row["kind"] == "before":
                cell["forgotten"].append(row["regained"])
                cell["learned"].append(row["paid"])
    for key, _, table in kept(out, "repair_hypervolume"):
        for row in table.rows():
            points[key][row["method"]]["share"].append(row["value"])
            points[key][row["method"]]["over global"].append(row["over_global"])
            points[key][row["method"]]["over replay"].append(row["over_replay"])
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
            *(
                f"{label} {what}"
                for label in ("lose ≤ 0.02", "rate 1")
                for what in ("regained", "paid")
            ),
            "share",
            "over global",
            "over replay",
        )
        for method, cell in methods.items():
            yield f"| {method} | " + " | ".join(over_seeds(cell[name]) for name in columns) + " |"


HEAD = f"""# Fronts of repair on real tiny models

Written by `benchmarks/repair_fronts.py` from the pairs of `benchmarks/repair_pairs.py`; every figure is on reported
rows that chose nothing, and held out from training; mean and 95 % t-interval over the seeds of the fine-tune
(the rows are the same for all seeds). Search: {SETTINGS.rows} selection and {SETTINGS.reported_rows} reported rows a
task of at most {SETTINGS.length} tokens (stories3M: 12 rows that choose, 64 tokens, without the granularity tensor), {SETTINGS.folds} folds, at most {SETTINGS.evaluations} looks a point.

*≤ .02*: the point that may lose at most .02 nats of what was learned, on selection rows; *rate 1*: a nat of the old is
worth a nat of the new; *regained* and *paid* are against the model after. *Share*: hypervolume, see docs/repair.md.
"""


def main() -> None:
    """Repair what is asked for, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--kinds", nargs="+", default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--transitions", nargs="+", default=list(TRANSITIONS))
    parser.add_argument("--rates", nargs="+", type=float, help="by default all")
    parser.add_argument("--write", action="store_true", help="sum up into docs/repair_fronts.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = tasks()
    for case in cases(arguments.models, arguments.kinds, arguments.seeds):
        if arguments.rates and case.rate not in arguments.rates:
            continue
        for transition in arguments.transitions:
            run(case, transition, arguments.pairs, arguments.out, every)
    text = "\n".join((HEAD, *summary(arguments.out))) + "\n"
    if arguments.write:
        (CHECKOUT / "docs" / "repair_fronts.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
