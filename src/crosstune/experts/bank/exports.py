"""Experts as servers take them: one ordinary adapter with its scale in B, and a check of the rules by which vLLM reads one.

The rules are those of vLLM's `parse_fine_tuned_lora_name` and `PEFTHelper`. Releases differ in whether they read `alpha_pattern` and
`rank_pattern` or pass over them without a word, so these are refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstune.experts.bank.log import Expert
from crosstune.experts.bank.storage import WEIGHTS, check_free
from crosstune.experts.gated import GatedLinear
from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.storage import atomic_folder, read_json

_CONFIG = "adapter_config.json"
_ENDS = (".lora_A.weight", ".lora_B.weight")
_LARGEST = 512  # of the ranks for which vLLM has kernels
_ODD = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication",
        "alora_invocation_tokens", "use_qalora", "use_bdlora", "rank_pattern", "alpha_pattern")  # fmt: skip
_PLAIN = (True, False, None, "gaussian", "eva", "orthogonal")  # leave the base model as it is


def weighed(layer: GatedLinear, shares: Mapping[Expert, float]) -> tuple[Tensor, Tensor]:
    """A [Σ rank, in] and B [out, Σ rank] with B A = Σ share · update: side by side, shares and scales in B; 0 of experts elsewhere."""
    both = []
    for expert, share in shares.items():
        name, like = expert.adapter, layer.weight
        if name in layer.lora_A:
            a, b = (cast(Tensor, f[name].weight).detach() for f in (layer.lora_A, layer.lora_B))
            both.append((a, share * layer.scaling[name] * b))
        else:
            narrow = like.new_zeros(expert.rank, cast(int, layer.in_features))
            both.append((narrow, like.new_zeros(cast(int, layer.out_features), expert.rank)))
    return torch.cat([a for a, _ in both]), torch.cat([b for _, b in both], dim=1)


def export(model: Any, folder: Path | str, shares: Mapping[Expert, float]) -> Path:
    """Write Σ share · update of some experts of a PEFT model as one adapter whose alpha is its rank."""
    law = "must be finite numbers, of one expert or more"
    found = {expert.name: share for expert, share in shares.items()}
    kept = bool(shares) and all(map(isfinite, shares.values()))
    hold(kept, SettingsError, "weights", (law, found, "Name experts, with the weight of each."))
    place, rank = Path(folder), sum(expert.rank for expert in shares)
    check_free(place, _CONFIG, "an adapter")
    plain = model.peft_config[next(iter(shares)).adapter]
    same = ("task_type", "layers_to_transform", "fan_in_fan_out")
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted({target for expert in shares for target in expert.targets}),
        inference_mode=True,
        base_model_name_or_path=model.name_or_path,
        **{name: getattr(plain, name) for name in same},
    )
    tensors: dict[str, Tensor] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, GatedLinear) and any(e.adapter in layer.lora_A for e in shares):
            tensors |= {path + end: f for end, f in zip(_ENDS, weighed(layer, shares), strict=True)}
    with atomic_folder(place, replace=True) as fresh:
        config.save_pretrained(str(fresh))
        save_file(tensors, fresh / WEIGHTS, metadata={"format": "pt"})
    return place


def check_served(folder: Path | str) -> list[str]:
    """What keeps vLLM from serving an adapter's folder as PEFT computes it, a sentence each; none for what is exported."""
    config, tensors = read_json(Path(folder) / _CONFIG), load_file(Path(folder) / WEIGHTS)
    odd = [name for name in tensors if not name.endswith(_ENDS)]
    widest = max((len(f) for name, f in tensors.items() if name.endswith(_ENDS[0])), default=1)
    found = [f"{name} is no lora_A.weight or lora_B.weight" for name in odd]
    found += [f"{key} is {config[key]}, which is not served" for key in _ODD if config.get(key)]
    if config["bias"] != "none":
        found.append(f"bias is {config['bias']}, and must be none")
    if config["init_lora_weights"] not in _PLAIN:
        found.append(f"init_lora_weights is {config['init_lora_weights']}: it changed the base")
    if not widest <= config["r"] <= _LARGEST:
        found.append(f"r is {config['r']}, and must be from {widest}, a layer's, to {_LARGEST}")
    return found
