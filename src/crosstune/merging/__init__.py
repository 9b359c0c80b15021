"""Repair: give back what a fine-tune forgot, by choosing weights between the model before and the model after."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.merging.settings import GRANULARITIES, RepairSettings
from crosstune.merging.stage.settings import StageRepairSettings

if TYPE_CHECKING:
    from crosstune.merging.api import repair
    from crosstune.merging.checkpoints.endpoints import Ends, open_ends
    from crosstune.merging.result import Pick, Repair
    from crosstune.merging.search import repair_ends
    from crosstune.merging.session import Watch
    from crosstune.merging.stage.callback import RepairAtStageEnd
    from crosstune.merging.stage.outcome import StageRepair

__all__ = [
    "repair",
    "Repair",
    "Pick",
    "RepairSettings",
    "GRANULARITIES",
    "Ends",
    "open_ends",
    "repair_ends",
    "Watch",
    "RepairAtStageEnd",
    "StageRepair",
    "StageRepairSettings",
]

# Everything below needs torch, which is slow to import: a name is fetched on first use.
_HOMES = {
    "repair": "api",
    "Repair": "result",
    "Pick": "result",
    "Ends": "checkpoints.endpoints",
    "open_ends": "checkpoints.endpoints",
    "repair_ends": "search",
    "Watch": "session",
    "RepairAtStageEnd": "stage.callback",
    "StageRepair": "stage.outcome",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
