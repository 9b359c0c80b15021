"""Interference: do two learning signals pull apart, and where? Three instruments, side by side.

`ForgettingLedger` attributes the change of a task's loss along the path of the weights to components, in nats that add up.
`ConflictProbe` and `measure_conflict` ask whether gradients agree: at one state, and with a verdict over several.
`measure_rollback` puts one component back to where it was and measures what returns.

Where the numbers are made: the integral of the ledger in `ledger/quadrature.py`, its sums in `ledger/accounts.py`; rollback in
`ledger/rollback.py`; the corrected cosine in `conflict/cosine.py`, of windows in `conflict/windows.py`, peaks in `conflict/peaks.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings, LedgerSettings
from crosstune.interference.conflict.settings import (
    AgreementSettings,
    MeasureSettings,
    ProbeSettings,
)

if TYPE_CHECKING:
    from crosstune.interference.conflict.measure import measure_conflict
    from crosstune.interference.conflict.overhead import ProbeCost, probe_cost
    from crosstune.interference.conflict.probe import ConflictProbe
    from crosstune.interference.ledger.ledger import ForgettingLedger
    from crosstune.interference.ledger.rollback import compare_with_ledger, measure_rollback

__all__ = [
    "ForgettingLedger",
    "ConflictProbe",
    "measure_conflict",
    "measure_rollback",
    "compare_with_ledger",
    "ProbeCost",
    "probe_cost",
    "AgreementSettings",
    "MeasureSettings",
    "ProbeSettings",
    "BlockSettings",
    "GradientSettings",
    "LedgerSettings",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "ledger.ledger": "ForgettingLedger",
        "conflict.probe": "ConflictProbe",
        "conflict.measure": "measure_conflict",
        "ledger.rollback": "measure_rollback compare_with_ledger",
        "conflict.overhead": "ProbeCost probe_cost",
    },
)
