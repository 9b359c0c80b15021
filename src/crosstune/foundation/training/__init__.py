"""One Trainer, one clock (optimizer steps), one ledger: ``train_stage`` trains a model through one stage.

Names are loaded when first used: the settings need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosstune.foundation.training.adapters import with_lora
    from crosstune.foundation.training.arguments import learning_rate_factor
    from crosstune.foundation.training.callbacks import EarlyStopping, StageCost
    from crosstune.foundation.training.checkpoints import Stateful, drop_end
    from crosstune.foundation.training.ledger import LossLedger, NextToken, Term
    from crosstune.foundation.training.settings import (
        LoraSettings,
        StoppingSettings,
        TrainingSettings,
    )
    from crosstune.foundation.training.stage import StageData, StageResult
    from crosstune.foundation.training.trainer import StageTrainer, train_stage

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
    "StageCost": "callbacks",
    "EarlyStopping": "callbacks",
    "Stateful": "checkpoints",
    "drop_end": "checkpoints",
    "learning_rate_factor": "arguments",
}

__all__ = [
    "StageCost",
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
    "drop_end",
    "learning_rate_factor",
    "train_stage",
    "with_lora",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
