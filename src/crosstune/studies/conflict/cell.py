"""One cell: one seed through all stages; every stage leaves its weights and tables, so that a kill costs one stage's rest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from crosstune.foundation import ranks
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import save_model
from crosstune.foundation.records import Run
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import StageResult, drop_end, train_stage
from crosstune.interference import ConflictProbe, ForgettingLedger, measure_rollback
from crosstune.merging import StageRepairSettings
from crosstune.merging.stage.in_place import repair_in_place, stage_rows
from crosstune.studies.conflict import repairs, tables
from crosstune.studies.conflict.agreement import PROBE_FOLDER
from crosstune.studies.conflict.prepare import SIDES, Bench
from crosstune.studies.conflict.repairs import Scores
from crosstune.studies.conflict.tables import BASE
from crosstune.studies.frame.plan import Listener, Progress
from crosstune.studies.steps import EachStep

DONE = "stage finished"


@dataclass(frozen=True)
class Cell:
    """One seed of the study.

    Attributes:
        bench: What all seeds share.
        seed: What this one changes.
        run: Its run folder.
        listener: Told how far it has come.
    """

    bench: Bench
    seed: int
    run: Run
    listener: Listener

    @property
    def name(self) -> str:
        """The cell's name."""
        return cell_name(self.seed)

    @property
    def total(self) -> int:
        """Optimizer steps of all stages."""
        settings = self.bench.settings
        return settings.training.steps * len(settings.stage_names)

    def go(self) -> None:
        """Run every stage that is not finished yet."""
        finished = {event["stage"] for event in self.run.all_events() if event["kind"] == DONE}
        previous: Path | None = None
        for number, stage in enumerate(self.bench.settings.stage_names):
            folder = self.run.checkpoints / stage
            if stage not in finished:
                self._stage(number, stage, previous)
            previous = folder / "model"
            self.tell(number + 1, 0, f"stage {stage} finished")
        if ranks.is_first():
            self.run.finish()
        ranks.wait_for_all()

    def tell(self, stages: int, steps: int, doing: str) -> None:
        """Say how far the cell has come.

        Args:
            stages: Stages behind it.
            steps: Optimizer steps of the present one behind it.
            doing: What it is doing now.
        """
        if ranks.is_first():
            done = stages * self.bench.settings.training.steps + steps
            self.listener(Progress(self.name, doing, done, self.total))

    def _stage(self, number: int, stage: str, previous: Path | None) -> None:
        bench, settings = self.bench, self.bench.settings
        self.tell(number, 0, f"stage {stage}: loading")
        model = bench.fresh_model(self.seed) if previous is None else bench.stage_model(previous)
        if previous is None:
            self._keep_scores(BASE, self._scores(model))
        before = _changing(model)
        ledger = ForgettingLedger(
            {name: bench.tasks[name] for name in settings.reference_tasks},
            tokenizer=bench.tokenizer,
            blocks=settings.block_settings(),
            gradients=settings.gradient_settings(),
            settings=replace(settings.ledger, stage=stage),
            run=self.run,
        )
        each_step = EachStep(
            lambda step, most: self.tell(number, step, f"stage {stage}, step {step} of {most}")
        )
        callbacks: list[TrainerCallback] = [each_step, ledger]
        probe = self._probe(stage)
        callbacks += [] if probe is None else [probe]
        training = self.run.checkpoints / stage / "training"
        if ranks.is_first():
            # Killed after its last step: tables may be missing that only the end of a training writes.
            drop_end(training)
        ranks.wait_for_all()
        result = train_stage(
            model,
            bench.stage_data(settings.stage_tasks[number]),
            settings.training,
            output_folder=training,
            callbacks=callbacks,
            seed=Seeds(self.seed).derive("stage", number),
        )
        self._book(stage, result, probe)
        self._look_back(model, before, stage, number)
        if ranks.is_first():
            save_model(model, bench.tokenizer, self.run.checkpoints / stage / "model")
            self.run.event(DONE, stage=stage)
            shutil.rmtree(training, ignore_errors=True)
        ranks.wait_for_all()

    def _probe(self, stage: str) -> ConflictProbe | None:
        settings = self.bench.settings.probe_settings(stage)
        if settings is None:
            return None
        tasks = {name: self.bench.tasks[name] for name in self.bench.settings.reference_tasks}
        return ConflictProbe(tasks, settings, tokenizer=self.bench.tokenizer, run=self.run)

    def _book(self, stage: str, result: StageResult, probe: ConflictProbe | None) -> None:
        if ranks.is_first():
            for table in tables.of_training(stage, result, self.bench.tasks):
                self.run.add_rows(table, stage)
            if probe is not None:
                # The sums of every state: windows over several seeds are made from them.
                folder = self.run.folder / PROBE_FOLDER / stage
                folder.mkdir(parents=True, exist_ok=True)
                probe.save_state(folder)
            for note in result.notes:
                self.run.event("note", stage=stage, text=note)

    def _look_back(self, model: Any, before: Mapping[str, Tensor], stage: str, number: int) -> None:
        """Measure what was retained and what a rollback regains; what is kept is the model that goes on."""
        steps = self.bench.settings.training.steps
        self.tell(number, steps, f"stage {stage}: measuring what was retained")
        scores = self._scores(model)
        self._roll_back(model, before, stage, number)
        repair = self.bench.settings.repair_settings(number)
        if repair is not None:
            self.tell(number, steps, f"stage {stage}: repairing")
            scores = self._repaired(model, before, repair, number, scores)
        self._keep_scores(stage, scores)

    def _repaired(
        self,
        model: Any,
        before: Mapping[str, Tensor],
        repair: StageRepairSettings,
        number: int,
        trained: Scores,
    ) -> Scores:
        """Repair the model, and score it on the rows that the trained one was scored on."""
        rows = stage_rows(self.bench.learned_rows(number), self.bench.tokenizer, repair)
        outcome = repair_in_place(model, before, rows, self.bench.tokenizer, repair)
        scores = self._scores(model)
        if ranks.is_first():
            trade = repairs.trade(repair.stage, trained, scores)
            for table in (outcome.losses, outcome.coefficients, trade):
                self.run.add_rows(table, repair.stage)
            self.run.event("repair", stage=repair.stage, text=outcome.words, looks=outcome.looks)
        return scores

    def _scores(self, model: Any) -> Scores:
        return {
            (task, side): score_rows(
                model,
                self.bench.evaluation[task, side],
                pad_id=self.bench.pad_id,
                batch_tokens=self.bench.settings.training.evaluation_tokens,
            )
            for task in self.bench.tasks
            for side in SIDES
        }

    def _keep_scores(self, stage: str, scores: Scores) -> None:
        if ranks.is_first():
            self.run.add_rows(tables.of_scores(stage, scores), stage)

    def _roll_back(self, model: Any, before: Mapping[str, Tensor], stage: str, number: int) -> None:
        settings = self.bench.settings
        if settings.rollback == "none":
            return
        self.tell(number, settings.training.steps, f"stage {stage}: rolling back")
        table = measure_rollback(
            before,
            model,
            {task: self.bench.tasks[task] for task in settings.reference_tasks},
            tokenizer=self.bench.tokenizer,
            by=settings.rollback,
            blocks=settings.block_settings(),
        )
        if ranks.is_first():
            self.run.add_rows(tables.of_rollback(stage, table), stage)


def cell_name(seed: int) -> str:
    """The name of a seed's cell."""
    return f"seed-{seed}"


def _changing(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy, on the CPU, of the parameters that a stage may change."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
