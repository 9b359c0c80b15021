"""The settings of a circuit study. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import PurePath
from typing import ClassVar, Literal

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.settings.options import at_least
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame.settings import StudySettings, require

_TOY_TASKS = (
    TaskSettings(name="en", source="toy:latin-svo", rows=400),
    TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=400),
)
_SAVED_AS = "model"  # the folder in which a study saves the model of a stage


@dataclass(frozen=True)
class CircuitStudySettings(StudySettings):
    """Score how samples of two tasks interfere in the Q, K, V and O blocks of every attention head."""

    output: str = "runs/circuits"
    """The run folder. A run that was stopped goes on in it."""
    model: str = EMBEDDED
    """A folder with a model or LoRA adapter, a hub id, or `embedded`: a tiny model pretrained here on first use."""
    checkpoints: tuple[str, ...] = ()
    """Further checkpoints of the same model (folders, hub ids, adapters), laid side by side with it."""
    conflict: str | None = None
    """The run folder of a study `conflict`: its model before and after each stage are the checkpoints."""
    conflict_seed: int | None = None
    """Which seed of that run; none takes its first finished one."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Type of the weights in memory; `auto` keeps that of the files. See also `measurement.precision`."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """The tasks; each is captured once, whatever it is held against."""
    pairs: tuple[str, ...] = ()
    """Pairs of tasks as `A:B`; A's Fisher normalises pair scores, so `en:bn` is not `bn:en`. Empty: each pair once, as listed."""
    measurement: CircuitSettings = field(default_factory=CircuitSettings)
    """Which scores, of which layers and heads, on how many rows, within what memory."""
    ablate: bool = False
    """Whether all pair scores are compared with each other, block by block: do pooling and sign matter here?"""
    top_pairs: int = 5
    """Pairs of samples of a head that are listed with their texts, for the heads of which the most is shown."""
    factors: str | None = None
    """Where captured factors are kept, for other runs to ask other questions; none keeps them in the run folder."""
    keep_factors: bool = True
    """Whether factors in the run folder stay when the run has finished."""

    COMMON: ClassVar = (
        *("output", "model", "checkpoints", "conflict", "tasks", "pairs", "device"),
        *("measurement.rows", "measurement.length", "measurement.variants"),
    )
    NO_NUMBERS: ClassVar = (*StudySettings.NO_NUMBERS, "factors", "keep_factors")

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        names = self.task_names
        require(len(names) >= 2, "tasks", "must be at least two", len(names))
        self._check_models()
        at_least("top_pairs", self.top_pairs, 1)
        rows, least = self.measurement.rows, self.measurement.min_samples
        law = f"must be at least min_samples ({least})"
        require(rows >= least, "measurement.rows", law, rows)
        for pair in self.pairs:
            a, _, b = pair.partition(":")
            law = f"must be two different tasks as A:B, of {', '.join(names)}"
            require(a in names and b in names and a != b, "pairs", law, repr(pair))
        require(len(set(self.pairs)) == len(self.pairs), "pairs", "must differ", self.pairs)

    def _check_models(self) -> None:
        if self.conflict is None:
            require(
                self.conflict_seed is None, "conflict_seed", "needs `conflict`", self.conflict_seed
            )
            twice = [one for one in self.places if self.places.count(one) > 1]
            require(not twice, "checkpoints", "must differ, and from `model`", ", ".join(twice))
            return
        law = "must be left out beside `conflict`, whose run names the models"
        require(self.model == EMBEDDED, "model", law, self.model)
        require(not self.checkpoints, "checkpoints", law, ", ".join(self.checkpoints))

    @property
    def task_pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of tasks, A first."""
        if not self.pairs:
            return tuple(combinations(self.task_names, 2))
        return tuple((a, b) for a, _, b in (pair.partition(":") for pair in self.pairs))

    @property
    def places(self) -> tuple[str, ...]:
        """The model and its further checkpoints, as they were named; those of a conflict run are found there."""
        return (self.model, *self.checkpoints)


def names_of(places: Sequence[str]) -> tuple[str, ...]:
    """Short names of checkpoints: the last part of each that says something, numbered where there are several."""
    found = []
    for at, place in enumerate(places):
        parts = [part for part in PurePath(place).parts if part not in ("/", _SAVED_AS)]
        name = "".join(c if c.isalnum() or c in "._+-" else "-" for c in (parts or ["model"])[-1])
        name = name.encode("ascii", "ignore").decode().strip(".-_")[:60] or "model"
        found.append(name if len(places) == 1 else f"{at}-{name}")
    return tuple(found)
