"""Where each known family of decoders keeps its components: one table entry per family.

To add a family, instantiate a tiny random model of it, read its `named_parameters()`, and write down which
module holds which component. `tests/laws/test_partition.py` then proves that nothing is forgotten or counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Holds:
    """Which components one module's output features carry, and how they are laid out.

    Args:
        components: The components in the order in which they lie along the output features.
        joint: Name of the component when LoRA's A factor serves all of them at once.
        per_head: The components alternate inside each head (GPT-NeoX) instead of lying in whole blocks.
        transposed: The weight is stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``.
    """

    components: tuple[str, ...]
    joint: str | None = None
    per_head: bool = False
    transposed: bool = False
    experts: bool = False


@dataclass(frozen=True)
class Family:
    """The layout of one family of decoders."""

    blocks: str
    outside: Mapping[str, Holds]
    inside: Mapping[str, Holds]


def _one(component: str, *, transposed: bool = False) -> Holds:
    return Holds((component,), transposed=transposed)


_QKV = ("attn.q", "attn.k", "attn.v")

_LLAMA_OUTSIDE = {
    "model.embed_tokens": _one("embed"),
    "model.norm": _one("norm"),
    "lm_head": _one("head"),
}
_ATTENTION = {
    "self_attn.q_proj": _one("attn.q"),
    "self_attn.k_proj": _one("attn.k"),
    "self_attn.v_proj": _one("attn.v"),
    "self_attn.o_proj": _one("attn.o"),
}
_HEAD_NORMS = {"self_attn.q_norm": _one("norm"), "self_attn.k_norm": _one("norm")}
_NORMS = {"input_layernorm": _one("norm"), "post_attention_layernorm": _one("norm")}
_SANDWICH_NORMS = _NORMS | {
    "pre_feedforward_layernorm": _one("norm"),
    "post_feedforward_layernorm": _one("norm"),
}
_GATED_MLP = {
    "mlp.gate_proj": _one("mlp.gate"),
    "mlp.up_proj": _one("mlp.up"),
    "mlp.down_proj": _one("mlp.down"),
}
# transformers 5 keeps all experts of a layer in two three-dimensional parameters, and its `mlp.gate` is the router.
_EXPERTS = {
    "mlp.gate": _one("router"),
    "mlp.experts.gate_up_proj": Holds(
        ("mlp.experts.gate", "mlp.experts.up"), joint="mlp.experts.gate_up", experts=True
    ),
    "mlp.experts.down_proj": Holds(("mlp.experts.down",), experts=True),
}
_SHARED_EXPERT = {
    "mlp.shared_expert.gate_proj": _one("mlp.shared.gate"),
    "mlp.shared_expert.up_proj": _one("mlp.shared.up"),
    "mlp.shared_expert.down_proj": _one("mlp.shared.down"),
    "mlp.shared_expert_gate": _one("router"),
}


def _llama_like(inside: Mapping[str, Holds]) -> Family:
    return Family("model.layers", _LLAMA_OUTSIDE, inside)


_LLAMA = _llama_like(_ATTENTION | _NORMS | _GATED_MLP)

#: Family by `config.model_type`.
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _llama_like(_ATTENTION | _HEAD_NORMS | _NORMS | _GATED_MLP),
    "gemma2": _llama_like(_ATTENTION | _SANDWICH_NORMS | _GATED_MLP),
    "gemma3_text": _llama_like(_ATTENTION | _HEAD_NORMS | _SANDWICH_NORMS | _GATED_MLP),
    "phi3": _llama_like(
        _NORMS
        | {
            "self_attn.qkv_proj": Holds(_QKV, joint="attn.qkv"),
            "self_attn.o_proj": _one("attn.o"),
            "mlp.gate_up_proj": Holds(("mlp.gate", "mlp.up"), joint="mlp.gate_up"),
            "mlp.down_proj": _one("mlp.down"),
        },
    ),
    "gpt2": Family(
        "transformer.h",
        {
            "transformer.wte": _one("embed"),
            "transformer.wpe": _one("embed.position"),
            "transformer.ln_f": _one("norm"),
            "lm_head": _one("head"),
        },
        {
            "ln_1": _one("norm"),
            "attn.c_attn": Holds(_QKV, joint="attn.qkv", transposed=True),
            "attn.c_proj": _one("attn.o", transposed=True),
            "ln_2": _one("norm"),
            "mlp.c_fc": _one("mlp.up", transposed=True),
            "mlp.c_proj": _one("mlp.down", transposed=True),
        },
    ),
    "gpt_neox": Family(
        "gpt_neox.layers",
        {
            "gpt_neox.embed_in": _one("embed"),
            "gpt_neox.final_layer_norm": _one("norm"),
            "lm_head": _one("head"),
        },
        _NORMS
        | {
            "attention.query_key_value": Holds(_QKV, joint="attn.qkv", per_head=True),
            "attention.dense": _one("attn.o"),
            "mlp.dense_h_to_4h": _one("mlp.up"),
            "mlp.dense_4h_to_h": _one("mlp.down"),
        },
    ),
    "mixtral": _llama_like(_ATTENTION | _NORMS | _EXPERTS),
    # Mixture models may keep some layers dense (`mlp_only_layers`), so both kinds of MLP are listed.
    "qwen2_moe": _llama_like(_ATTENTION | _NORMS | _EXPERTS | _SHARED_EXPERT | _GATED_MLP),
    "qwen3_moe": _llama_like(_ATTENTION | _HEAD_NORMS | _NORMS | _EXPERTS | _GATED_MLP),
}
