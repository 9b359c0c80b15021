"""What a parameter's name says: its module, and the role PEFT gave it.

`base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight` is factor B of
`model.layers.0.self_attn.q_proj`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from crosstune.foundation.models.site import Factor

Shape = Literal["weight", "features"]

# `base_layer` and `original_module` wrap the module PEFT found; `modules_to_save.<adapter>` is its trained copy.
_WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)")
_FACTOR = re.compile(r"\.lora_(?:embedding_)?([AB])\.[^.]+(\.weight|\.bias)?$")
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector\.[^.]+(\.weight)?$")


@dataclass(frozen=True)
class ParameterName:
    """One parameter's name, read.

    Args:
        module: Path of the module (or of the bare parameter) in the model without PEFT.
        role: ``"weight"``: a matrix; ``"features"``: one number per output feature (bias, DoRA magnitude).
    """

    module: str
    role: Shape
    factor: Factor | None = None


def read_name(name: str) -> ParameterName:
    """Return what a name of ``named_parameters()`` says, with PEFT's and torch.compile's wrapping removed."""
    plain = name.removeprefix("_orig_mod.").removeprefix("base_model.model.")
    factor: Factor | None = None
    role: Shape = "features" if plain.endswith(".bias") else "weight"
    if found := _FACTOR.search(plain):
        factor = "A" if found[1] == "A" else "B"
        plain = plain[: found.start()]
    elif found := _MAGNITUDE.search(plain):
        role, plain = "features", plain[: found.start()]
    module = _WRAPPERS.sub("", plain).removesuffix(".weight").removesuffix(".bias")
    return ParameterName(module, role, factor)
