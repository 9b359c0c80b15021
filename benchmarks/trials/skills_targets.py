"""The plan's targets beside what came out: `python benchmarks/trials/skills_targets.py RUN` reads a finished run of recipes/skills-real-tiny.yaml.

The targets are those of the first attempt at experts born by novelty (Gemma 3 270M, MPS). One arm of one seed is run again
with packed rows, into a folder beside the run's. Steps a second depend on model and machine: only their ratio says something.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.studies import find_study
from crosstune.studies.skills.settings import SkillStudySettings

ARM, SKILL = "prefix", "code"
PLAN = {
    "MBPP validation loss less that of the model alone": ("−.0078", "−.03", "−.05"),
    "experts created": ("1", "2–3", "4"),
    "steps a second": (".232", ".35", ".45"),
    "trainable parameters": (".085 %", ".12 %", ".18 %"),
    "padding": ("> 40 %", "< 20 %", "< 10 %"),
}


def rows(run: Run, table: str) -> list[dict[str, Any]]:
    """Those of the arm."""
    return run.table(table).where(arm=ARM).rows()


def took(run: Run) -> dict[str, float]:
    """What a stage took, mean over skills."""
    return {row["what"]: row["value"] for row in rows(run, "took")}


def won(run: Run) -> list[float]:
    """What MBPP costs at the end of the stream less what it cost the model alone, of each seed and order."""
    losses, found = rows(run, "losses"), []
    for birth in rows(run, "births"):
        if birth["arrived"] == SKILL and birth["is_new"]:
            own = [
                row
                for row in losses
                if row["skill"] == SKILL
                if (row["seed"], row["order"]) == (birth["seed"], birth["order"])
            ]
            then = next(row for row in own if row["stage"] == birth["stage"])
            last = max(own, key=lambda row: row["stage"])
            found.append(last["loss"] - then["known"] - birth["gain"])
    return found


def table(run: Run, packed: Run) -> Iterator[str]:
    """The targets as Markdown."""
    deltas, births = won(run), [row for row in rows(run, "births") if row["is_new"]]
    born, plain, side = sum(row["born"] for row in births), took(run), took(packed)
    ours = (
        f"{sum(deltas) / len(deltas):.2f} (worst of {len(deltas)}: {max(deltas):.2f})",
        f"{born} for {len(births)} new skills in {len(deltas)} streams",
        f"{plain['steps_per_second']:.2f}; packed {side['steps_per_second']:.2f} "
        f"with {side['tokens_per_second'] / plain['tokens_per_second']:.2f} times the tokens a second",
        f"{plain['trainable_share']:.1%}",
        f"{plain['padding']:.1%}; packed {side['padding']:.1%}",
    )
    yield "| | first attempt | target | stretch | here |\n| --- | ---: | ---: | ---: | --- |"
    for (name, plan), here in zip(PLAN.items(), ours, strict=True):
        yield f"| {name} | {' | '.join(plan)} | {here} |"


def main() -> None:
    """Read the run, run what is missing, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    folder = parser.parse_args().run
    settings = from_yaml(SkillStudySettings, (folder / "settings.yaml").read_text("utf-8"))
    learning = replace(settings.learning, training=replace(settings.training, packing=True))
    chosen = replace(
        settings,
        output=f"{folder}-packed",
        arms=(ARM,),
        seeds=settings.seeds[:1],
        orders=1,
        learning=learning,
    )
    packed = find_study("skills").run(chosen, lambda progress: None)
    print("\n".join(table(Run.open(folder), packed)))


if __name__ == "__main__":
    main()
