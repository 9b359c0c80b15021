"""Repair: give back what a fine-tune forgot, by choosing weights between the model before and the model after."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.merging.settings import GRANULARITIES, RepairSettings
from crosstune.merging.stage.settings import StageRepairSettings

if TYPE_CHECKING:
    from crosstune.merging.api import repair
    from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints
    from crosstune.merging.result import Pick, Repair
    from crosstune.merging.search import repair_endpoints
    from crosstune.merging.session import Watch
    from crosstune.merging.stage.callback import RepairAtStageEnd
    from crosstune.merging.stage.in_place import StageRepair

__all__ = [
    "repair",
    "Repair",
    "Pick",
    "RepairSettings",
    "GRANULARITIES",
    "Endpoints",
    "open_endpoints",
    "repair_endpoints",
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
    "Endpoints": "checkpoints.endpoints",
    "open_endpoints": "checkpoints.endpoints",
    "repair_endpoints": "search",
    "Watch": "session",
    "RepairAtStageEnd": "stage.callback",
    "StageRepair": "stage.in_place",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
