"""Pairs of checkpoints for the tests of a repair: full models and LoRA adapters, in memory and in folders."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tests.interference import tiny
from torch import Tensor

from crosstune.foundation.models import load_model, save_model

IDS = torch.tensor([[3, 4, 5, 13, 14, 15, 7, 8, 9, 20]])


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def moved(model: Any, words: Sequence[str] = ("",), seed: int = 3) -> Any:
    """A copy whose parameters with one of these words in their name are elsewhere."""
    after = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in after.named_parameters():
            if any(word in name for word in words):
                parameter.add_(0.05 * torch.randn_like(parameter))
    return after


def saved(model: Any, folder: Path) -> Path:
    """The folder with the model and the tiny tokenizer."""
    return save_model(model, tiny.tokenizer(), folder)


@functools.cache
def _base() -> Any:
    return tiny.llama(seed=5).eval()


def base() -> Any:
    """The model under all adapters here."""
    return copy.deepcopy(_base())


def adapted(model: Any, *, seed: int, fresh: bool = False, **options: Any) -> PeftModel:
    """The model with an adapter; B is random, or zero where fresh."""
    torch.manual_seed(seed)
    shape = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    made = get_peft_model(model, LoraConfig(**(shape | options)))
    if not fresh:
        for name, parameter in made.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return made.eval()


def saved_adapter(base_folder: Path, folder: Path, **options: Any) -> Path:
    """The folder of an adapter of the model in `base_folder`."""
    made = adapted(load_model(base_folder), **options)
    made.save_pretrained(folder)
    return folder


def vanilla(base_folder: Path, folder: Path) -> Any:
    """What PEFT alone makes of an adapter's folder."""
    return PeftModel.from_pretrained(load_model(base_folder), folder).eval()


def place(ends: Any, at: float) -> None:
    """Put the work model of a pair at (1 − at) · before + at · after."""
    parameters = dict(ends.model.named_parameters())
    with torch.no_grad():
        for name in ends.names:
            parameters[name].copy_(torch.lerp(ends.tensor(0, name), ends.tensor(1, name), at))
