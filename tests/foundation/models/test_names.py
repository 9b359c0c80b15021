"""Names of parameters, with every wrapping PEFT and torch.compile put around them."""

from __future__ import annotations

import pytest

from crosstune.foundation.models.names import ParameterName, read_name

Q = "model.layers.0.self_attn.q_proj"
READ = {
    f"{Q}.weight": ParameterName(Q, "weight"),
    f"{Q}.bias": ParameterName(Q, "features"),
    f"_orig_mod.{Q}.weight": ParameterName(Q, "weight"),
    f"base_model.model.{Q}.base_layer.weight": ParameterName(Q, "weight"),
    f"{Q}.base_layer.bias": ParameterName(Q, "features"),
    f"base_model.model.{Q}.lora_A.default.weight": ParameterName(Q, "weight", "A"),
    f"base_model.model.{Q}.lora_B.default.weight": ParameterName(Q, "weight", "B"),
    f"base_model.model.{Q}.lora_B.my-task.bias": ParameterName(Q, "features", "B"),
    f"base_model.model.{Q}.lora_magnitude_vector.default.weight": ParameterName(Q, "features"),
    "base_model.model.lm_head.modules_to_save.default.weight": ParameterName("lm_head", "weight"),
    "base_model.model.lm_head.original_module.weight": ParameterName("lm_head", "weight"),
    "base_model.model.model.embed_tokens.lora_embedding_A.default": ParameterName(
        "model.embed_tokens", "weight", "A"
    ),
    "model.layers.3.mlp.experts.base_layer.base_layer.gate_up_proj": ParameterName(
        "model.layers.3.mlp.experts.gate_up_proj", "weight"
    ),
}


@pytest.mark.parametrize("name", READ)
def test_a_name_is_read(name: str) -> None:
    assert read_name(name) == READ[name]
