"""What a circuit study starts from: the checkpoints it scores, the rows of its tasks, and which cells these make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from crosstune.circuits.capture.labels import Labels
from crosstune.circuits.samples import Samples, check_length, choose_samples
from crosstune.circuits.settings import FISHERS, CircuitSettings
from crosstune.foundation.data import large_rows, read_rows
from crosstune.foundation.errors import DataError, SettingsError, renamed
from crosstune.foundation.models import HeadMap, check_finite
from crosstune.foundation.records import Column, Run, Table
from crosstune.studies.circuits.settings import CircuitStudySettings, names_of
from crosstune.studies.frame.opening import finished_cells
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel

AXES = (
    Column.axis("checkpoint", about="The state of the model."),
    Column.axis("pair", about="The tasks, A first: `A:B`."),
)
_FEW = 2  # times `min_samples` below which intervals and reliabilities are worth little
_STAGE = "stage finished"  # the event of a conflict run after which the model of a stage is there
_ABLATED = ("directional", "signed", "symmetric")  # the others bring a Fisher of their own


@dataclass(frozen=True)
class CellKey:
    """A cell: two tasks at one checkpoint, of which A's Fisher normalises pair scores."""

    name: str
    checkpoint: str
    task_a: str
    task_b: str

    @property
    def pair(self) -> str:
        """The tasks, as settings name them."""
        return f"{self.task_a}:{self.task_b}"

    @property
    def axes(self) -> dict[str, str]:
        """What its rows have under `AXES`."""
        return {"checkpoint": self.checkpoint, "pair": self.pair}

    def label(self, table: Table) -> Table:
        """A table of this cell with checkpoint and pair in front."""
        return table.with_columns(dict(zip(AXES, self.axes.values(), strict=True)))


class Prepared(Procedure[CircuitStudySettings]):
    """The part of the study that its cells and its plan use.

    Attributes:
        checkpoints: The states of the model by name, in order.
        rows: The rows of each task.
        layers: How many layers are measured at each state.
        keys: Every cell, checkpoint by checkpoint; the number in front of a name keeps them apart.
        opened: The checkpoint that is in memory while its cells run.
    """

    opened: Any

    def prepare(self) -> Sequence[str]:
        """Find the checkpoints and read the tasks."""
        settings = self.settings
        self.checkpoints = {
            name: StartModel(settings, "model", place)
            for name, place in _checkpoints(settings).items()
        }
        measured = settings.measurement.layers
        config = next(iter(self.checkpoints.values())).config
        self.layers = int(config.num_hidden_layers) if measured is None else len(measured)
        self.rows = {task.name: read_rows(task, task.source, task.split) for task in settings.tasks}
        pairs = [(one, pair) for one in self.checkpoints for pair in settings.task_pairs]
        self.keys = tuple(
            CellKey(f"{at:02d}-{one[:50]}-{a[:20]}-{b[:20]}".rstrip("."), one, a, b)
            for at, (one, (a, b)) in enumerate(pairs)
        )
        least = settings.measurement.min_samples
        short = [f"{name} has {len(own)}" for name, own in self.rows.items() if len(own) < least]
        if short:
            raise DataError(
                "tasks",
                law=f"must have at least min_samples ({least}) rows",
                found=", ".join(short),
                remedy="Give the task more rows, or lower `measurement.min_samples`.",
            )
        return self._warnings()

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

    def heads_of(self, model: Any) -> HeadMap:
        """The heads of a model; what it has not of the asked layers, heads and length is an error in the settings' words."""
        measured = self.settings.measurement
        check_finite(model)
        with ExitStack() as words:
            for name in ("layers", "heads", "length"):
                words.enter_context(renamed(name, f"measurement.{name}"))
            check_length(model, measured)
            heads = HeadMap.of(model)
            measured.check_places(heads.num_layers, heads.num_heads)
        return heads

    def samples_of(self, key: CellKey, tokenizer: Any) -> tuple[Samples, Samples]:
        """The samples of a cell's two tasks; those of a task are the same in all its pairs."""
        a, b = key.task_a, key.task_b
        with renamed("task_a", f"tasks[{a!r}]"), renamed("task_b", f"tasks[{b!r}]"):
            return choose_samples(self.rows[a], self.rows[b], tokenizer, self.settings.measurement)

    def captures(self, keys: Iterable[CellKey]) -> set[tuple[str, Labels]]:
        """What cells of one checkpoint need captured: tasks at their own labels, and at the model's for the true Fisher."""
        found: set[tuple[str, Labels]] = set()
        for key in keys:
            found |= {(key.task_a, "text"), (key.task_b, "text")}
            if "true" in self.settings.measurement.fishers:
                found.add((key.task_a, "sampled"))
        return found

    @property
    def scorings(self) -> tuple[CircuitSettings, ...]:
        """How a cell's pairs are scored: as the settings say, and for an ablation under each Fisher for which there are samples."""
        settings = self.settings.measurement
        variants = tuple(variant for variant in settings.variants if variant in _ABLATED)
        if not (self.settings.ablate and variants):
            return (settings,)
        left = {"held_out": self.samples // 2, "leave_one_out": self.samples - 1}
        known = [
            kind
            for kind in FISHERS
            if left.get(kind, self.samples) >= settings.min_samples
            and (kind != "true" or kind in settings.fishers)
        ]
        more = [
            replace(settings, variants=variants, fisher=one, averages="pooled") for one in known
        ]
        return (settings, *more)

    def _warnings(self) -> list[str]:
        measured = self.settings.measurement
        few = _FEW * measured.min_samples
        found = large_rows(self.rows)
        found += [
            f"Task {name} has {len(own)} rows of the {measured.rows} that were asked for."
            for name, own in self.rows.items()
            if len(own) < measured.rows
        ]
        if self.samples < few:
            found.append(
                f"With fewer than {few} rows a task, intervals are wide and reliabilities say little."
            )
        if self.settings.ablate and self.samples < 2 * measured.min_samples:
            found.append(
                "The ablation leaves out the held-out Fisher: half of the samples are fewer than "
                f"min_samples ({measured.min_samples})."
            )
        if measured.blind:
            found.append(
                f"`measurement.averages: {measured.averages}` makes the average of the directional score over a "
                "task blind to that task: it is ‖g_j‖₁ of the other one's samples. `pooled` is not."
            )
        return found


def _checkpoints(settings: CircuitStudySettings) -> dict[str, str]:
    """The model and its further checkpoints, or that of a conflict run before its first stage and after each."""
    if settings.conflict is None:
        return dict(zip(names_of(settings.places), settings.places, strict=True))
    folder = settings.conflict
    with renamed(folder, "conflict"):
        run = Run.open(Path(folder))
    if run.kind != "conflict":
        raise SettingsError(
            "conflict",
            law="must be the run folder of a study `conflict`",
            found=f"a run of kind {run.kind!r}",
            remedy="`crosstune list` names the runs under a folder.",
        )
    learned = yaml.safe_load(run.settings_yaml)
    asked = settings.conflict_seed
    seeds = learned["seeds"] if asked is None else [asked]
    cells = finished_cells(run, [f"seed-{seed}" for seed in seeds])
    if not cells:
        known = [cell.folder.name for cell in run.cells() if cell.finished]
        raise SettingsError(
            "conflict_seed" if asked is not None else "conflict",
            law=f"must name a finished cell of {folder}",
            found=", ".join(known) or "no finished cell",
            remedy="Finish that run, or name another of its seeds.",
        )
    stages = [str(event["stage"]) for event in cells[0].events(_STAGE)]
    models = {stage: str(cells[0].checkpoints / stage / "model") for stage in stages}
    return {"0-base": learned["model"], **models}
