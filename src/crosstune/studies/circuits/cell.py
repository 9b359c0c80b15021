"""One cell: two tasks at one checkpoint; and the sitting in which the cells of a checkpoint share what was captured once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from crosstune.circuits.ablation import ablate
from crosstune.circuits.api import (
    capture_samples,
    fishers,
    score_factors,
)
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.capture.labels import Labels
from crosstune.circuits.forecast import estimate
from crosstune.circuits.samples import Samples
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import FISHERS, CircuitSettings
from crosstune.foundation import ranks
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.models import HeadMap
from crosstune.foundation.records import Run, Table
from crosstune.studies.circuits.prepare import Bench, Checkpoint

SCORES = "scores"
_ABLATED = ("directional", "signed", "symmetric")  # the others bring a Fisher of their own
METHODS, STATEMENT = "methods", "statement"
Tell = Callable[[str, int], None]


@dataclass(frozen=True)
class Place:
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


def places(bench: Bench) -> tuple[Place, ...]:
    """Every cell of a study, checkpoint by checkpoint.

    Args:
        bench: What they share.

    Returns:
        Each pair of tasks at each checkpoint; the number in front of a name keeps them apart.
    """
    pairs = [(one, pair) for one in bench.checkpoints for pair in bench.settings.task_pairs]
    return tuple(
        Place(f"{at:02d}-{one.name[:50]}-{a[:20]}-{b[:20]}".rstrip("."), one, a, b)
        for at, (one, (a, b)) in enumerate(pairs)
    )


def captures(wanted: Iterable[Place], settings: CircuitSettings) -> set[tuple[str, Labels]]:
    """What some cells of one checkpoint need captured: tasks at their own labels, and at the model's for the true Fisher.

    Args:
        wanted: The cells.
        settings: Which Fishers are asked for.

    Returns:
        Task and labels.
    """
    found: set[tuple[str, Labels]] = set()
    for place in wanted:
        found |= {(place.task_a, "text"), (place.task_b, "text")}
        if "true" in fishers(settings):
            found.add((place.task_a, "sampled"))
    return found


@dataclass
class Sitting:
    """A checkpoint in memory, and the factors of the tasks that were captured at it; use it in a `with` block.

    Attributes:
        bench: What all cells share.
        checkpoint: The state of the model.
        folder: Where factors are kept.
        tell: Told what is done, and how many layers' worth of work that was.
    """

    bench: Bench
    checkpoint: Checkpoint
    folder: Path
    tell: Tell
    _model: Any = field(init=False, repr=False)
    _tokenizer: Any = field(init=False, repr=False)
    _heads: HeadMap = field(init=False, repr=False)
    _known: dict[tuple[str, Labels], Factors] = field(default_factory=dict, repr=False)
    _open: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Sitting:
        self.tell("opening the model", 0)
        self._model, self._tokenizer = self.bench.open_model(self.checkpoint)
        self._heads = self.bench.heads_of(self._model)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def go(self, place: Place, run: Run) -> None:
        """Score the pairs of two tasks and write what was found; layers that were scored before are kept.

        Args:
            place: The cell.
            run: Its run folder.
        """
        bench, settings = self.bench, self.bench.settings.measurement
        a, b = bench.samples_of(place.task_a, place.task_b, self._tokenizer)
        estimate(self._model, len(a), len(b), settings.length, settings, timed=False).check()
        factors_a, factors_b = (
            self._factors(task, samples) for task, samples in ((place.task_a, a), (place.task_b, b))
        )
        is_true = "true" in fishers(settings)
        captured = (
            factors_a,
            factors_b,
            self._factors(place.task_a, a, "sampled") if is_true else None,
        )
        scores = self._score(place, captured, settings, run.folder)
        table = self._ablated(place, captured, scores) if bench.settings.ablate else None
        if ranks.is_first():
            _record(scores, table, run)
        ranks.wait_for_all()

    def _score(
        self,
        place: Place,
        captured: tuple[Factors, Factors, Factors | None],
        settings: CircuitSettings,
        folder: Path | None,
    ) -> CircuitScores:
        a, b, true = captured
        who = f"{place.task_a} against {place.task_b}"
        known = 0

        def told(doing: str, done: int, total: int) -> None:
            nonlocal known
            self.tell(f"{who}: {doing}, layer {done} of {total}", done - known)
            known = done

        scores = score_factors(a, b, settings, true=true, folder=folder, told=told)
        self.tell(f"{who}: scored", self.bench.layers - known)
        return scores

    def _ablated(
        self,
        place: Place,
        captured: tuple[Factors, Factors, Factors | None],
        scores: CircuitScores,
    ) -> Table:
        """The scores under every other Fisher, all held against each other; only the comparison is kept."""
        measured = [scores]
        for settings in ablated(self.bench):
            measured.append(self._score(place, captured, settings, None))
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
                self.bench.settings.measurement,
                self.folder,
                labels,
            )
            self._known[task, labels] = self._open.enter_context(found)
            self.tell(f"captured {task}{drawn}", self.bench.layers)
        return self._known[task, labels]


def ablated(bench: Bench) -> tuple[CircuitSettings, ...]:
    """The further measurements of an ablation: the same variants under each Fisher that can be had of what is captured.

    Args:
        bench: What all cells share.

    Returns:
        One for each Fisher; a held-out one only where half of the samples are enough for it. None without an ablation.
    """
    settings = bench.settings.measurement
    variants = tuple(variant for variant in settings.variants if variant in _ABLATED)
    if not (bench.settings.ablate and variants):
        return ()
    left = {"held_out": bench.samples // 2, "leave_one_out": bench.samples - 1}
    known = [
        kind
        for kind in FISHERS
        if left.get(kind, bench.samples) >= settings.min_samples
        and (kind != "true" or kind in fishers(settings))
    ]
    return tuple(
        replace(settings, variants=variants, fisher=kind, averages="pooled") for kind in known
    )


def scorings(bench: Bench) -> int:
    """How often a cell's pairs are scored: once, and once for each Fisher of an ablation."""
    return 1 + len(ablated(bench))


def _record(scores: CircuitScores, ablation: Table | None, run: Run) -> None:
    for table in (scores.summary, scores.slices, *([] if ablation is None else [ablation])):
        run.write_table(table)
    for statement in scores.statements:
        run.event(STATEMENT, **vars(statement))
    run.event(METHODS, text=scores.methods_paragraph())
    run.finish()
