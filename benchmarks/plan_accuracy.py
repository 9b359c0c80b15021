"""Do `crosstune plan conflict` and the estimate of circuits say what a run will cost? Plan and run side by side, in turns.

    python benchmarks/plan_accuracy.py [--config recipes/quickstart.yaml] [--rounds 3] [--threads 1] [--write]

Each round plans and then runs one seed of the recipe, in one process, so that a machine that slows down slows down both.
So does each round of circuits, on stories3M (where `../shared` is beside the checkout) and in the shape of GPT-2 small.
The ratio of a line is predicted over measured; the aim is 0.7 to 1.3. `--write` keeps the table in docs/plan_accuracy.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from peers.ours import captured
from peers.race import peak_gib
from peers.scene import SceneSettings, build

from crosstune.circuits.api import score_factors
from crosstune.circuits.forecast import estimate
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.settings import from_yaml
from crosstune.studies import Plan, Progress, find_study
from crosstune.studies.conflict.settings import ConflictSettings

CHECKOUT = Path(__file__).resolve().parents[1]
SCENES = (
    SceneSettings("stories3M", 64, 64),
    SceneSettings("gpt2-small", 8, 8, layers=3),
)
COLUMNS = (
    Column.axis("what"),
    Column.value("predicted", unit="s", about="Median of the rounds."),
    Column.value("measured", unit="s", about="Median of the rounds."),
    Column.value("ratio", about="Median over rounds of predicted / measured."),
)


def quiet(progress: Progress) -> None:
    """Nobody is told."""


def predicted(plan: Plan) -> dict[str, float]:
    """The plan's figures that a run can be held against."""
    seconds = {name: plan.value(f"  {name}") for name in ("training", "forgetting ledger")}
    seconds["conflict probe"] = plan.value("  conflict probe")
    seconds["training with instruments"] = sum(seconds.values())
    return {**seconds, "peak memory (GiB)": plan.value("peak memory")}


def measured(run: Run) -> dict[str, float]:
    """The same figures of a finished run of one seed."""
    cost = run.table("cost")

    def total(what: str) -> float:
        return float(sum(cost.where(what=what).column("value")))

    ledger = float(sum(run.table("forgetting_segments").column("seconds")))
    wall, training = total("wall-clock"), total("training alone")
    return {
        "training": training,
        "forgetting ledger": ledger,
        # What the wall-clock holds besides is the probe, and the looks at the held-out rows.
        "conflict probe": wall - training - ledger,
        "training with instruments": wall,
        "peak memory (GiB)": max(cost.where(what="peak memory").column("value")),
    }


def one_round(settings: ConflictSettings) -> list[tuple[str, float, float]]:
    """Plan, run, compare."""
    study = find_study("conflict")
    planned = predicted(study.plan(settings))
    with tempfile.TemporaryDirectory() as folder:
        run = study.run(replace(settings, output=str(Path(folder) / "run")), quiet)
        found = measured(run)
    return [(name, planned[name], found[name]) for name in planned]


def circuits_round(settings: SceneSettings) -> list[tuple[str, float, float]]:
    """Estimate, capture, score, compare."""
    scene = build(settings)
    told = estimate(scene.model, *scene.counts, settings.length, scene.settings)
    began = time.perf_counter()
    a, b = captured(scene, "a"), captured(scene, "b")
    between = time.perf_counter()
    score_factors(a, b, scene.settings)
    ended = time.perf_counter()
    lines = [
        ("capturing", told.capture_seconds, between - began),
        ("scoring", told.score_seconds, ended - between),
        ("peak memory beside the model (GiB)", told.memory_gib, peak_gib(settings, "ours")),
    ]
    return [(f"circuits, {settings.model}: {name}", *figures) for name, *figures in lines]


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default=str(CHECKOUT / "recipes" / "quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write", action="store_true", help="keep the table in docs/plan_accuracy.md"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    settings = from_yaml(ConflictSettings, Path(chosen.config))
    # Looks at held-out rows are a cost of training, not of the instruments: leave them out of the comparison.
    training = replace(settings.training, evaluate_every=0, checkpoint_every=0)
    settings = replace(settings, seeds=settings.seeds[:1], workers=1, training=training)
    rounds = [
        [*one_round(settings), *(line for scene in SCENES for line in circuits_round(scene))]
        for _ in range(chosen.rounds)
    ]
    rows = [
        {
            "what": lines[0][0],
            "predicted": statistics.median(line[1] for line in lines),
            "measured": statistics.median(line[2] for line in lines),
            "ratio": statistics.median(line[1] / line[2] for line in lines),
        }
        for lines in zip(*rounds, strict=True)
    ]
    text = Table("plan_accuracy", COLUMNS, rows).markdown()
    print(text)
    if chosen.write:
        head = f"# Plan against run\n\n`{Path(chosen.config).name}`, one seed, and circuits of two models; {chosen.rounds} rounds, "
        head += f"{chosen.threads} thread; made by benchmarks/plan_accuracy.py.\n\n"
        (CHECKOUT / "docs" / "plan_accuracy.md").write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    main()
