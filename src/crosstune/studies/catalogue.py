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
        runs="crosstune.studies.conflict.flow:run",
        plans="crosstune.studies.conflict.plan:plan",
    ),
    Study(
        name="repair",
        question="How much of what a fine-tune forgot can be given back, at what price, and where?",
        settings="crosstune.studies.repair.settings:RepairStudySettings",
        runs="crosstune.studies.repair.flow:run",
        plans="crosstune.studies.repair.plan:plan",
    ),
    Study(
        name="circuits",
        question="Which attention heads do two tasks pull at together or against each other, sample by sample?",
        settings="crosstune.studies.circuits.settings:CircuitStudySettings",
        runs="crosstune.studies.circuits.flow:run",
        plans="crosstune.studies.circuits.plan:plan",
    ),
    Study(
        name="foretell",
        question="Do circuit scores, taken before a task is learned, foretell which heads and rows will forget?",
        settings="crosstune.studies.foretell.settings:ForetellSettings",
        runs="crosstune.studies.foretell.flow:run",
        plans="crosstune.studies.foretell.plan:plan",
    ),
)


def find_study(name: str) -> Study:
    """The study of that name.

    Args:
        name: Its name.

    Returns:
        The study.

    Raises:
        SettingsError: There is none.
    """
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
