"""The frame of all studies: settings, the model they start from, cells that can be killed and resumed, and where these run.

`Procedure` is a study: it prepares, names its cells, sums up and says what its page shows; running, resuming, workers and the
report are inherited. `Cell` is what can be killed, resumed and placed anywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.studies.frame.settings import LearningSettings, SeededSettings, StudySettings

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

# Everything below needs torch, which is slow to import: a name is fetched on first use.
_HOMES = {
    "Procedure": "procedure",
    "Cell": "cell",
    "Phase": "cell",
    "StartModel": "start",
    "Timing": "costs",
    "time_training": "costs",
    "as_plan": "costs",
    "Plan": "plan",
    "MeanTable": "over_seeds",
    "SeedMean": "over_seeds",
    "mean_over_seeds": "over_seeds",
    "by_place": "over_seeds",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
