"""Tiny random decoders of every known family, and the LoRA adapters the tests put on them."""

from __future__ import annotations

from typing import Any

import peft
import torch
import transformers

_SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_NO_GROUPS = {**_SIZES, "num_key_value_heads": 4}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _SIZES),
    "llama_biased": ("LlamaConfig", {**_SIZES, "attention_bias": True, "mlp_bias": True}),
    "mistral": ("MistralConfig", _SIZES),
    "qwen2": ("Qwen2Config", _SIZES),
    "qwen3": ("Qwen3Config", {**_SIZES, "head_dim": 8}),
    "gemma2": ("Gemma2Config", {**_SIZES, "head_dim": 8}),
    "gemma3_text": ("Gemma3TextConfig", {**_SIZES, "head_dim": 8}),
    "phi3": ("Phi3Config", _SIZES),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": 40,
            "n_embd": 16,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _NO_GROUPS),
    "mixtral": ("MixtralConfig", {**_SIZES, "num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**_SIZES, **_EXPERTS, "shared_expert_intermediate_size": 20, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", {**_SIZES, **_EXPERTS, "head_dim": 8, "mlp_only_layers": [1]}),
}

LORA: dict[str, dict[str, Any]] = {
    "all-linear": {},
    "dora": {"use_dora": True},
    "biased": {"lora_bias": True},
    "saved": {"modules_to_save": ["lm_head"]},
}

MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
EXPERT_PARAMETERS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
EMBEDDINGS = {"gpt2": "wte", "gpt_neox": "embed_in"}
ROWS = torch.tensor([[3, 7, 11, 5, 30, 2, 9, 21], [8, 8, 1, 4, 19, 33, 6, 12]])


def decoder(name: str, *, seed: int = 0, **settings: Any) -> Any:
    """A random decoder in eval mode whose every parameter, biases and norms included, is drawn at random."""
    kind, sizes = CONFIGS[name]
    config = getattr(transformers, kind)(**{**sizes, **settings})
    config._attn_implementation = "eager"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def with_lora(model: Any, *, seed: int = 1, **settings: Any) -> Any:
    """The model with an adapter of rank 2 whose B factors are not zero."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return adapted


def linear_targets(name: str) -> Any:
    """All linear modules; of mixtures the attention, since PEFT turns the rest into expert parameters."""
    return ["q_proj", "k_proj", "v_proj", "o_proj"] if name in MIXTURES else "all-linear"


def tensors_like(model: Any, *, seed: int, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """A random tensor for every parameter."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype or p.dtype)
        for name, p in model.named_parameters()
    }
