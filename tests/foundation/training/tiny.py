"""A random Llama of two layers and rows of unequal length: enough to train a stage in a fraction of a second."""

from __future__ import annotations

import gc
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from crosstune.foundation.data import Encoded
from crosstune.foundation.training import StageData, TrainingSettings

VOCABULARY = 32

# Every stage begins with a full garbage collection (accelerate's free_memory), which walks all of torch and
# transformers: more work than the stage. What was imported until now will not be garbage.
gc.collect()
gc.freeze()


def model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**config, **changes}))


def rows(count: int, seed: int = 0, name: str = "row") -> list[Encoded]:
    draw = random.Random(seed)
    return [_row(f"{name}{at}", draw) for at in range(count)]


def _row(row_id: str, draw: random.Random) -> Encoded:
    ids = [1, *(draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(2, 20)))]
    prompt = draw.randrange(1, 3)
    labels = [-100] * prompt + ids[prompt:]
    scored = len(ids) - prompt
    return Encoded(row_id, ids, labels, scored, 2 * scored, cut=False, unit=row_id)


def data(count: int = 21, held_out: int = 5) -> StageData:
    looks = {"other": rows(held_out, seed=1, name="held")} if held_out else {}
    return StageData(rows(count), pad_id=0, held_out=looks)


def settings(**changes: Any) -> TrainingSettings:
    chosen: dict[str, Any] = {"learning_rate": 1e-2, "steps": 6, "batch_rows": 8, "log_every": 1}
    return TrainingSettings(**{**chosen, **changes})


def weights(some: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in some.named_parameters()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def losses(history: tuple[dict[str, Any], ...]) -> list[float]:
    return [line["loss"] for line in history if "loss" in line]


def folder_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def comparable(history: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The log without the wall-clock line that ends it."""
    return [line for line in history if "train_runtime" not in line]
