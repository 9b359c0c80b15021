"""The frame of all studies: settings, the model they start from, cells that can be killed and resumed, and where these run.

`Procedure` is a study: it prepares, names its cells, sums up and says what its page shows; running, resuming, workers and the
report are inherited. `Cell` is what can be killed, resumed and placed anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from
from crosstune.studies.frame.settings import (
    LearningSettings,
    SeededSettings,
    StudySettings,
    require,
)

if TYPE_CHECKING:
    from crosstune.studies.frame.cell import Cell, Phase
    from crosstune.studies.frame.costs import Timing, as_plan, time_training
    from crosstune.studies.frame.over_seeds import MeanTable, SeedMean, by_place, mean_over_seeds
    from crosstune.studies.frame.plan import Plan
    from crosstune.studies.frame.procedure import Procedure
    from crosstune.studies.frame.start import StartModel

__all__ = [
    "Procedure",
    "Cell",
    "Phase",
    "StudySettings",
    "SeededSettings",
    "LearningSettings",
    "require",
    "StartModel",
    "Timing",
    "time_training",
    "as_plan",
    "Plan",
    "MeanTable",
    "SeedMean",
    "mean_over_seeds",
    "by_place",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "procedure": "Procedure",
        "cell": "Cell Phase",
        "start": "StartModel",
        "costs": "Timing time_training as_plan",
        "plan": "Plan",
        "over_seeds": "MeanTable SeedMean mean_over_seeds by_place",
    },
)
