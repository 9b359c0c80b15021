"""The settings of a study of skills. No torch here: the command line reads its help from this file."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from crosstune.experts.settings import SkillsSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.settings.options import at_least
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame.settings import SeededSettings, require

Arm = Literal[
    "prefix", "learned", "learned+replay", "learned+mean+replay", "sequential", "sequential+replay"
]
ROUTERS: dict[str, dict[str, Any]] = {
    "prefix": {"kind": "prefix"},
    "learned": {"kind": "learned", "reads": "state", "routing": 0.0},
    "learned+replay": {"kind": "learned", "reads": "state"},
    "learned+mean+replay": {"kind": "learned", "reads": "prefix"},
    "sequential": {},
    "sequential+replay": {},
}
"""The arms, and how each routes; the sequential ones have one adapter of as many stored parameters as all experts."""
KNOWN_ID = "separate"
"""The experts of the arm `prefix`, each asked for its own skill alone: what no router can beat."""

_TOY_TASKS = (
    TaskSettings(name="en", source="toy:latin-svo", rows=660),
    TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=660),
    TaskSettings(name="ar", source="toy:arabic-vso-0.3", rows=660),
)
_LEARNING = SkillsSettings(
    replay=64, training=TrainingSettings(learning_rate=3e-3, steps=60, batch_rows=8, length=64)
)


@dataclass(frozen=True)
class SkillStudySettings(SeededSettings):
    """Skills arrive one after another: what is new gets an expert, and it is measured what was forgotten and by whom."""

    output: str = "runs/skills"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    model: str = EMBEDDED
    """A folder with a Hugging Face model, a hub id, or `embedded`: a tiny model pretrained here on first use."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """The skills."""
    known: str | None = "en"
    """The skill that the model has already, and goes on answering itself."""
    repeats: tuple[str, ...] = ("bn",)
    """Skills that come a second time, at the end, with half of their rows."""
    orders: int = 1
    """Orders of arrival: the first as listed, the others drawn by `data_seed`."""
    arms: tuple[Arm, ...] = ("prefix", "sequential", "sequential+replay")
    """What is compared; the first is what findings are about. `prefix` brings `separate`, its experts asked by name."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One cell each and order. A seed changes the experts' first factors and the order of rows; never the rows."""
    test_share: float = 0.2
    """Share of the rows held out, by group across all tasks."""
    samples: int | None = None
    """At most so many training rows a task; none takes all."""
    evaluation_rows: int = 60
    """Held-out rows a skill; of a long row one window, anywhere in it."""
    learning: SkillsSettings = _LEARNING
    """How skills are learned; an arm decides how it routes, and whether it replays."""

    COMMON: ClassVar = (
        *("output", "model", "tasks", "known", "repeats", "orders", "arms", "seeds", "device"),
        *("learning.rank", "learning.replay", "learning.training.steps"),
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        names, law = self.task_names, f"must name tasks ({', '.join(self.task_names)})"
        if self.known is not None:
            require(self.known in names, "known", law, self.known)
        require(len(self.new) >= 2, "tasks", "must have two skills that are not known", self.new)
        odd = [name for name in self.repeats if name not in self.new]
        require(not odd, "repeats", f"must name skills to learn ({', '.join(self.new)})", odd)
        require(len(set(self.repeats)) == len(self.repeats), "repeats", "must differ", self.repeats)
        require(len(self.arms) >= 1, "arms", "must be at least one", "none")
        require(len(set(self.arms)) == len(self.arms), "arms", "must differ", self.arms)
        at_least("orders", self.orders, 1)
        at_least("evaluation_rows", self.evaluation_rows, 2)
        replays = [arm for arm in self.arms if "replay" in arm]
        require(
            self.learning.replay > 0 or not replays,
            "learning.replay",
            f"must be above 0 for {', '.join(replays)}",
            0,
        )

    @property
    def training(self) -> TrainingSettings:
        """How one skill is learned."""
        return self.learning.training

    @property
    def new(self) -> tuple[str, ...]:
        """The skills to learn, as listed."""
        return tuple(name for name in self.task_names if name != self.known)

    def stream(self, order: int) -> tuple[str, ...]:
        """The skills in one order of arrival, the repeated ones again at the end."""
        found = list(self.new)
        if order:
            random.Random(f"{self.data_seed} {order}").shuffle(found)
        return (*found, *self.repeats)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """One for each seed and order."""
        return tuple(f"seed-{seed}-order-{at}" for seed in self.seeds for at in range(self.orders))

    def key(self, name: str) -> tuple[int, int]:
        """Seed and order of a cell."""
        _, seed, _, order = name.split("-")
        return int(seed), int(order)

    def of_cell(self, name: str) -> SkillStudySettings:
        """The settings of a seed alone."""
        return replace(self, seeds=(self.key(name)[0],))

    def of_arm(self, arm: str) -> SkillsSettings:
        """How an arm learns."""
        own = self.learning
        alone = arm.startswith("sequential")
        return replace(
            own,
            rank=own.rank * len(self.new) if alone else own.rank,
            sequential=alone,
            replay=own.replay if arm.endswith("replay") else 0,
            router=replace(own.router, **ROUTERS[arm]),
        )
