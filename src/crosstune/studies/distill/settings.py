"""The settings of a study of distillation. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from crosstune.distillation.settings import DistillationSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.settings.options import at_least
from crosstune.foundation.training.settings import StoppingSettings, TrainingSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame.settings import SeededSettings, require

_Alike = Literal["ce", "ce+best", "kd", "flat", "three-phase", "reversed", "flat+routing"]
Arm = Literal[_Alike, "spans", "spans+hidden"]
Beginning = Literal["piece", "given", "anew"]
_FEATURES = ("kd", "hidden", "attention")
TERMS: Mapping[Arm, tuple[str, ...]] = {
    "ce": ("ce",),
    "ce+best": ("ce",),
    "kd": ("kd",),
    "flat": _FEATURES,
    "three-phase": _FEATURES,
    "reversed": _FEATURES,
    "flat+routing": (*_FEATURES, "routing"),
    "spans": ("spans",),
    "spans+hidden": ("spans", "hidden"),
}
"""The terms of each arm."""
_CE = {"alphas": {"ce": 1.0}}
_OTHER: Mapping[Arm, Mapping[str, Any]] = {
    "ce": _CE,
    "ce+best": _CE,
    "three-phase": {"curriculum": "three-phase"},
    "reversed": {"curriculum": "reversed"},
}
_TOY_TASKS = (TaskSettings(name="en", source="toy:latin-svo", rows=800),)
_DISTILLATION = DistillationSettings(
    training=TrainingSettings(learning_rate=3e-3, steps=100, length=48, evaluate_every=25)
)


@dataclass(frozen=True)
class DistillStudySettings(SeededSettings):
    """A small model learns from a larger one, in several ways, and it is measured which of them pay."""

    output: str = "runs/distill"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    model: str = EMBEDDED
    """The teacher: a folder, a hub id, or `embedded`: a tiny one that knows the first toy language."""
    student: str = ""
    """Another pretrained model as the student, in place of a piece: a folder or hub id, which layers, width, heads and neurons leave as it is."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """The text that the student learns on, and, held out, is measured on."""
    layers: int = 2
    """Blocks of the student."""
    width: int | None = 32
    """Its features; none keeps the teacher's."""
    heads: int | None = 2
    """Its attention heads; none keeps the teacher's."""
    neurons: int | None = None
    """Its neurons a block; none keeps the teacher's."""
    beginnings: tuple[Beginning, ...] = ("piece", "anew")
    """What a student is before it learns: a piece of the teacher (or the student given), or drawn at random at the same shape."""
    arms: tuple[Arm, ...] = ("kd", "ce")
    """How it learns; with the first beginning the first of them is what findings are about."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One cell each. A seed changes what is drawn anew, projections and the order of rows; never the rows."""
    test_share: float = 0.2
    """Share of the rows held out, by group across all tasks."""
    evaluation_rows: int = 60
    """Held-out rows of each task."""
    cache: str = ""
    """A folder of `crosstune cache-teacher`, read for kd in place of the teacher."""
    distillation: DistillationSettings = _DISTILLATION
    """How students are trained; an arm decides the terms and their curriculum."""

    COMMON: ClassVar = (
        *("output", "model", "student", "tasks", "layers", "width", "heads", "beginnings", "arms"),
        *("seeds", "device", "distillation.training.steps", "distillation.temperature"),
    )

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        require(len(self.tasks) >= 1, "tasks", "must be at least one", "none")
        for name in ("arms", "beginnings"):
            given = getattr(self, name)
            require(0 < len(given) == len({*given}), name, "must be at least one, each once", given)
        own, other = ("given", "piece") if self.student else ("piece", "given")
        law = f"must be of {own} and anew where {'a' if self.student else 'no'} student is named"
        require(other not in self.beginnings, "beginnings", law, self.beginnings)
        at_least("layers", self.layers, 1)
        at_least("evaluation_rows", self.evaluation_rows, 2)
        deeper = [arm for arm in self.arms if self.cache and {*TERMS[arm]} - {"ce", "kd"}]
        require(not deeper, "arms", "must be ce, ce+best and kd with a cache", deeper)
        usual = DistillationSettings()
        decided = [
            n
            for n in ("output", "seed", "terms", "curriculum", "phases")
            if getattr(self.distillation, n) != getattr(usual, n)
        ]
        law = "must be left out: `arms`, `output` and `seeds` decide it"
        require(not decided, f"distillation.{''.join(decided[:1])}", law, decided)
        law = "must be above 0 for ce+best, which ends at its best evaluation"
        every = self.training.evaluate_every
        require(
            every > 0 or "ce+best" not in self.arms,
            "distillation.training.evaluate_every",
            law,
            every,
        )

    @property
    def training(self) -> TrainingSettings:
        """How one student is trained."""
        return self.distillation.training

    @property
    def students(self) -> tuple[tuple[str, Arm], ...]:
        """Every beginning with every arm."""
        return tuple((begin, arm) for begin in self.beginnings for arm in self.arms)

    def steps_of(self, arm: Arm, compute: float) -> int:
        """Optimizer steps of an arm: for ce+best as many as cost what learning from the teacher costs."""
        return round(self.training.steps * (compute if arm == "ce+best" else 1.0))

    def of_arm(self, arm: Arm, compute: float, watched: str) -> DistillationSettings:
        """How an arm trains, where a step with the teacher costs `compute` times one without; the best evaluation is that of `watched`."""
        training = replace(self.training, steps=self.steps_of(arm, compute))
        if arm == "ce+best":  # never stopped, but put back to where it was best
            stopping = StoppingSettings(metric=watched, patience=training.steps)
            training = replace(training, early_stopping=stopping)
        more = _OTHER.get(arm, {})
        alphas = {**self.distillation.alphas, **more.get("alphas", {})}
        chosen = {"terms": TERMS[arm], **more, "alphas": alphas, "training": training}
        return replace(self.distillation, **chosen)
