"""Reading ends: streamed where files fit, whole where transformers converts them, in the right dtype and tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.errors import CheckpointError, ModelError, StorageError
from crosstune.foundation.models import load_model
from crosstune.foundation.worlds import random_model
from crosstune.merging.checkpoints.opening import (
    Opening,
    compare,
    source_of,
    stored_weights,
)
from crosstune.merging.checkpoints.weights import HeldWeights

OPENING = Opening("cpu", "float32", trust_remote_code=False)


@pytest.mark.parametrize(
    ("kept", "precision", "worked"),
    [
        (torch.bfloat16, "float32", torch.float32),
        (torch.float64, "float32", torch.float64),
        (torch.bfloat16, "model", torch.bfloat16),
    ],
)
def test_the_work_models_dtype(
    tmp_path: Path, kept: torch.dtype, precision: str, worked: torch.dtype
) -> None:
    model = tiny.llama().to(kept)
    folder = pairs.saved(model, tmp_path / "model")
    opening = Opening("cpu", precision, trust_remote_code=False)
    for end in (model, folder):
        made = opening.work_model(end, "after")
        assert made.lm_head.weight.dtype == worked
        assert torch.equal(made.lm_head.weight, model.lm_head.weight.to(worked))
    assert model.lm_head.weight.dtype == kept


def test_files_that_fit_are_streamed(tmp_path: Path) -> None:
    folder = pairs.saved(tiny.llama(tied=True), tmp_path / "model")
    model = load_model(folder)
    weights, note = OPENING.weights(folder, model, "after")
    assert note == ""
    assert torch.equal(weights.tensor("model.norm.weight"), model.model.norm.weight)


def test_files_that_transformers_converts_are_read_whole_and_it_is_said(tmp_path: Path) -> None:
    folder = random_model("mixtral", tmp_path / "mixtral")
    model = load_model(folder)
    weights, note = OPENING.weights(folder, model, "after")
    assert "`after` was read whole into memory" in note and "another layout" in note
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert torch.equal(weights.tensor(name), dict(model.named_parameters())[name])


def test_files_with_the_right_names_and_other_numbers_are_not_trusted(tmp_path: Path) -> None:
    """Were a layout converted without a new name or shape, streaming would read the wrong thing."""
    folder = pairs.saved(tiny.llama(), tmp_path / "model")
    _, note = OPENING.weights(folder, pairs.moved(load_model(folder)), "after")
    assert "read whole" in note


def test_a_renamed_tensor_in_a_file_is_shown(tmp_path: Path) -> None:
    folder = pairs.saved(tiny.llama(), tmp_path / "model")
    model = load_model(folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.lift.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="up_proj.weight is missing; .*lift.weight is not in"):
        OPENING.weights(folder, model, "before")


def test_what_differs_is_named_in_the_models_order_and_told_by_fingerprints() -> None:
    before = tiny.llama()
    after = pairs.moved(before, ["layers.1.mlp.up", "embed"])
    ends = {"before": HeldWeights.of(before), "after": HeldWeights.of(after)}
    names, fingerprints = compare(ends, after)
    assert names == ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight")
    assert fingerprints["before"] != fingerprints["after"]
    names, fingerprints = compare({"before": ends["after"], "after": ends["after"]}, after)
    assert names == () and fingerprints["before"] == fingerprints["after"]


def test_what_comes_back_at_the_end_still_differs_between() -> None:
    model = tiny.llama()
    away = HeldWeights.of(pairs.moved(model, ["lm_head"]))
    ends = {"before": HeldWeights.of(model), "between[0]": away, "after": HeldWeights.of(model)}
    assert compare(ends, model)[0] == ("lm_head.weight",)


def test_the_tokenizer_of_after_is_found_and_others_compared(tmp_path: Path) -> None:
    model = tiny.llama()
    one = pairs.saved(model, tmp_path / "one")
    found = OPENING.tokenizer({"before": model, "after": one}, None)
    assert found.get_vocab() == tiny.tokenizer().get_vocab()
    assert OPENING.tokenizer({"before": model, "after": model}, found) is found
    with pytest.raises(ModelError, match="`tokenizer` must be given"):
        OPENING.tokenizer({"before": model, "after": model}, None)
    other = tiny.tokenizer()
    other.add_tokens(["sparrow"])
    with pytest.raises(CheckpointError, match="`tokenizer` must have the tokenizer of `after`"):
        OPENING.tokenizer({"before": model, "after": one}, other)


def test_a_missing_folder_is_told_by_its_role(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="`before` must be an existing folder"):
        OPENING.config(tmp_path / "nowhere", "before")
    with pytest.raises(ModelError, match="`before` must be a Hugging Face decoder"):
        OPENING.config(torch.nn.Linear(2, 2), "before")


def test_sources_are_named() -> None:
    assert source_of(tiny.llama()) == "LlamaForCausalLM in memory"
    assert source_of(Path("some") / "folder") == str(Path("some") / "folder")
    assert stored_weights("some/hub-id") is None
