"""What a circuit study starts from: the checkpoints it scores, the rows of its tasks, and which cells these make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from crosstune.circuits.samples import Samples, check_length, choose_samples
from crosstune.foundation.data import Row, read_rows
from crosstune.foundation.errors import DataError, SettingsError, renamed
from crosstune.foundation.models import HeadMap, check_finite
from crosstune.foundation.records import Run
from crosstune.studies.circuits.settings import CircuitStudySettings, names_of
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel

_FEW = 2  # times `min_samples` below which intervals and reliabilities are worth little
_STAGE = "stage finished"  # the event of a conflict run after which the model of a stage is there


@dataclass(frozen=True)
class Checkpoint:
    """A state of the model.

    Attributes:
        name: What tables call it.
        place: Its folder or hub id.
    """

    name: str
    place: str


@dataclass(frozen=True)
class CellKey:
    """Which cell of the study this is.

    Attributes:
        name: The cell's name.
        checkpoint: The state of the model.
        task_a: The task whose Fisher normalises pair scores.
        task_b: The other one.
    """

    name: str
    checkpoint: Checkpoint
    task_a: str
    task_b: str

    @property
    def pair(self) -> str:
        """The tasks, as settings name them."""
        return f"{self.task_a}:{self.task_b}"


class Prepared(Procedure[CircuitStudySettings]):
    """The part of the study that its cells and its plan use.

    Attributes:
        checkpoints: The states of the model, in order.
        rows: The rows of each task.
        layers: How many layers are measured at each state.
        keys: Every cell, checkpoint by checkpoint; the number in front of a name keeps them apart.
    """

    opened: Any
    """The checkpoint that is in memory now."""

    def prepare(self) -> Sequence[str]:
        """Find the checkpoints and read the tasks."""
        settings = self.settings
        self.checkpoints = _checkpoints(settings)
        measured = settings.measurement.layers
        config = self.start(self.checkpoints[0]).config
        self.layers = int(config.num_hidden_layers) if measured is None else len(measured)
        self.rows = {task.name: read_rows(task, task.source, task.split) for task in settings.tasks}
        pairs = [(one, pair) for one in self.checkpoints for pair in settings.task_pairs]
        self.keys = tuple(
            CellKey(f"{at:02d}-{one.name[:50]}-{a[:20]}-{b[:20]}".rstrip("."), one, a, b)
            for at, (one, (a, b)) in enumerate(pairs)
        )
        _check_enough(settings, self.rows)
        return _warnings(settings, self.rows)

    @property
    def cell_names(self) -> tuple[str, ...]:
        """Each pair of tasks at each checkpoint."""
        return tuple(key.name for key in self.keys)

    def key(self, name: str) -> CellKey:
        """The cell of a name."""
        return next(key for key in self.keys if key.name == name)

    @property
    def samples(self) -> int:
        """The samples of the smallest task."""
        return min(self.settings.measurement.rows, *(len(rows) for rows in self.rows.values()))

    def start(self, checkpoint: Checkpoint) -> StartModel:
        """A checkpoint; an adapter lies on its base, unmerged, and is measured by its effective weights."""
        return StartModel(self.settings, "model", checkpoint.place)

    def heads_of(self, model: Any) -> HeadMap:
        """The heads of a model on which the measurement is possible.

        Returns:
            They; a layer, head or length that the model has not is told as the settings name it.
        """
        measured = self.settings.measurement
        check_finite(model)
        with ExitStack() as words:
            for name in ("layers", "heads", "length"):
                words.enter_context(renamed(name, f"measurement.{name}"))
            check_length(model, measured)
            heads = HeadMap.of(model)
            measured.check_places(heads)
        return heads

    def samples_of(self, task_a: str, task_b: str, tokenizer: Any) -> tuple[Samples, Samples]:
        """The samples of two tasks that are held against each other; those of a task are the same in all its pairs."""
        rows = self.rows[task_a], self.rows[task_b]
        with renamed("task_a", f"tasks[{task_a!r}]"), renamed("task_b", f"tasks[{task_b!r}]"):
            return choose_samples(*rows, tokenizer, self.settings.measurement)


def _checkpoints(settings: CircuitStudySettings) -> tuple[Checkpoint, ...]:
    if settings.conflict is not None:
        return _of_conflict(settings, Path(settings.conflict))
    places = [StartModel(settings, "model", place).place for place in settings.places]
    named = zip(names_of(settings.places), places, strict=True)
    return tuple(Checkpoint(name, place) for name, place in named)


def _of_conflict(settings: CircuitStudySettings, folder: Path) -> tuple[Checkpoint, ...]:
    """The model before the first stage of a conflict run, and after each."""
    with renamed(str(folder), "conflict"):
        run = Run.open(folder)
    if run.kind != "conflict":
        raise SettingsError(
            "conflict",
            law="must be the run folder of a study `conflict`",
            found=f"a run of kind {run.kind!r}",
            remedy="`crosstune list` names the runs under a folder.",
        )
    learned = yaml.safe_load(run.settings_yaml)
    finished = {cell.folder.name: cell for cell in run.cells() if cell.finished}
    asked = settings.conflict_seed
    seeds = learned["seeds"] if asked is None else [asked]
    cells = [finished[name] for name in (f"seed-{seed}" for seed in seeds) if name in finished]
    if not cells:
        raise SettingsError(
            "conflict_seed" if asked is not None else "conflict",
            law=f"must name a finished cell of {folder}",
            found=", ".join(finished) or "no finished cell",
            remedy="Finish that run, or name another of its seeds.",
        )
    stages = [str(event["stage"]) for event in cells[0].events(_STAGE)]
    return (
        Checkpoint("0-base", StartModel(settings, "model", learned["model"]).place),
        *(Checkpoint(stage, str(cells[0].checkpoints / stage / "model")) for stage in stages),
    )


def _check_enough(settings: CircuitStudySettings, rows: Mapping[str, Sequence[Row]]) -> None:
    least = settings.measurement.min_samples
    asked = settings.measurement.rows
    if asked < least:
        raise SettingsError(
            "measurement.rows",
            law=f"must be at least min_samples ({least})",
            found=asked,
            remedy="Raise `rows`, or lower `min_samples` if a Fisher of fewer samples will do.",
        )
    short = [f"{name} has {len(own)}" for name, own in rows.items() if len(own) < least]
    if short:
        raise DataError(
            "tasks",
            law=f"must have at least min_samples ({least}) rows",
            found=", ".join(short),
            remedy="Give the task more rows, or lower `measurement.min_samples`.",
        )


def _warnings(settings: CircuitStudySettings, rows: Mapping[str, Sequence[Row]]) -> list[str]:
    asked, least = settings.measurement.rows, settings.measurement.min_samples
    found = [
        f"Task {name} has {len(own)} rows of the {asked} that were asked for."
        for name, own in rows.items()
        if len(own) < asked
    ]
    if min(asked, *(len(own) for own in rows.values())) < _FEW * least:
        found.append(
            f"With fewer than {_FEW * least} rows a task, intervals are wide and reliabilities say little."
        )
    if settings.ablate and min(asked, *(len(own) for own in rows.values())) < 2 * least:
        found.append(
            f"The ablation leaves out the held-out Fisher: half of the samples are fewer than min_samples ({least})."
        )
    if settings.measurement.blind:
        found.append(
            f"`measurement.averages: {settings.measurement.averages}` makes the average of the directional score over a "
            "task blind to that task: it is ‖g_j‖₁ of the other one's samples. `pooled` is not."
        )
    return found
