"""One cell: two tasks at one checkpoint; and the open checkpoint, whose cells share what was captured once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from crosstune.circuits.api import capture_samples, score_factors
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.capture.labels import Labels
from crosstune.circuits.comparison import ablate
from crosstune.circuits.forecast import estimate
from crosstune.circuits.samples import Samples
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import FISHERS, CircuitSettings
from crosstune.foundation import ranks
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.models import HeadMap
from crosstune.foundation.records import Run, Table
from crosstune.studies.circuits.prepare import CellKey, Checkpoint, Prepared
from crosstune.studies.frame.cell import Cell, Phase

SCORES = "scores"
_ABLATED = ("directional", "signed", "symmetric")  # the others bring a Fisher of their own
METHODS, STATEMENT = "methods", "statement"
SCORED = "scored"
Tell = Callable[[str, int], None]


def captures(wanted: Iterable[CellKey], settings: CircuitSettings) -> set[tuple[str, Labels]]:
    """What some cells of one checkpoint need captured: tasks at their own labels, and at the model's for the true Fisher."""
    found: set[tuple[str, Labels]] = set()
    for key in wanted:
        found |= {(key.task_a, "text"), (key.task_b, "text")}
        if "true" in settings.fishers:
            found.add((key.task_a, "sampled"))
    return found


class CircuitCell(Cell[Prepared]):
    """Two tasks at one checkpoint, which the study keeps open."""

    @property
    def key(self) -> CellKey:
        """Which cell this is."""
        return self.procedure.key(self.name)

    @property
    def steps(self) -> int:
        """Layers of work: those of each task that no cell before captured at this checkpoint, and those of each scoring."""
        study, measured = self.procedure, self.settings.measurement
        before = [one for one in study.keys if one.checkpoint == self.key.checkpoint]
        before = before[: before.index(self.key)]
        captured = captures([*before, self.key], measured) - captures(before, measured)
        return study.layers * (len(captured) + scorings(study))

    def phases(self) -> Iterator[Phase]:
        """The scores, and what they are compared with."""
        yield Phase(SCORED, self._score_all)

    def _score_all(self) -> None:
        """Score the pairs of two tasks and write what was found; layers that were scored before are kept."""
        opened: OpenCheckpoint = self.procedure.opened
        self._done = 0
        opened.tell = self._tell_layers
        scores, table = opened.score(self.key, self.run.folder)
        if ranks.is_first():
            _record(scores, table, self.run)
        ranks.wait_for_all()

    def _tell_layers(self, doing: str, layers: int) -> None:
        self._done += layers
        # What a cell before captured is captured again where only that cell is finished.
        self.tell(doing, min(self._done, self.steps))


@dataclass
class OpenCheckpoint:
    """A checkpoint in memory, and the factors of the tasks that were captured at it; use it in a `with` block.

    Attributes:
        study: The study, prepared.
        checkpoint: The state of the model.
        folder: Where factors are kept.
        tell: Told what is done, and how many layers' worth of work that was.
    """

    study: Prepared
    checkpoint: Checkpoint
    folder: Path
    tell: Tell = field(default=lambda doing, layers: None, repr=False)
    _model: Any = field(init=False, repr=False)
    _tokenizer: Any = field(init=False, repr=False)
    _heads: HeadMap = field(init=False, repr=False)
    _known: dict[tuple[str, Labels], Factors] = field(default_factory=dict, repr=False)
    _open: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> OpenCheckpoint:
        start = self.study.start(self.checkpoint)
        self._model, self._tokenizer = start.load(), start.tokenizer
        self._heads = self.study.heads_of(self._model)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def score(self, key: CellKey, folder: Path) -> tuple[CircuitScores, Table | None]:
        """The scores of the pairs of two tasks.

        Returns:
            The scores, and how those of other Fishers compare where that was asked for.
        """
        study, settings = self.study, self.study.settings.measurement
        a, b = study.samples_of(key.task_a, key.task_b, self._tokenizer)
        estimate(self._model, len(a), len(b), settings.length, settings, timed=False).check()
        factors_a, factors_b = (
            self._factors(task, samples) for task, samples in ((key.task_a, a), (key.task_b, b))
        )
        is_true = "true" in settings.fishers
        captured = (
            factors_a,
            factors_b,
            self._factors(key.task_a, a, "sampled") if is_true else None,
        )
        scores = self._score(key, captured, settings, folder)
        return scores, self._ablated(key, captured, scores) if study.settings.ablate else None

    def _score(
        self,
        key: CellKey,
        captured: tuple[Factors, Factors, Factors | None],
        settings: CircuitSettings,
        folder: Path | None,
    ) -> CircuitScores:
        a, b, true = captured
        who = f"{key.task_a} against {key.task_b}"
        known = 0

        def progress(done: int, total: int) -> None:
            nonlocal known
            self.tell(f"{who}: scoring, layer {done} of {total}", done - known)
            known = done

        scores = score_factors(a, b, settings, true=true, folder=folder, progress=progress)
        self.tell(f"{who}: scored", self.study.layers - known)
        return scores

    def _ablated(
        self,
        key: CellKey,
        captured: tuple[Factors, Factors, Factors | None],
        scores: CircuitScores,
    ) -> Table:
        """The scores under every other Fisher, all held against each other; only the comparison is kept."""
        measured = [scores]
        for settings in ablated(self.study):
            measured.append(self._score(key, captured, settings, None))
        self.tell("comparing scores with each other", 0)
        return ablate(measured)

    def _factors(self, task: str, samples: Samples, labels: Labels = "text") -> Factors:
        """The factors of a task at this checkpoint, captured once."""
        if (task, labels) not in self._known:
            drawn = " at labels of the model" if labels == "sampled" else ""
            self.tell(f"capturing {task}{drawn}", 0)
            found = capture_samples(
                self._model,
                samples,
                self._heads,
                pad_id(self._tokenizer),
                self.study.settings.measurement,
                self.folder,
                labels,
            )
            self._known[task, labels] = self._open.enter_context(found)
            self.tell(f"captured {task}{drawn}", self.study.layers)
        return self._known[task, labels]


def ablated(study: Prepared) -> tuple[CircuitSettings, ...]:
    """The further measurements of an ablation: the same variants under each Fisher that can be had of what is captured.

    Returns:
        One for each Fisher; a held-out one only where half of the samples are enough for it. None without an ablation.
    """
    settings = study.settings.measurement
    variants = tuple(variant for variant in settings.variants if variant in _ABLATED)
    if not (study.settings.ablate and variants):
        return ()
    left = {"held_out": study.samples // 2, "leave_one_out": study.samples - 1}
    known = [
        kind
        for kind in FISHERS
        if left.get(kind, study.samples) >= settings.min_samples
        and (kind != "true" or kind in settings.fishers)
    ]
    return tuple(
        replace(settings, variants=variants, fisher=kind, averages="pooled") for kind in known
    )


def scorings(study: Prepared) -> int:
    """How often a cell's pairs are scored: once, and once for each Fisher of an ablation."""
    return 1 + len(ablated(study))


def _record(scores: CircuitScores, ablation: Table | None, run: Run) -> None:
    for table in (scores.summary, scores.slices, *([] if ablation is None else [ablation])):
        run.write_table(table)
    for statement in scores.statements:
        run.event(STATEMENT, **vars(statement))
    run.event(METHODS, text=scores.methods_paragraph())
