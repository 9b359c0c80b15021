"""Floor 3: one question per study; the only place where wings meet.

>>> import crosstune.studies as studies
>>> [study.name for study in studies.STUDIES]
['conflict', 'repair', 'circuits', 'skills', 'ranks', 'distill']
"""

from __future__ import annotations

from crosstune.studies.catalogue import STUDIES, find_study
from crosstune.studies.faces import plan, run, show
from crosstune.studies.frame.plan import Plan, PlanLine, Progress
from crosstune.studies.study import Study

__all__ = ["STUDIES", "Plan", "PlanLine", "Progress", "Study", "find_study", "plan", "run", "show"]
