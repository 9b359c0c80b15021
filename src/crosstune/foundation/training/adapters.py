"""LoRA adapters around a model, seeded by name and not by what ran before."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training.settings import LoraSettings


def with_lora(model: nn.Module, settings: LoraSettings, seed: int) -> PeftModel:
    """The model with trainable adapters and frozen weights; it computes what it did before.

    Args:
        model: A causal language model; it is wrapped in place.
        settings: The adapters' shape.
        seed: Decides A's first values (B starts at 0).

    Returns:
        A PEFT model with one adapter named ``default``.

    Raises:
        SettingsError: The model has no modules of the named targets.
    """
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(Seeds(seed).derive("lora"))
        try:
            return cast(PeftModel, get_peft_model(cast(Any, model), config))
        except ValueError as error:
            raise SettingsError(
                "lora.targets",
                law="must name modules of the model",
                found=f"{settings.targets!r}: {error}",
                remedy="Use all-linear, or names as q_proj and v_proj.",
            ) from error
