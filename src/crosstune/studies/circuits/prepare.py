"""What a circuit study starts from: the checkpoints it looks at, the rows of its tasks, and how a checkpoint is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from crosstune.circuits.api import check_places
from crosstune.circuits.samples import Samples, check_length, choose_samples
from crosstune.foundation.data import Row, read_rows
from crosstune.foundation.errors import DataError, SettingsError, renamed
from crosstune.foundation.models import (
    HeadMap,
    check_finite,
    load_model,
    load_tokenizer,
    read_config,
)
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.storage import read_json
from crosstune.studies.circuits.settings import CircuitStudySettings, names_of
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.models import find_device, find_model

_ADAPTER = "adapter_config.json"
_FEW = 2  # times `min_samples` below which intervals and reliabilities are worth little


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
class Bench:
    """What all cells of a study share.

    Attributes:
        settings: The study's settings.
        checkpoints: The states of the model, in order.
        rows: The rows of each task.
        layers: How many layers are measured at each state.
        warnings: Sentences that a user should read.
    """

    settings: CircuitStudySettings
    checkpoints: tuple[Checkpoint, ...]
    rows: dict[str, tuple[Row, ...]]
    layers: int
    warnings: tuple[str, ...]

    @property
    def samples(self) -> int:
        """The samples of the smallest task."""
        return min(self.settings.measurement.rows, *(len(rows) for rows in self.rows.values()))

    def open_model(self, checkpoint: Checkpoint) -> tuple[Any, Any]:
        """A checkpoint with its tokenizer.

        Args:
            checkpoint: One of the study's.

        Returns:
            Model and tokenizer; an adapter lies on its base, unmerged, and is measured by its effective weights.
        """
        settings = self.settings
        whole = _whole(checkpoint.place)
        remote = settings.trust_remote_code
        with renamed("path_or_id", "model"):
            model = load_model(
                whole,
                dtype=settings.dtype,
                device=find_device(settings.device),
                trust_remote_code=remote,
            )
            tokenizer = load_tokenizer(whole, trust_remote_code=remote)
        if whole != checkpoint.place:
            model = PeftModel.from_pretrained(model, checkpoint.place)
        return model, tokenizer

    def heads_of(self, model: Any) -> HeadMap:
        """The heads of a model on which the measurement is possible.

        Args:
            model: One of the checkpoints.

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
            check_places(heads, measured)
        return heads

    def samples_of(self, task_a: str, task_b: str, tokenizer: Any) -> tuple[Samples, Samples]:
        """The samples of two tasks that are held against each other; those of a task are the same in all its pairs.

        Args:
            task_a: A task.
            task_b: Another.
            tokenizer: Encodes the rows.

        Returns:
            The samples of both.
        """
        rows = self.rows[task_a], self.rows[task_b]
        with renamed("task_a", f"tasks[{task_a!r}]"), renamed("task_b", f"tasks[{task_b!r}]"):
            return choose_samples(*rows, tokenizer, self.settings.measurement)


def prepare(settings: CircuitStudySettings) -> Bench:
    """Find the checkpoints and read the tasks.

    Args:
        settings: The study's settings.

    Returns:
        What every cell starts from.
    """
    checkpoints = _checkpoints(settings)
    with renamed("path_or_id", "model"):
        config = read_config(
            _whole(checkpoints[0].place), trust_remote_code=settings.trust_remote_code
        )
    measured = settings.measurement.layers
    layers = int(config.num_hidden_layers) if measured is None else len(measured)
    rows = {task.name: read_rows(task, task.source, task.split) for task in settings.tasks}
    _check_enough(settings, rows)
    return Bench(settings, checkpoints, rows, layers, tuple(_warnings(settings, rows)))


def _checkpoints(settings: CircuitStudySettings) -> tuple[Checkpoint, ...]:
    if settings.conflict is not None:
        return _of_conflict(settings, Path(settings.conflict))
    places = [find_model(place) for place in settings.places]
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
    learned = from_yaml(ConflictSettings, run.settings_yaml + "\n")
    finished = {cell.folder.name: cell for cell in run.cells() if cell.finished}
    seeds = learned.seeds if settings.conflict_seed is None else (settings.conflict_seed,)
    cells = [finished[name] for name in (f"seed-{seed}" for seed in seeds) if name in finished]
    if not cells:
        raise SettingsError(
            "conflict_seed" if settings.conflict_seed is not None else "conflict",
            law=f"must name a finished cell of {folder}",
            found=", ".join(finished) or "no finished cell",
            remedy="Finish that run, or name another of its seeds.",
        )
    stages = [
        Checkpoint(stage, str(cells[0].checkpoints / stage / "model"))
        for stage in learned.stage_names
    ]
    return (Checkpoint("0-base", find_model(learned.model)), *stages)


def _whole(place: str) -> str:
    """The whole model: the place itself, or the base of the adapter there."""
    adapter = Path(place) / _ADAPTER
    return str(read_json(adapter)["base_model_name_or_path"]) if adapter.is_file() else place


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
