"""What a checkpoint belongs to: settings, model, tokenizer, rows and seed, as fingerprints and plain values."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from crosstune.foundation.models import weights_fingerprint
from crosstune.foundation.ranks import world_size
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.training.stage import StageData

# Where a stage may differ from its checkpoint: these decide what is kept or shown, not what is computed.
_FREE = ("keep_checkpoints", "report_to", "checkpoint_every", "log_every", "evaluation_tokens")


def stage_identity(
    model: nn.Module, data: StageData, settings: TrainingSettings, seed: int
) -> dict[str, Any]:
    """Everything that must be the same for a resumed stage to equal an uninterrupted one, as JSON values."""
    chosen = {
        f"settings.{field.name}": _plain(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.name not in _FREE
    }
    return {
        **chosen,
        "model": type(model).__name__,
        "weights": weights_fingerprint(model),
        "tokenizer": data.tokenizer,
        "rows": fingerprint([[row.row_id, row.input_ids, row.labels] for row in data.train]),
        "seed": seed,
        "processes": world_size(),
    }


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return list(value) if isinstance(value, tuple) else value
