"""One cell: two tasks at one checkpoint; and the open checkpoint, whose cells share what was captured once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from crosstune.circuits.api import capture_samples, score_factors
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.capture.labels import Labels
from crosstune.circuits.comparison import ablate
from crosstune.circuits.forecast import estimate
from crosstune.circuits.samples import Samples
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation import ranks
from crosstune.studies.circuits.prepare import CellKey, Prepared
from crosstune.studies.frame.cell import Cell, Phase

METHODS, STATEMENT = "methods", "statement"


class OpenCheckpoint(ExitStack):
    """A checkpoint in memory, with the factors of the tasks that were captured at it; these are closed when it is left."""

    def __init__(self, study: Prepared, checkpoint: str, folder: Path) -> None:
        super().__init__()
        start = study.checkpoints[checkpoint]
        self.model, self.tokenizer, self._pad_id = start.load(), start.tokenizer, start.pad_id
        self.captured: dict[tuple[str, Labels], Factors] = {}
        self._heads = study.heads_of(self.model)
        self._settings, self._folder = study.settings.measurement, folder

    def capture(self, task: str, samples: Samples, labels: Labels) -> None:
        """Capture the factors of a task, or take those that the folder holds."""
        found = capture_samples(
            self.model,
            samples,
            self._heads,
            self._pad_id,
            self._settings,
            self._folder,
            labels,
        )
        self.captured[task, labels] = self.enter_context(found)


class CircuitCell(Cell[Prepared]):
    """Two tasks at one checkpoint, which the study keeps open; its steps are layers of captures and scorings."""

    @property
    def key(self) -> CellKey:
        """Which cell this is."""
        return self.procedure.key(self.name)

    @property
    def steps(self) -> int:
        """Layers of each task that no cell before captured at this checkpoint, and of each scoring."""
        study = self.procedure
        before = [one for one in study.keys if one.checkpoint == self.key.checkpoint]
        before = before[: before.index(self.key)]
        captured = study.captures([*before, self.key]) - study.captures(before)
        return study.layers * (len(captured) + len(study.scorings))

    def tell(self, doing: str, steps: int = 0) -> None:
        """Say what the cell is doing; a task is captured again where the cell before that captured it is finished."""
        super().tell(doing, min(steps, self.steps - self._behind))

    def phases(self) -> Iterator[Phase]:
        """The scores, and what they are compared with."""
        yield Phase("scored", self._score_all)

    def _score_all(self) -> None:
        """Score the pairs of two tasks and write what was found; layers that were scored before are kept."""
        study, measured, opened = self.procedure, self.settings.measurement, self.procedure.opened
        task_a, task_b = self.key.task_a, self.key.task_b
        a, b = study.samples_of(self.key, opened.tokenizer)
        sizes = (len(a), len(b), measured.length)
        estimate(opened.model, *sizes, measured, timed=False).check()
        factors = self._factors(task_a, a), self._factors(task_b, b)
        true = self._factors(task_a, a, "sampled") if "true" in measured.fishers else None
        first, *others = study.scorings
        scores = self._scores(factors, true, first, self.run.folder)
        compared = [scores, *(self._scores(factors, true, one, None) for one in others)]
        if ranks.is_first():
            self.write(scores.summary, scores.slices)
            if self.settings.ablate:
                self.tell("comparing scores with each other")
                self.write(ablate(compared))
            for statement in scores.statements:
                self.run.event(STATEMENT, **vars(statement))
            self.run.event(METHODS, text=scores.methods_paragraph())

    def _factors(self, task: str, samples: Samples, labels: Labels = "text") -> Factors:
        """The factors of a task, captured unless a cell before has done so."""
        opened: OpenCheckpoint = self.procedure.opened
        if (task, labels) not in opened.captured:
            drawn = " at labels of the model" if labels == "sampled" else ""
            self.tell(f"capturing {task}{drawn}")
            opened.capture(task, samples, labels)
            self.passed(self.procedure.layers)
            self.tell(f"captured {task}{drawn}")
        return opened.captured[task, labels]

    def _scores(
        self,
        factors: tuple[Factors, Factors],
        true: Factors | None,
        settings: CircuitSettings,
        folder: Path | None,
    ) -> CircuitScores:
        pair = f"{self.key.task_a} against {self.key.task_b}"

        def progress(done: int, total: int) -> None:
            self.tell(f"{pair}: scoring, layer {done} of {total}", done)

        scores = score_factors(*factors, settings, true=true, folder=folder, progress=progress)
        self.passed(self.procedure.layers)
        self.tell(f"{pair}: scored")
        return scores
