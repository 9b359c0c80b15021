"""Only plain LoRA adapters are taken; everything else PEFT can do is refused by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, LoraConfig, get_peft_model
from tests.merging import pairs

from crosstune.foundation.errors import StorageError, UnsupportedError
from crosstune.merging.checkpoints.plain_lora import (
    active_adapter,
    check_plain,
    layers_of,
    read_config,
)


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
