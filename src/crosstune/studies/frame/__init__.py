"""The frame of all studies: settings, the model they start from, cells that can be killed and resumed, and where these run.

`Procedure` is a study: it prepares, names its cells, sums up and says what its page shows; running, resuming, workers and the
report are inherited. `Cell` is what can be killed, resumed and placed anywhere.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.studies.frame.settings import SeededSettings, StudySettings

if TYPE_CHECKING:
    from crosstune.studies.frame.cell import Cell
    from crosstune.studies.frame.costs import Timing, as_plan, time_training
    from crosstune.studies.frame.procedure import Procedure
    from crosstune.studies.frame.start import StartModel

__all__ = [
    "Procedure",
    "Cell",
    "StudySettings",
    "SeededSettings",
    "StartModel",
    "Timing",
    "time_training",
    "as_plan",
]

# Everything below needs torch, which is slow to import: a name is fetched on first use.
_HOMES = {
    "Procedure": "procedure",
    "Cell": "cell",
    "StartModel": "start",
    "Timing": "costs",
    "time_training": "costs",
    "as_plan": "costs",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
