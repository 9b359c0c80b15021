"""Repair: give back what a fine-tune forgot, by choosing weights between the model before and the model after."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.interference.repair.settings import GRANULARITIES, RepairSettings
from crosstune.interference.repair.stage.settings import StageRepairSettings

if TYPE_CHECKING:
    from crosstune.interference.repair.checkpoints.ends import Ends, open_ends
    from crosstune.interference.repair.face import repair
    from crosstune.interference.repair.harness import repair_ends
    from crosstune.interference.repair.outcome import Pick, Repair
    from crosstune.interference.repair.session import Watch
    from crosstune.interference.repair.stage.callback import RepairAtStageEnd
    from crosstune.interference.repair.stage.outcome import StageRepair

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
    "repair": "face",
    "Repair": "outcome",
    "Pick": "outcome",
    "Ends": "checkpoints.ends",
    "open_ends": "checkpoints.ends",
    "repair_ends": "harness",
    "Watch": "session",
    "RepairAtStageEnd": "stage.callback",
    "StageRepair": "stage.outcome",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
