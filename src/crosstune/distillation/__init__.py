"""A student learns from a teacher through many loss terms on a curriculum, and every term is accounted for.

`settings` and `curriculum` (no torch): which terms, and when they count · `students` makes a student of the teacher's own weights, by
the mathematics of `pruning` · `divergences` and `head`: cross entropy and divergence from one projection · `cache`: a teacher that is read once · `terms`: what is learned, and in `routing` of which of the teacher's `offers` ·
`trainer` runs them in a `stage` that holds its books against evaluation, `progress` says how far it is, `checks` what is wrong, `replaying` takes one step again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.distillation.cache import CachedTeacher, cache_teacher
    from crosstune.distillation.checks import Check, TrainingBooks, findings
    from crosstune.distillation.curriculum import Curriculum, CurriculumPhase
    from crosstune.distillation.settings import DistillationSettings
    from crosstune.distillation.students import Student, student_from
    from crosstune.distillation.trainer import DistillationTrainer

__all__ = [
    "CachedTeacher",
    "Check",
    "Curriculum",
    "CurriculumPhase",
    "DistillationSettings",
    "DistillationTrainer",
    "Student",
    "TrainingBooks",
    "cache_teacher",
    "findings",
    "student_from",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "cache": "CachedTeacher cache_teacher",
        "checks": "Check TrainingBooks findings",
        "curriculum": "Curriculum CurriculumPhase",
        "settings": "DistillationSettings",
        "students": "Student student_from",
        "trainer": "DistillationTrainer",
    },
)
