"""Snapshots of a live model: what moved is found, what does not fit is refused, nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs
from torch import Tensor

from crosstune.foundation.errors import CheckpointError, ModelError, UnsupportedError
from crosstune.merging.checkpoints.live import snapshot


def state(model: Any) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def add(model: Any, words: list[str], amount: float = 0.1) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in words):
                parameter.add_(amount)


def test_only_what_moved_is_named_and_the_snapshot_stays() -> None:
    model = tiny.llama(tied=True)
    before = state(model)
    add(model, ["embed", "layers.1.mlp.up"])
    now = model.lm_head.weight.detach().clone()
    names, (start, end) = snapshot(model, before)
    assert names == ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight")
    add(model, ["embed"])
    assert torch.equal(end[names[0]].read(), now)
    assert torch.equal(start[names[0]].read(), before[names[0]])


def test_a_tied_parameter_may_have_either_name() -> None:
    model = tiny.llama(tied=True)
    before = state(model)
    before["lm_head.weight"] = before.pop("model.embed_tokens.weight")
    assert snapshot(model, before)[0] == ()


def test_misfits_are_refused() -> None:
    model = tiny.llama()
    before = state(model)
    missing = {n: t for n, t in before.items() if n != "lm_head.weight"}
    with pytest.raises(CheckpointError, match="lm_head.weight is missing"):
        snapshot(model, missing)
    with pytest.raises(CheckpointError, match=r"lm_head.weight is \(1,\), in the model \(23, 16\)"):
        snapshot(model, before | {"lm_head.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match="is torch.float16, in `after` torch.float32"):
        snapshot(model, {name: value.half() for name, value in before.items()})
    add(model, ["norm"], float("nan"))
    with pytest.raises(ModelError, match="`after.model.*norm.weight` must be finite"):
        snapshot(model, before)


def test_a_used_adapter_is_refused_with_a_remedy_unless_its_a_stood_still() -> None:
    model = pairs.adapted(pairs.base(), seed=1)
    before = state(model)
    add(model, ["lora_B"])
    names, _ = snapshot(model, before)
    assert len(names) == 6 and all("lora_B" in name for name in names)
    add(model, ["lora_A"])
    with pytest.raises(UnsupportedError, match="fresh adapter .* Merge the adapter between stages"):
        snapshot(model, before)


def test_an_adapter_must_be_all_that_is_trained() -> None:
    model = pairs.adapted(pairs.base(), seed=1, fresh=True)
    model.base_model.model.model.norm.weight.requires_grad_(True)
    with pytest.raises(UnsupportedError, match="must train its adapter only; found .*norm.weight"):
        snapshot(model, state(model))
