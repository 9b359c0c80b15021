"""Adapters as factors: read alike from memory and folder, checked against their base, filled back exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.merging import pairs
from torch import Tensor

from crosstune.foundation.errors import CheckpointError, ModelError, StorageError, UnsupportedError
from crosstune.merging.checkpoints.adapters import (
    active_adapter,
    adapter_of,
    base_weights,
    check_plain,
    file_key,
    fill,
    is_adapter_folder,
    layers_of,
    parameter_name,
    plain_name,
    read_adapter,
    read_config,
    unwrap,
    wrap,
)

Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pairs.saved(pairs.base(), tmp_path / "base")
    options = {"r": 3, "use_rslora": True, "rank_pattern": {"q_proj": 4}}
    return pairs.saved_adapter(tmp_path / "base", tmp_path / "adapter", seed=1, **options)


def test_a_folder_and_the_model_it_was_saved_from_give_the_same_factors(folder: Path) -> None:
    base = pairs.base()
    before = pairs.logits(base)
    stored = read_adapter(base, folder, "after")
    held = adapter_of(pairs.vanilla(folder.parent / "base", folder), "after")
    for (name, one), (other_name, other) in zip(stored.tensors(), held.tensors(), strict=True):
        assert name == other_name and torch.equal(one, other)
    assert stored.factors[Q].rank == 4 and stored.factors[Q].scale == pytest.approx(8 / 4**0.5)
    assert torch.equal(pairs.logits(base), before) and not hasattr(base, "peft_config")


def test_zero_b_changes_nothing() -> None:
    assert adapter_of(pairs.adapted(pairs.base(), seed=1, fresh=True), "after").changes_nothing
    assert not adapter_of(pairs.adapted(pairs.base(), seed=1), "after").changes_nothing


def test_wrapping_draws_no_random_number_and_is_undone(folder: Path) -> None:
    base, adapter = pairs.base(), read_adapter(pairs.base(), folder, "after")
    state = torch.get_rng_state()
    model = wrap(base, adapter.config, "after")
    assert torch.equal(torch.get_rng_state(), state)
    own = {n: p.detach().clone() for n, p in model.named_parameters() if ".lora_" in n}
    with torch.no_grad():
        fill(model, {name: torch.ones_like(value) for name, value in own.items()})
    assert all((p == 1).all() for n, p in model.named_parameters() if n in own)
    with pytest.raises(CheckpointError, match="whose modules peft finds again"):
        fill(model, dict(list(own.items())[1:]))
    assert torch.equal(pairs.logits(unwrap(model)), pairs.logits(pairs.base()))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.pop(file_key(Q, "A")), "q_proj.lora_A.weight is missing"),
        (
            lambda t: t.update({file_key("lm_head", "A"): torch.ones(3, 16)}),
            "lm_head.* has no module",
        ),
        (
            lambda t: t.update({file_key(Q, "B"): torch.ones(16, 5)}),
            r"lora_B.weight is \(16, 5\), for its base \(16, 4\)",
        ),
    ],
)
def test_factors_must_be_what_the_configuration_promises(
    folder: Path, spoil: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        read_adapter(pairs.base(), folder, "before")


def test_nan_factors_and_missing_files_are_refused(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[file_key(Q, "B")][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(ModelError, match=f"`before.{Q}.B` must be finite"):
        read_adapter(pairs.base(), folder, "before")
    file.unlink()
    with pytest.raises(StorageError, match="must hold its factors as adapter_model.safetensors"):
        read_adapter(pairs.base(), folder, "before")


def test_an_adapter_of_another_model_is_refused(folder: Path) -> None:
    base = torch.nn.Module()
    base.config = pairs.base().config  # type: ignore[assignment]
    base.proj = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="must be an adapter of the base model"):
        read_adapter(base, folder, "before")


def test_names(folder: Path) -> None:
    assert is_adapter_folder(folder) and is_adapter_folder(str(folder))
    assert not is_adapter_folder(folder.parent / "base") and not is_adapter_folder(pairs.base())
    model = pairs.adapted(pairs.base(), seed=1)
    known = dict(model.named_parameters())
    assert parameter_name(Q, "A") in known
    assert plain_name(f"base_model.model.{Q}.base_layer.weight") == f"{Q}.weight"
    assert base_weights(model).keys() == dict(pairs.base().named_parameters()).keys()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.*lm_head"),
        ({"trainable_token_indices": [1, 2]}, r"trainable_token_indices=\[1, 2\]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa', which moves the base"),
    ],
)
def test_more_than_plain_lora_is_refused_by_name(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        check_plain(LoraConfig(**options), "after")


def test_every_way_to_scale_and_choose_modules_is_plain() -> None:
    check_plain(
        LoraConfig(
            r=4,
            lora_alpha=3,
            use_rslora=True,
            rank_pattern={"q_proj": 2},
            alpha_pattern={"v_proj": 1},
            target_modules=["q_proj", "v_proj"],
            lora_dropout=0.1,
            init_lora_weights="gaussian",
            layers_to_transform=[0],
        ),
        "after",
    )


def test_other_peft_types_are_refused_in_memory_and_on_disk(tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    model = get_peft_model(pairs.base(), config)
    model.save_pretrained(tmp_path / "ia3")
    with pytest.raises(UnsupportedError, match="peft_type IA3"):
        active_adapter(model, "after")
    with pytest.raises(UnsupportedError, match="peft_type IA3"):
        read_config(tmp_path / "ia3", "after")


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match="`after` must be readable by peft"):
        read_config(tmp_path, "after")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2}), encoding="utf-8")
    with pytest.raises(UnsupportedError, match="peft_type None"):
        read_config(tmp_path, "after")


def test_one_adapter_is_active_and_not_merged() -> None:
    model = pairs.adapted(pairs.base(), seed=1)
    assert active_adapter(model, "after") == "default"
    model.merge_adapter()
    with pytest.raises(UnsupportedError, match="6 modules merged"):
        active_adapter(model, "after")
    model.unmerge_adapter()
    model.add_adapter("second", LoraConfig(r=1, target_modules=["q_proj"]))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(UnsupportedError, match="default, second active"):
        active_adapter(model, "after")
    model.set_adapter("second")
    assert list(layers_of(model, "second", "after")) == [
        f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)
    ]


def test_an_adapted_embedding_is_refused() -> None:
    model = pairs.adapted(pairs.base(), seed=1, target_modules=["embed_tokens"])
    with pytest.raises(UnsupportedError, match="Embedding at model.embed_tokens"):
        layers_of(model, "default", "after")
