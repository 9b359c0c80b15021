"""What a study of distillation starts from, and its cell: one seed through every beginning and arm.

Each student goes on, after a kill, from its last checkpoint.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers

from crosstune.distillation.cache import CachedTeacher
from crosstune.distillation.students import Student, student_from
from crosstune.distillation.terms.alignment import Alignment
from crosstune.distillation.trainer import DistillationTrainer
from crosstune.foundation import ranks
from crosstune.foundation.data import check_enough, sample_warnings
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.records import Column, Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import StageData, StageResult
from crosstune.studies.distill.settings import Arm, DistillStudySettings
from crosstune.studies.frame.cell import Cell, EachStep, Phase
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.settings import require
from crosstune.studies.frame.start import StartModel, check_length

DONE = "student trained"
BITS = "bits/byte"
BEGIN = Column.axis("beginning", about="piece: of the teacher's weights; anew: drawn at random.")
ARM = Column.axis("arm", about="How the student learns.")
SET = Column.axis("set", about="Whose held-out rows.")
WHEN = Column.axis("when", about="teacher, or the student at its start and end.")
_ROWS = "Jackknife over rows."
SCORED = (
    *(BEGIN, ARM, SET, WHEN),
    *Column.interval("bits", unit=BITS, about="What held-out text costs.", bounds=_ROWS),
)
CHECKED = (
    *(BEGIN, ARM, Column.axis("check", about="What was asked of the books.")),
    Column.label("outcome"),
    Column.label("evidence", about="What was seen, or what it would need."),
)
COSTS = (BEGIN, ARM, Column.axis("what"), Column.value("value"))


class Prepared(Procedure[DistillStudySettings]):
    """The part of the study that its cells and its plan use."""

    start: StartModel
    """The teacher."""
    own: StartModel
    """The student that is given, if one is."""
    data: StageData
    """The rows that students learn, and those held out."""

    def prepare(self) -> Sequence[str]:
        """Read and split the tasks, and find the teacher."""
        settings = self.settings
        self.start = StartModel(settings, "model")
        self.own = StartModel(settings, "student") if settings.student else self.start
        length = settings.training.length
        check_length("distillation.training.length", length, self.own.config)
        tasks = self.read_tasks()
        rows = settings.training.batch_rows
        check_enough(tasks, rows, "distillation.training.batch_rows")
        held_out = {task.name: task.test[: settings.evaluation_rows] for task in tasks}
        train = [row for task in tasks for row in task.train]
        self.data = self.own.stage_data(train, held_out, length)
        self.given: dict[str, Any] = {"rows": self.data}
        if self.own.tokenizer.get_vocab() != self.start.tokenizer.get_vocab():
            self.given = {"rows": train, "held_out": held_out}
            self.given["teacher_tokenizer"] = self.start.tokenizer
            law = "must be of ce, spans and spans+hidden where the student has another tokenizer"
            kept = {*settings.arms} <= {"ce", "spans", "spans+hidden"}
            require(kept, "arms", law, settings.arms)
        self.cached = CachedTeacher(settings.cache) if settings.cache else None
        if self.cached:
            self.cached.check_live(self.teacher, self.data.train)
        self._of_teacher: Sequence[tuple[Any, ...]] = ()
        return sample_warnings(tasks)

    @cached_property
    def teacher(self) -> Any:
        """Loaded once, for no student changes it."""
        return self.start.load()

    def of_teacher(self, shared: Alignment | None) -> Sequence[tuple[Any, ...]]:
        """What held-out text costs the teacher, in tokens of its own where it has such; asked once."""
        self._of_teacher = self._of_teacher or [*self.scored("teacher", self.teacher, shared)]
        return self._of_teacher

    def scored(
        self, when: str, model: Any, shared: Alignment | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """Rows of the table `scored` for a model."""
        for name, own in self.data.held_out.items():
            rows = shared.read(own) if shared else own
            bits = score_rows(model, rows, pad_id=(shared or self.data).pad_id).bits_per_byte
            yield name, when, bits.value, bits.low, bits.high

    @cached_property
    def piece(self) -> Student:
        """The student of the teacher's weights, which no seed changes."""
        own = self.settings
        rows = self.data.train[: own.distillation.pilot_rows]
        shape = {name: getattr(own, name) for name in ("layers", "width", "heads", "neurons")}
        return student_from(self.teacher, rows=rows, **shape)

    @cached_property
    def pattern(self) -> Any:
        """The student as it begins where it is not drawn anew."""
        return self.own.load() if self.settings.student else self.piece.model

    def student(self, begin: str, seed: int) -> Any:
        """A fresh student."""
        if begin != "anew":
            return copy.deepcopy(self.pattern)
        with torch.random.fork_rng():
            torch.manual_seed(Seeds(seed).derive("student"))
            found = transformers.AutoModelForCausalLM.from_config(self.pattern.config)
        return found.to(self.pattern.device)

    def trainer(self, begin: str, arm: Arm, seed: int, folder: Path) -> DistillationTrainer:
        """Of one student, whose checkpoints lie in a folder of their own in that one."""
        output = str(folder / f"{begin}-{arm.replace('+', '-')}")
        own = {"output": output, "seed": Seeds(seed).derive("distill")}
        return self.taught(arm, self.student(begin, seed), **own)

    def taught(self, arm: Arm, student: Any, **own: Any) -> DistillationTrainer:
        """A student by an arm, with settings of its own, over the study's rows and in silence."""
        chosen = self.settings.of_arm(arm, self.compute, next(iter(self.data.held_out)))
        models = student, self.cached or self.teacher, self.own.tokenizer
        found = DistillationTrainer(*models, **self.given, settings=replace(chosen, **own))
        found.progress.quiet = True
        return found

    @cached_property
    def compute(self) -> float:
        """What a step with the teacher costs over one without: (6 student + 2 teacher) / 6 student, in weights that multiply."""
        student, teacher = (_multiplied(model) for model in (self.pattern, self.teacher))
        return 1.0 + (not self.cached) * teacher / (3.0 * student)


def _multiplied(model: Any) -> int:
    """Weights that multiply states, the head's too."""
    inside = model.num_parameters(exclude_embeddings=True)
    head = model.get_output_embeddings().weight.numel()
    tied = model.config.tie_word_embeddings
    return int(inside + (head if tied else 0))


class DistillCell(Cell[Prepared]):
    """One seed through all beginnings and arms."""

    settings: DistillStudySettings

    @property
    def steps(self) -> int:
        """Optimizer steps of all students."""
        compute = self.procedure.compute
        each = sum(self.settings.steps_of(arm, compute) for arm in self.settings.arms)
        return each * len(self.settings.beginnings)

    def phases(self) -> Iterator[Phase]:
        """A student each."""
        compute = self.procedure.compute
        for begin, arm in self.settings.students:
            yield Phase(DONE, partial(self._learn, begin, arm), {"beginning": begin, "arm": arm})
            self.passed(self.settings.steps_of(arm, compute))

    def _learn(self, begin: str, arm: Arm) -> None:
        trainer = self.procedure.trainer(begin, arm, self.seed, self.run.checkpoints)
        student, place = trainer.student, trainer.stage.output_folder
        scored = [*self.procedure.of_teacher(trainer.alignment)]
        scored += self.procedure.scored("start", student)
        result = trainer.run(
            EachStep(lambda step, most: self.tell(f"{begin}, {arm}: step {step} of {most}", step))
        )
        scored += self.procedure.scored("end", student)
        if ranks.is_first():
            for table in _tables(begin, arm, trainer, self.procedure.teacher, result, scored):
                self.run.add_rows(table, place.name)
        if not self.settings.distillation.debug_every:  # whose steps may be replayed
            self._spent.append(place)


def _tables(
    begin: str,
    arm: str,
    trainer: DistillationTrainer,
    teacher: Any,
    result: StageResult,
    scored: Sequence[tuple[Any, ...]],
) -> Iterator[Table]:
    """What one student leaves."""
    who = {BEGIN: begin, ARM: arm}
    yield Table.of_tuples("scored", SCORED, [(begin, arm, *one) for one in scored])
    yield trainer.progress.table().with_columns(who)
    yield result.ledger.with_columns(who)
    if (pulls := trainer.pulls()).rows():
        yield pulls.with_columns(who)
    checks = [(begin, arm, one.name, one.outcome, one.evidence) for one in trainer.findings()]
    yield Table.of_tuples("checked", CHECKED, checks)
    costs = _costs(trainer, teacher, result)
    yield Table.of_tuples("costs", COSTS, [(begin, arm, *one) for one in costs.items()])


def _costs(trainer: DistillationTrainer, teacher: Any, result: StageResult) -> dict[str, float]:
    """What a training took: arithmetic by 6 or 2 a weight that multiplies and position, the heads apart."""
    cost, student, runs = result.cost, trainer.student, teacher is trainer.teacher
    asks = runs and any(entry.needs.second for entry in trainer.stage.terms.entries)
    head = student.get_output_embeddings().weight.numel()
    shared, rows = trainer.alignment, trainer.data.train
    theirs = shared.read(rows) if shared else rows
    each = sum(len(row.input_ids) for row in theirs) / sum(len(row.input_ids) for row in rows)
    return {
        **({"bytes in spans": shared.share} if shared else {}),
        "seconds": cost.training_seconds,
        "tokens a second": cost.tokens_per_second,
        "padding": cost.padding_fraction,
        "student FLOPs": 6.0 * cost.positions * (_multiplied(student) - head),
        "head FLOPs": 6.0 * cost.positions * head,
        "teacher FLOPs": 2.0 * cost.positions * each * _multiplied(teacher) * asks,
        "student parameters": float(student.num_parameters()),
        "teacher parameters": float(teacher.num_parameters()),
    }
