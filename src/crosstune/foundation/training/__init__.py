"""One Trainer, one clock (optimizer steps), one ledger: ``train_stage`` trains a model through one stage.

Names are loaded when first used: the settings need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "TrainingSettings": "settings",
    "LoraSettings": "settings",
    "StoppingSettings": "settings",
    "StageData": "stage",
    "StageResult": "stage",
    "StageTrainer": "trainer",
    "train_stage": "trainer",
    "with_lora": "adapters",
    "LossLedger": "ledger",
    "Term": "ledger",
    "NextToken": "ledger",
    "Cost": "cost",
    "EarlyStopping": "stopping",
    "Stateful": "checkpoints",
    "learning_rate_factor": "schedule",
}

__all__ = [
    "Cost",
    "EarlyStopping",
    "LoraSettings",
    "LossLedger",
    "NextToken",
    "StageData",
    "StageResult",
    "StageTrainer",
    "Stateful",
    "StoppingSettings",
    "Term",
    "TrainingSettings",
    "learning_rate_factor",
    "train_stage",
    "with_lora",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
