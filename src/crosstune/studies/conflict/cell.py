"""One cell: one seed through all stages; every stage leaves its weights and tables, so that a kill costs one stage's rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crosstune.foundation import ranks
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import save_model
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import StageResult
from crosstune.interference import ConflictProbe, measure_rollback
from crosstune.merging import StageRepairSettings
from crosstune.merging.stage.in_place import repair_in_place, stage_rows
from crosstune.studies.conflict import repairs, tables
from crosstune.studies.conflict.agreement import PROBE_FOLDER
from crosstune.studies.conflict.prepare import Prepared
from crosstune.studies.conflict.repairs import Scores
from crosstune.studies.conflict.tables import BASE, SIDES
from crosstune.studies.frame.cell import Cell, Phase

DONE = "stage finished"


class ConflictCell(Cell[Prepared]):
    """One seed through all stages."""

    @property
    def steps(self) -> int:
        """Optimizer steps of all stages."""
        return int(self.settings.training.steps) * len(self.settings.stage_names)

    def phases(self) -> Iterator[Phase]:
        """One a stage, from the weights that the one before left."""
        for number, stage in enumerate(self.settings.stage_names):
            yield Phase(DONE, partial(self._stage, number, stage), {"stage": stage})
            self.passed(self.settings.training.steps)
            self.tell(f"stage {stage} finished")

    def _stage(self, number: int, stage: str) -> None:
        study, settings = self.procedure, self.settings
        self.tell(f"stage {stage}: loading")
        if number:
            previous = self.run.checkpoints / settings.stage_names[number - 1] / "model"
            model = study.stage_model(previous)
        else:
            model = study.start.load(settings.training.lora, self.seed)
            self._write_scores(BASE, self._scores(model))
        before = _changing(model)
        probe = self._probe(stage)
        result = self.train(
            f"stage {stage}",
            model,
            study.stage_data(settings.stage_tasks[number]),
            settings.training,
            study.ledger(self.run, stage=stage),
            *([] if probe is None else [probe]),
            seed=Seeds(self.seed).derive("stage", number),
            folder=f"{stage}/training",
        )
        self._write(stage, result, probe)
        self._evaluate(model, before, stage, number)
        if ranks.is_first():
            save_model(model, study.start.tokenizer, self.run.checkpoints / stage / "model")

    def _probe(self, stage: str) -> ConflictProbe | None:
        settings = self.settings.probe_settings(stage)
        return None if settings is None else self.procedure.probe(settings, self.run)

    def _write(self, stage: str, result: StageResult, probe: ConflictProbe | None) -> None:
        if ranks.is_first():
            for table in tables.of_training(stage, result, tuple(self.procedure.tasks)):
                self.run.add_rows(table, stage)
            if probe is not None:
                # The sums of every state: windows over several seeds are made from them.
                folder = self.run.folder / PROBE_FOLDER / stage
                folder.mkdir(parents=True, exist_ok=True)
                probe.save_state(folder)

    def _evaluate(self, model: Any, before: Mapping[str, Tensor], stage: str, number: int) -> None:
        """Measure what was retained and what a rollback regains; the scores are those of the model that goes on."""
        steps = self.settings.training.steps
        self.tell(f"stage {stage}: measuring what was retained", steps)
        scores = self._scores(model)
        self._roll_back(model, before, stage)
        repair = self.settings.repair_settings(number)
        if repair is not None:
            self.tell(f"stage {stage}: repairing", steps)
            scores = self._repaired(model, before, repair, number, scores)
        self._write_scores(stage, scores)

    def _repaired(
        self,
        model: Any,
        before: Mapping[str, Tensor],
        repair: StageRepairSettings,
        number: int,
        trained: Scores,
    ) -> Scores:
        """Repair the model, and score it on the rows that the trained one was scored on."""
        tokenizer = self.procedure.start.tokenizer
        rows = stage_rows(self.procedure.learned_rows(number), tokenizer, repair)
        outcome = repair_in_place(model, before, rows, tokenizer, repair)
        scores = self._scores(model)
        if ranks.is_first():
            trade = repairs.trade(repair.stage, trained, scores)
            for table in (outcome.losses, outcome.coefficients, trade):
                self.run.add_rows(table, repair.stage)
            self.run.event(
                "repair", stage=repair.stage, text=outcome.words, looks=outcome.evaluations
            )
        return scores

    def _scores(self, model: Any) -> Scores:
        return {
            (task, side): score_rows(
                model,
                self.procedure.evaluation[task, side],
                pad_id=self.procedure.start.pad_id,
                batch_tokens=self.settings.training.evaluation_tokens,
            )
            for task in self.procedure.tasks
            for side in SIDES
        }

    def _write_scores(self, stage: str, scores: Scores) -> None:
        if ranks.is_first():
            self.run.add_rows(tables.of_scores(stage, scores), stage)

    def _roll_back(self, model: Any, before: Mapping[str, Tensor], stage: str) -> None:
        settings = self.settings
        if settings.rollback == "none":
            return
        self.tell(f"stage {stage}: rolling back", settings.training.steps)
        table = measure_rollback(
            before,
            model,
            self.procedure.references,
            tokenizer=self.procedure.start.tokenizer,
            by=settings.rollback,
            blocks=settings.part("blocks"),
        )
        if ranks.is_first():
            self.run.add_rows(table.with_columns({tables.STAGE: stage}), stage)


def _changing(model: torch.nn.Module) -> dict[str, Tensor]:
    """A copy, on the CPU, of the parameters that a stage may change."""
    return {
        name: parameter.detach().to("cpu", copy=True)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
