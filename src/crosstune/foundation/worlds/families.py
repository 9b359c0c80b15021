"""Tiny random models of named families in a local folder: stand-ins for hub ids where there is no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from crosstune.foundation.errors import ModelError
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.storage import atomic_folder
from crosstune.foundation.worlds.embedded import save_tokenizer
from crosstune.foundation.worlds.settings import WorldSettings

_LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_HEAD_DIM = {"head_dim": 8}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_experts": 4}
_SLIDING = {"sliding_window": 64}

# What makes each family tiny; everything else is as its configuration has it.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE | _SLIDING,
    "mixtral": _LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _LLAMA_LIKE,
    "qwen2_moe": _LLAMA_LIKE | _EXPERTS | {"shared_expert_intermediate_size": 24},
    "qwen3": _LLAMA_LIKE | _HEAD_DIM,
    "qwen3_moe": _LLAMA_LIKE | _EXPERTS | _HEAD_DIM,
    "gemma2": _LLAMA_LIKE | _HEAD_DIM | _SLIDING,
    "gemma3_text": _LLAMA_LIKE | _HEAD_DIM | _SLIDING,
    "phi3": _LLAMA_LIKE | _SLIDING,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gpt_neox": {
        name: value for name, value in _LLAMA_LIKE.items() if name != "num_key_value_heads"
    },
}


def random_model(family: str, folder: Path | str, *, seed: int = 0, **dims: Any) -> Path:
    """A model folder with random weights and the embedded world's tokenizer.

    Args:
        family: A key of `FAMILIES`, as in ``config.model_type``.
        folder: Where it appears; a folder that exists is kept as it is.
        seed: Chooses the weights.
        dims: Entries of the configuration that shall differ from the tiny ones.

    Returns:
        The folder; `AutoModelForCausalLM` and `AutoTokenizer` read it.

    Raises:
        ModelError: The family is not among those built here.
    """
    family = {"gemma3": "gemma3_text"}.get(family, family)
    if family not in FAMILIES:
        raise ModelError(
            "family",
            law=f"must be one of {', '.join(FAMILIES)}",
            found=repr(family),
            remedy="Choose a family with the same layout, or add one to worlds/families.py.",
        )
    world = WorldSettings()
    languages = (world.language, *world.other_languages)
    with atomic_folder(folder) as temporary, torch.random.fork_rng(devices=[]):
        tokenizer = save_tokenizer(temporary, languages, world.vocabulary, world.context)
        torch.manual_seed(Seeds(seed).derive("random model", family))
        config = transformers.AutoConfig.for_model(
            family,
            **{
                "vocab_size": len(tokenizer),
                "bos_token_id": tokenizer.bos_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": None,
                **FAMILIES[family],
                **dims,
            },
        )
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(temporary)
    return Path(folder)
