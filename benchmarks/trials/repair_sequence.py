"""What repair between stages changes: `python benchmarks/trials/repair_sequence.py OUT [--write]` learns English, Bengali, Arabic twice.

The real tiny model learns the three languages one after another, once as it is and once repaired at the end of every
stage, at two learning rates and five seeds, on the same rows in the same order. A run that is there is gone on with,
and a finished one is only read. `--write` sums up over seeds into docs/repair_sequence.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch

from crosstune.foundation.data import TaskSettings
from crosstune.foundation.records import Run, Table
from crosstune.foundation.training import TrainingSettings
from crosstune.interference import BlockSettings, LedgerSettings
from crosstune.merging import StageRepairSettings
from crosstune.studies import find_study
from crosstune.studies.conflict.retention import measurements
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.over_seeds import mean_over_seeds

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
LANGUAGES = ("en", "bn", "ar")
RATES = (1e-3, 2e-4)
SEEDS = (0, 42, 123, 456, 789)
ARMS = ("without", "with")
REPAIR = StageRepairSettings(rows=24, folds=2, penalties=(0.0, 0.1), evaluations=12)
SIDES = {"train": "retention (train rows)", "test": "capability (held-out rows)"}

Values = dict[tuple[str, ...], dict[int, float]]


def settings(
    out: Path, rate: float, arm: str, seeds: Sequence[int], steps: int
) -> ConflictSettings:
    """The study of one learning rate, with or without repair; the tasks are those of recipes/real-tiny.yaml."""
    return ConflictSettings(
        output=str(out / f"{rate:g}-{steps}-{arm}"),
        model=str(SHARED / "models" / "stories260K"),
        tasks=tuple(
            TaskSettings(
                name=name, source=str(SHARED / f"data/languages/{name}.jsonl"), group="doc"
            )
            for name in LANGUAGES
        ),
        seeds=tuple(seeds),
        evaluation_rows=100,
        windows=True,
        training=TrainingSettings(learning_rate=rate, steps=steps, batch_rows=16, length=128),
        # The account is not read here: one chord a stage, and no tolerance that could stop the run.
        blocks=BlockSettings(blocks=2, rows_per_block=1),
        ledger=LedgerSettings(every=steps, absolute=1e3, track=False),
        probe=None,
        rollback="none",
        repair=REPAIR if arm == "with" else None,
    )


def run(chosen: ConflictSettings) -> Run:
    """The finished study; what of it is there is not run again."""
    folder = Path(chosen.output)
    if (folder / "run.json").exists():
        there = Run.open(folder)
        done = {cell.folder.name for cell in there.cells() if cell.finished}
        if there.finished and done >= {f"seed-{seed}" for seed in chosen.seeds}:
            return there
    began = time.perf_counter()
    finished = find_study("conflict").run(chosen, partial(_tell, folder.name))
    print(f"{folder.name}: {time.perf_counter() - began:.0f} s", flush=True)
    return finished


def _tell(name: str, progress: object) -> None:
    doing = progress.doing  # type: ignore[attr-defined]
    if doing.endswith((": repairing", " finished")):
        print(f"{time.strftime('%X')} {name} {progress.cell}: {doing}", flush=True)  # type: ignore[attr-defined]


# ---- summing up ------------------------------------------------------------------------------------


def losses(scores: Table, seeds: Sequence[int]) -> Values:
    """Stage, task and side → nats per token of each seed."""
    found: Values = {}
    for row in scores.rows():
        if row["seed"] in seeds:
            found.setdefault((row["stage"], row["task"], row["side"]), {})[row["seed"]] = row[
                "nats"
            ]
    return found


def summaries(scores: Table, stages: Sequence[str], seeds: Sequence[int]) -> Values:
    """ACC, BWT and forgetting in nats per token of each seed, on both sides."""
    found: Values = {}
    for seed in seeds:
        for one in measurements(scores.where(seed=seed), stages):
            if one.name.endswith("(nats)"):
                found.setdefault((one.name.removesuffix(" (nats)"),), {})[seed] = one.value
    return found


def figure(values: Mapping[int, float], signed: bool = False) -> str:
    """Mean and 95 % t-interval over seeds; one seed has a value alone."""
    mean = mean_over_seeds(list(values.values()))
    sign = "+" if signed else ""
    if len(values) == 1:
        return f"{mean.value:{sign}.3f}"
    return f"{mean.value:{sign}.3f} [{mean.low:{sign}.3f}, {mean.high:{sign}.3f}]"


def cells(without: Mapping[int, float], repaired: Mapping[int, float]) -> str:
    """Both arms and their paired difference."""
    paired = {seed: repaired[seed] - without[seed] for seed in without}
    return f"{figure(without)} | {figure(repaired)} | {figure(paired, signed=True)}"


def summary(runs: Mapping[str, Run], seeds: Sequence[int]) -> Iterator[str]:
    """One learning rate as Markdown tables."""
    stages = tuple(f"{number}-{name}" for number, name in enumerate(LANGUAGES, start=1))
    scores = {arm: runs[arm].table("scores") for arm in ARMS}
    nats = {arm: losses(scores[arm], seeds) for arm in ARMS}
    for side, words in SIDES.items():
        yield f"\n{words.capitalize()}, nats per token:\n"
        yield "| after | language | without | with repair | with − without |\n| --- | --- | --- | --- | --- |"
        for stage, task in product(("0-base", *stages), LANGUAGES):
            key = (stage, task, side)
            yield f"| {stage} | {task} | {cells(nats['without'][key], nats['with'][key])} |"
    yield "\nOver the sequence, nats per token (ACC is a mean loss: lower is better; BWT: higher is better):\n"
    yield "| figure | without | with repair | with − without |\n| --- | --- | --- | --- |"
    whole = {arm: summaries(scores[arm], stages, seeds) for arm in ARMS}
    for key, values in whole["without"].items():
        yield f"| {key[0]} | {cells(values, whole['with'][key])} |"
    yield from trades(runs["with"].table("stage_repair_trade"), seeds)


def trades(table: Table, seeds: Sequence[int]) -> Iterator[str]:
    """What each repair gave back and cost on held-out rows, against the model as trained in the same arm."""
    yield "\nThe repairs themselves, held-out nats per token:\n"
    yield "| stage | language | as trained | repaired | repaired − trained |\n| --- | --- | --- | --- | --- |"
    found: dict[tuple[str, str], tuple[dict[int, float], dict[int, float]]] = {}
    for row in table.where(side="test").rows():
        if row["seed"] in seeds:
            pair = found.setdefault((row["stage"], row["task"]), ({}, {}))
            pair[0][row["seed"]], pair[1][row["seed"]] = row["trained"], row["repaired"]
    for (stage, task), pair in found.items():
        yield f"| {stage} | {task} | {cells(*pair)} |"


def head(seeds: Sequence[int], steps: int) -> str:
    """What the page stands on."""
    return f"""# A sequence of languages with and without repair

Written by `benchmarks/trials/repair_sequence.py`. stories260K learns {" → ".join(LANGUAGES)} (parallel news sentences, split by
article), {steps} steps of 16 windows of 128 tokens a stage; seeds {", ".join(map(str, seeds))} change the order of the
training rows. *With repair*, the model at the end of every stage but the first is moved to the best trade between its
weights before and after the stage ({REPAIR.granularity}, a nat of the old is worth {REPAIR.exchange_rate:g} of the new), chosen
on {REPAIR.rows} training rows of each language learned so far, and the next stage goes on from there: both arms learn the
same rows in the same order, but the repaired one keeps and reads these few rows of earlier languages, which the other
arm does not have. Mean and 95 % t-interval over seeds; differences are paired by seed. Rows are the same for all seeds.
The tokenizer spells Bengali and Arabic in bytes, so nats per token do not compare languages.
"""


def main() -> None:
    """Run what is asked for and not there yet, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--write", action="store_true", help="sum up into docs/repair_sequence.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = [head(arguments.seeds, arguments.steps)]
    for rate in arguments.rates:
        runs = {
            arm: run(settings(arguments.out, rate, arm, arguments.seeds, arguments.steps))
            for arm in ARMS
        }
        parts += [f"\n## Learning rate {rate:g}", *summary(runs, arguments.seeds)]
    text = "\n".join(parts) + "\n"
    if arguments.write:
        (CHECKOUT / "docs" / "repair_sequence.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
