"""One Trainer, one clock (optimizer steps), one ledger: ``train_stage`` trains a model through one stage.

Names are loaded when first used: the settings need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.foundation.training.adapters import with_lora
    from crosstune.foundation.training.arguments import learning_rate_factor
    from crosstune.foundation.training.callbacks import EarlyStopping, StageCost
    from crosstune.foundation.training.checkpoints import Stateful, drop_end
    from crosstune.foundation.training.ledger import LossLedger
    from crosstune.foundation.training.settings import (
        LoraSettings,
        StoppingSettings,
        TrainingSettings,
    )
    from crosstune.foundation.training.stage import StageData, StageResult
    from crosstune.foundation.training.terms import (
        Entry,
        Group,
        Needs,
        NextToken,
        Seen,
        Term,
        Terms,
        Windowed,
    )
    from crosstune.foundation.training.trainer import StageTrainer, train_stage


__all__ = [
    "StageCost",
    "EarlyStopping",
    "Group",
    "Entry",
    "LoraSettings",
    "LossLedger",
    "Needs",
    "NextToken",
    "Terms",
    "Seen",
    "StageData",
    "StageResult",
    "StageTrainer",
    "Stateful",
    "StoppingSettings",
    "Term",
    "TrainingSettings",
    "Windowed",
    "drop_end",
    "learning_rate_factor",
    "train_stage",
    "with_lora",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "settings": "TrainingSettings LoraSettings StoppingSettings",
        "stage": "StageData StageResult",
        "trainer": "StageTrainer train_stage",
        "adapters": "with_lora",
        "ledger": "LossLedger",
        "terms": "Group Entry Needs NextToken Terms Seen Term Windowed",
        "callbacks": "StageCost EarlyStopping",
        "checkpoints": "Stateful drop_end",
        "arguments": "learning_rate_factor",
    },
)
