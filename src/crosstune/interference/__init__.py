"""Interference: do two learning signals pull apart, and where? Three instruments, side by side.

`ForgettingLedger` books the change of a task's loss on the path of the weights, per component, in nats that add up.
`ConflictProbe` and `measure_conflict` ask whether gradients agree, over windows of states and at one state.
`measure_rollback` puts one component back to where it was and measures what returns.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings, LedgerSettings
from crosstune.interference.conflict.settings import AgreementSettings, ProbeSettings

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
    "ProbeSettings",
    "BlockSettings",
    "GradientSettings",
    "LedgerSettings",
]

# Everything below needs torch, which is slow to import: a name is fetched on first use.
_HOMES = {
    "ForgettingLedger": "ledger.ledger",
    "ConflictProbe": "conflict.probe",
    "measure_conflict": "conflict.measure",
    "measure_rollback": "ledger.rollback",
    "compare_with_ledger": "ledger.rollback",
    "ProbeCost": "conflict.overhead",
    "probe_cost": "conflict.overhead",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
