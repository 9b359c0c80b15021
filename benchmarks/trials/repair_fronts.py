"""Do finer cuts pay? `python benchmarks/trials/repair_fronts.py PAIRS OUT [--write]` repairs the pairs of repair_pairs.py.

Every pair is repaired on some held-out rows and read on others, at the same price against the dense line of one global
coefficient. A pair whose tables are there is not repaired again. `--write` sums up into docs/repair_fronts.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from repair_pairs import CHECKOUT, MODELS, RATES, SEEDS, TRANSITIONS, Case, cases, tasks

from crosstune.foundation.data import Task
from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import t_interval
from crosstune.foundation.storage import atomic_folder
from crosstune.merging import RepairSettings, repair

SETTINGS = RepairSettings(
    granularity=("component",),
    baselines=(),
    replay=False,
    rows=16,
    reported_rows=60,
    length=96,
    exchange_rates=(0.25, 1.0, 4.0),
    budgets=(0.02, 0.1),
    penalties=(0.0, 0.1),
    folds=2,
    evaluations=6,
)
LIGHTER: dict[str, dict[str, Any]] = {  # twelve times the parameters, on the same machine
    "stories3M": {"rows": 12, "length": 64}
}
LIMIT = min(SETTINGS.budgets)
QUESTIONS = (
    *(f"lose ≤ {budget:g}" for budget in SETTINGS.budgets),
    *(f"rate {rate:g}" for rate in SETTINGS.exchange_rates),
)
SHOWN = (f"lose ≤ {LIMIT:g}", "rate 1")
KEPT = ("repair_points", "repair_rivals", "repair_cost")


def run(case: Case, transition: str, pairs: Path, out: Path, every: dict[str, Task]) -> None:
    """Repair one pair and keep its tables."""
    before, after, names = TRANSITIONS[transition]
    folder = out / f"{case.name}-{transition}"
    if folder.exists() or not (pairs / case.name / after).exists():
        return
    began = time.perf_counter()
    found = repair(
        case.source if before is None else pairs / case.name / before,
        pairs / case.name / after,
        keep={name: every[name].test for name in names},
        settings=replace(SETTINGS, **LIGHTER.get(case.model, {})),
    )
    with atomic_folder(folder) as scratch:
        for name in KEPT if found.found else ():  # nothing forgotten, nothing to compare
            found.tables[name].write(scratch / f"{name}.parquet")
    print(f"{folder}: {time.perf_counter() - began:.0f} s", flush=True)


Place = tuple[str, str, float, str]
Rows = list[dict[str, Any]]


def kept(out: Path) -> Iterator[tuple[Place, Rows, Rows]]:
    """Points and comparisons of every pair that was repaired, by its place in the matrix, seed after seed."""
    for model in MODELS:
        for case in cases([model], list(RATES), list(SEEDS)):
            for transition in TRANSITIONS:
                folder = out / f"{case.name}-{transition}"
                if (folder / "repair_rivals.parquet").exists():
                    points, rivals = (
                        Table.read(folder / f"repair_{name}.parquet").rows()
                        for name in ("points", "rivals")
                    )
                    yield (model, case.kind, case.rate, transition), points, rivals


def over_seeds(values: list[float]) -> Estimate:
    """Mean and 95 % t-interval over seeds."""
    found = t_interval(torch.tensor(values, dtype=torch.float64)[:, None])
    return Estimate(found.value.item(), found.low.item(), found.high.item())


def told(figure: Estimate) -> str:
    """With two decimals, or three where two would show nothing of it."""
    decimals = 2 if abs(figure.value) >= 0.1 else 3
    value, low, high = (f"{one:.{decimals}f}" for one in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]" if figure.has_interval else value


class Found:
    """What the repairs of all pairs say, by place; one value a seed."""

    def __init__(self, out: Path) -> None:
        self.forgotten: dict[Place, list[float]] = defaultdict(list)
        self.answers: dict[tuple[Place, str, str], Rows] = defaultdict(list)
        self.limits: dict[tuple[str, str], list[Estimate]] = defaultdict(list)
        for place, points, rivals in kept(out):
            self.forgotten[place].append(
                next(row["regained"] for row in points if row["kind"] == "before")
            )
            for row in rivals:
                self.answers[place, row["method"], row["question"]].append(row)
                if row["kind"] == "budget" and row["budget"] == LIMIT:
                    self.limits[place[0], row["method"]].append(Estimate.of(row, "paid"))

    def over(self, place: Place, method: str, question: str, name: str) -> Estimate:
        """A figure of `repair_rivals` over seeds."""
        return over_seeds([row[name] for row in self.answers[place, method, question]])


def verdicts(figures: list[Estimate]) -> str:
    """How many lie above 0, hold it, and lie below it, of those with an interval."""
    known = [one for one in figures if one.has_interval]
    above, below = (
        sum(getattr(one, f"is_{side}") for one in known) for side in ("positive", "negative")
    )
    return f"{above} / {len(known) - above - below} / {below}"


def summary(found: Found) -> Iterator[str]:
    """How often an advantage at the same price is shown, and how large it is."""
    yield "\n## Does it pay?\n"
    yield (
        "Regained more than the line at the same price: above 0 by its interval / interval holds 0 / below 0. *Repairs*: each pair and "
        "seed, interval over test rows. *Places*: each pair with more than one seed, interval over seeds. Then the median over pairs of the advantage, in nats and as "
        "a share of what was forgotten, and of the share that the line itself regains at that price.\n"
    )
    yield "| model | method | question | repairs | places | median advantage | of the forgotten | the line regains |"
    yield "| --- " * 8 + "|"
    for model in MODELS:
        places = [place for place in found.forgotten if place[0] == model]
        for method in SETTINGS.granularity:
            for question in QUESTIONS:
                own = [place for place in places if (place, method, question) in found.answers]
                if not own:
                    continue
                repairs = [
                    Estimate.of(row, "more_regained")
                    for place in own
                    for row in found.answers[place, method, question]
                ]
                over = [found.over(place, method, question, "more_regained") for place in own]
                lost = [over_seeds(found.forgotten[place]).value for place in own]
                shares = [more.value / all_ for more, all_ in zip(over, lost, strict=True)]
                lines = [
                    (found.over(place, method, question, "regained").value - more.value) / all_
                    for place, more, all_ in zip(own, over, lost, strict=True)
                ]
                cells = (
                    *(model, method, question, verdicts(repairs), verdicts(over)),
                    *(f"{median(one.value for one in over):.3f}", f"{median(shares):.1%}"),
                    f"{median(lines):.0%}",
                )
                yield f"| {' | '.join(cells)} |"


def limits(found: Found) -> Iterator[str]:
    """How often a limit that was met on validation rows holds on test rows."""
    yield f"\n## Is a limit of {LIMIT:g} kept?\n"
    yield "Met on validation rows in every repair; on test rows, by the interval of what was paid:\n"
    yield "| model | method | repairs | confirmed | not confirmed | exceeded | paid more than the limit | median paid |"
    yield "| --- " * 8 + "|"
    for (model, method), paid in found.limits.items():
        confirmed = sum(one.high <= LIMIT for one in paid)
        exceeded = sum(one.low > LIMIT for one in paid)
        more = sum(one.value > LIMIT for one in paid)
        counts = (len(paid), confirmed, len(paid) - confirmed - exceeded, exceeded, more)
        middle = f"{median(one.value for one in paid):.3f}"
        yield f"| {model} | {method} | {' | '.join(map(str, counts))} | {middle} |"


def details(found: Found) -> Iterator[str]:
    """One row a place and method, with intervals over seeds."""
    for question in SHOWN:
        yield f"\n## {question}\n"
        yield "| pair | model | kind | lr | seeds | forgotten | method | paid | regained | more than the line at that price | above 0 in |"
        yield "| --- " * 11 + "|"
        for place, lost in found.forgotten.items():
            model, kind, rate, transition = place
            for method in SETTINGS.granularity:
                if (place, method, question) not in found.answers:
                    continue
                rows = found.answers[place, method, question]
                shown = sum(Estimate.of(row, "more_regained").is_positive for row in rows)
                figures = (
                    told(found.over(place, method, question, name))
                    for name in ("paid", "regained", "more_regained")
                )
                yield (
                    f"| {transition} | {model} | {kind} | {rate:g} | {len(lost)} | {over_seeds(lost).value:.2f} | {method} | "
                    f"{' | '.join(figures)} | {shown} of {len(rows)} |"
                )


HEAD = f"""# Fronts of repair on real tiny models

Written by `benchmarks/trials/repair_fronts.py` from the pairs of `benchmarks/trials/repair_pairs.py`; every figure is on test
rows that chose nothing, and held out from training. Search: {SETTINGS.rows} validation and {SETTINGS.reported_rows} test rows a
task of at most {SETTINGS.length} tokens (stories3M: 12 validation rows, 64 tokens), {SETTINGS.folds} folds, at
most {SETTINGS.evaluations} evaluations a point. Intervals over seeds are Student's (the rows are the same for all seeds).

*lose ≤ {LIMIT:g}*: the point that may lose at most {LIMIT:g} nats of what was learned, on validation rows; *rate 1*: a nat of the old is
worth a nat of the new; *regained* and *paid* are against the model after. *More than the line*: at the price that the point pays
on the test rows, what it regains minus what one global coefficient regains for it (dense line of 21 models, see docs/repair.md).
Pairs that had forgotten nothing are left out. Components alone were searched: no replay fine-tune, and no layers, heads, tensors or singular directions. Six evaluations bound what is
found: where the advantage is 0.000 the search ended on the line itself.
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
    parser.add_argument("--write", action="store_true", help="sum up into docs/repair_fronts.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    every = tasks()
    for case in cases(arguments.models, arguments.kinds, arguments.seeds):
        for transition in arguments.transitions:
            run(case, transition, arguments.pairs, arguments.out, every)
    found = Found(arguments.out)
    text = "\n".join((HEAD, *summary(found), *limits(found), *details(found))) + "\n"
    if arguments.write:
        (CHECKOUT / "docs" / "repair_fronts.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
