"""Repair: give back what a fine-tune forgot, by choosing weights between the model before and the model after.

Where the numbers are made: the gradient of a coefficient in `interpolation.py`, for every task and fold at once in `evaluations.py`; the search
over coefficients in `optimise/descent.py`, the front and its hypervolume in `optimise/archive.py`; intervals in `findings/scored.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from
from crosstune.merging.settings import GRANULARITIES, RepairSettings
from crosstune.merging.stage.settings import StageRepairSettings

if TYPE_CHECKING:
    from crosstune.merging.api import repair, repair_endpoints
    from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints
    from crosstune.merging.result import Pick, Repair
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

__getattr__ = _fetched_from(
    __name__,
    {
        "api": "repair repair_endpoints",
        "result": "Repair Pick",
        "checkpoints.endpoints": "Endpoints open_endpoints",
        "session": "Watch",
        "stage.callback": "RepairAtStageEnd",
        "stage.in_place": "StageRepair",
    },
)
