"""One cell: a seed and an order of arrival through every arm. Each arm goes on, after a kill, from the skill it had come to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from crosstune.experts.health import skill_health
from crosstune.experts.learning import LearnedSkill, SkillLearner, SkillLosses
from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.foundation import ranks
from crosstune.studies.frame.cell import Cell, EachStep, Phase
from crosstune.studies.skills import tables
from crosstune.studies.skills.prepare import Prepared
from crosstune.studies.skills.settings import SkillStudySettings

DONE = "arm finished"


class SkillsCell(Cell[Prepared]):
    """One seed and order through all arms."""

    settings: SkillStudySettings

    @property
    def stream_length(self) -> int:
        """Arrivals of skills, without that of the known one, for which nothing is trained."""
        return len(self.settings.stream(0))

    @property
    def steps(self) -> int:
        """Optimizer steps of all skills and arms."""
        return self.settings.training.steps * self.stream_length * len(self.settings.arms)

    def phases(self) -> Iterator[Phase]:
        """What the model alone can do, then an arm each."""
        yield Phase("model measured", self._measure_model)
        for arm in self.settings.arms:
            yield Phase(DONE, partial(self._learn, arm), {"arm": arm})
            self.passed(self.settings.training.steps * self.stream_length)

    def _measure_model(self) -> None:
        """The losses before anything was learned."""
        study = self.procedure
        mixture = ExpertMixture(study.start.load(), study.start.tokenizer)
        losses = {
            name: SkillLosses.of(skill_health(mixture, BASE, rows.test), rows.test)
            for name, (rows, *_) in study.skills.items()
        }
        self.write(tables.of_model(losses))

    def _learn(self, arm: str) -> None:
        study, settings = self.procedure, self.settings
        skill, behind = "", 0

        def tell(step: int, most: int) -> None:
            self.tell(f"{arm}: {skill}, step {step} of {most}", behind + step)

        learner = SkillLearner(
            study.start.load(),
            study.start.tokenizer,
            settings.of_arm(arm),
            folder=self.run.checkpoints / arm.replace("+", "-"),
            seed=self.seed,
            callbacks=[EachStep(tell)],
        )
        for rows in study.stream(settings.key(self.name)[1]):
            skill = rows.name
            known = skill == settings.known
            learner.learn(rows, known=known)
            behind += 0 if known else settings.training.steps
        self._write(arm, learner.learned)

    def _write(self, arm: str, learned: list[LearnedSkill]) -> None:
        if ranks.is_first():
            for table in tables.of_arm(arm, learned):
                self.run.add_rows(table, arm)
