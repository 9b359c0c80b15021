"""The studies there are, in reading order."""

from __future__ import annotations

import difflib

from crosstune.foundation.errors import SettingsError
from crosstune.studies.study import Study

STUDIES: tuple[Study, ...] = (
    Study(
        name="conflict",
        question="What do tasks learned one after another do to each other, and where in the model?",
        settings="crosstune.studies.conflict.settings:ConflictSettings",
        procedure="crosstune.studies.conflict.study:Conflict",
    ),
    Study(
        name="repair",
        question="How much of what a fine-tune forgot can be given back, at what price, and where?",
        settings="crosstune.studies.repair.settings:RepairStudySettings",
        procedure="crosstune.studies.repair.study:Repair",
    ),
    Study(
        name="circuits",
        question="Which attention heads do two tasks pull at together or against each other, sample by sample?",
        settings="crosstune.studies.circuits.settings:CircuitStudySettings",
        procedure="crosstune.studies.circuits.study:Circuits",
    ),
    Study(
        name="skills",
        question="Which skills are new, who should answer them, and what was forgotten by whom?",
        settings="crosstune.studies.skills.settings:SkillStudySettings",
        procedure="crosstune.studies.skills.study:Skills",
    ),
    Study(
        name="ranks",
        question="How large must a LoRA adapter be for a task, and when is a larger one not worth it?",
        settings="crosstune.studies.ranks.settings:RanksSettings",
        procedure="crosstune.studies.ranks.study:Ranks",
    ),
    Study(
        name="distill",
        question="What should a small model learn from a larger one, and does it pay?",
        settings="crosstune.studies.distill.settings:DistillStudySettings",
        procedure="crosstune.studies.distill.study:Distill",
    ),
)


def find_study(name: str) -> Study:
    """The study of that name, or in the file of that name.

    Args:
        name: Its name, or a Python file that holds one.

    Returns:
        The study.

    Raises:
        SettingsError: There is none.
    """
    if name.endswith(".py"):
        return Study.of_file(name)
    for study in STUDIES:
        if study.name == name:
            return study
    names = [study.name for study in STUDIES]
    near = difflib.get_close_matches(name, names, n=1)
    raise SettingsError(
        "study",
        law="must be in the catalogue",
        found=repr(name),
        remedy=f"Did you mean `{near[0]}`?" if near else f"There are: {', '.join(names)}.",
    )
