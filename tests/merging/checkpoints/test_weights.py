"""Weights by name: the same tensors and fingerprint from memory, one file and shards; nothing read before asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.errors import CheckpointError
from crosstune.merging.checkpoints.weights import (
    all_names,
    fingerprint_of,
    in_folder,
    in_memory,
    of_module,
)


def test_memory_one_file_and_shards_hold_the_same_tensors(tmp_path: Path) -> None:
    model = tiny.llama()
    whole = pairs.saved(model, tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    held = of_module(model)
    for folder in (whole, tmp_path / "shards"):
        stored = in_folder(folder)
        assert stored is not None and stored.keys() == held.keys()
        for name, one in held.items():
            assert stored[name].shape == one.shape
            assert stored[name].dtype == one.dtype == torch.float32
            assert torch.equal(stored[name].read(), one.read())


def test_held_tensors_are_detached_and_share_storage() -> None:
    model = tiny.llama()
    tensor = of_module(model)["lm_head.weight"].read()
    assert not tensor.requires_grad and tensor.data_ptr() == model.lm_head.weight.data_ptr()


def test_a_folder_without_safetensors_and_a_hub_id_have_no_weights(tmp_path: Path) -> None:
    assert in_folder(tmp_path) is None and in_folder("some/hub-id") is None


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(CheckpointError, match="must be a whole safetensors file"):
        in_folder(tmp_path)


def test_integers_are_no_plain_float() -> None:
    assert in_memory({"w": torch.zeros(2, dtype=torch.int8)})["w"].dtype is None


def test_a_tied_parameter_is_listed_once_with_both_names() -> None:
    names = all_names(tiny.llama(tied=True))
    assert names["model.embed_tokens.weight"] == ("model.embed_tokens.weight", "lm_head.weight")
    assert "lm_head.weight" not in names


@pytest.mark.parametrize(
    "other",
    [
        ("v", torch.tensor([1.0, 2.0])),
        ("w", torch.tensor([1.0, 2.5])),
        ("w", torch.tensor([[1.0, 2.0]])),
        ("w", torch.tensor([1.0, 2.0]).bfloat16()),
    ],
)
def test_a_fingerprint_knows_name_bits_shape_and_dtype(other: tuple[str, torch.Tensor]) -> None:
    one = fingerprint_of([("w", torch.tensor([1.0, 2.0]))])
    assert one == fingerprint_of([("w", torch.tensor([[1.0, 0.0], [2.0, 0.0]])[:, 0])])
    assert len(one) == 16 and one != fingerprint_of([other])
