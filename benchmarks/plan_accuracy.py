"""Do `crosstune plan conflict` and the estimate of circuits say what a run will cost? Plan and run side by side, in turns.

    python benchmarks/plan_accuracy.py [--whole] [--config recipes/quickstart.yaml] [--rounds 3] [--threads 1]

Each round plans and then runs one seed of the recipe, in one process, so that a machine that slows down slows down both.
So does each round of circuits, on stories3M (where `../shared` is beside the checkout) and, in the whole run, in the shape of GPT-2 small.
The ratio of a line is predicted over measured; the aim is 0.7 to 1.3. `--whole` writes docs/plan_accuracy.md.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from peers.command import CHECKOUT, markdown, publish, spread, timed_command
from peers.ours import captured
from peers.race import peak_gib
from peers.scene import SceneSettings, build

from crosstune.circuits.api import score_factors
from crosstune.circuits.forecast import estimate
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.studies import Plan, Progress, find_study
from crosstune.studies.conflict.settings import ConflictSettings

QUICK = (SceneSettings("stories3M", 16, 16),)
WHOLE = (
    SceneSettings("stories3M", 64, 64),
    SceneSettings("gpt2-small", 8, 8, layers=3),
)
HEADS = ("what (in seconds, unless said)", "predicted", "measured", "predicted / measured")


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
        # What the wall-clock holds besides is the probe.
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
    planned = estimate(scene.model, *scene.counts, settings.length, scene.settings)
    began = time.perf_counter()
    a, b = captured(scene, "a"), captured(scene, "b")
    between = time.perf_counter()
    score_factors(a, b, scene.settings)
    ended = time.perf_counter()
    lines = [
        ("capturing", planned.capture_seconds, between - began),
        ("scoring", planned.score_seconds, ended - between),
        ("peak memory beside the model (GiB)", planned.memory_gib, peak_gib(settings, "ours")),
    ]
    return [(f"circuits, {settings.model}: {name}", *figures) for name, *figures in lines]


def main() -> None:
    """Run the rounds and print the table."""
    parser = timed_command(__doc__)
    parser.add_argument("--config", type=Path, default=CHECKOUT / "recipes" / "quickstart.yaml")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = from_yaml(ConflictSettings, options.config)
    # Evaluations on held-out rows are a cost of training, not of the instruments: leave them out of the comparison.
    training = replace(settings.training, evaluate_every=0, checkpoint_every=0)
    settings = replace(settings, seeds=settings.seeds[:1], workers=1, training=training)
    scenes = WHOLE if options.whole else QUICK
    count = options.rounds or (3 if options.whole else 2)
    rounds = [
        [*one_round(settings), *(line for scene in scenes for line in circuits_round(scene))]
        for _ in range(count)
    ]
    rows = [
        [
            lines[0][0],
            f"{statistics.median(planned for _, planned, _ in lines):.4g}",
            f"{statistics.median(found for _, _, found in lines):.4g}",
            spread([planned / found for _, planned, found in lines]),
        ]
        for lines in zip(*rounds, strict=True)
    ]
    text = (
        f"# Plan against run\n\n`{options.config.name}`, one seed, and circuits; {count} rounds, "
        f"{options.threads} thread; made by benchmarks/plan_accuracy.py.\n\n{markdown(HEADS, rows)}\n"
    )
    publish(text, "plan_accuracy.md", whole=options.whole)


if __name__ == "__main__":
    main()
