"""Reading checkpoints: streamed where files fit, whole where transformers converts them, in the right dtype and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.errors import CheckpointError, ModelError, StorageError
from crosstune.foundation.models import load_model
from crosstune.foundation.worlds import random_model
from crosstune.merging.checkpoints.opening import Opening, bare_copy, compare, source_of, widen
from crosstune.merging.checkpoints.weights import of_module

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
    assert torch.equal(weights["model.norm.weight"].read(), model.model.norm.weight)


def test_files_that_transformers_converts_are_read_whole_and_it_is_said(tmp_path: Path) -> None:
    folder = random_model("mixtral", tmp_path / "mixtral")
    model = load_model(folder)
    weights, note = OPENING.weights(folder, model, "after")
    assert "`after` was read whole into memory" in note and "another layout" in note
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert torch.equal(weights[name].read(), dict(model.named_parameters())[name])


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
    ends = {"before": of_module(before), "after": of_module(after)}
    names, fingerprints = compare(ends, after)
    assert names == ("model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight")
    assert fingerprints["before"] != fingerprints["after"]
    names, fingerprints = compare({"before": ends["after"], "after": ends["after"]}, after)
    assert names == () and fingerprints["before"] == fingerprints["after"]


def test_what_comes_back_at_the_end_still_differs_between() -> None:
    model = tiny.llama()
    away = of_module(pairs.moved(model, ["lm_head"]))
    ends = {"before": of_module(model), "between[0]": away, "after": of_module(model)}
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


class Heavy:
    """Something on a hook that must not be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("what hangs on a hook was copied")

    def __call__(self, *_: Any) -> None:
        raise AssertionError("a hook of the user's model ran in the copy")


def test_the_copy_is_equal_and_its_own() -> None:
    model = tiny.llama(tied=True).train()
    model.model.norm.weight.requires_grad_(False)
    model(input_ids=pairs.IDS, labels=pairs.IDS).loss.backward()
    made = bare_copy(model)
    assert not made.training and model.training
    assert made.lm_head.weight is made.model.embed_tokens.weight
    for (name, ours), theirs in zip(made.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.data_ptr() != theirs.data_ptr(), name
        assert ours.grad is None and ours.requires_grad == theirs.requires_grad, name
    assert torch.equal(pairs.logits(made), pairs.logits(model))


def test_hooks_stay_with_the_model() -> None:
    model = tiny.llama()
    model(input_ids=pairs.IDS, output_hidden_states=True)
    model.model.layers[0].register_forward_hook(Heavy())
    model.model.layers[1].register_forward_pre_hook(Heavy())
    made = bare_copy(model)
    hidden = made(input_ids=pairs.IDS, output_hidden_states=True).hidden_states
    assert len(hidden) == 3  # embeddings and two layers: transformers put its own hooks on again
    assert len(model.model.layers[0]._forward_hooks) > 0


def test_a_forward_that_accelerate_wrapped_is_the_copys_own() -> None:
    model = tiny.llama()
    inner = model.forward

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    vars(model)["_original_forward"], vars(model)["forward"] = inner, wrapped
    made = bare_copy(model)
    with torch.no_grad():
        made.lm_head.weight.zero_()
    assert not pairs.logits(made).any() and pairs.logits(model).any()


def test_half_precision_is_widened_and_double_stays() -> None:
    model = torch.nn.ModuleDict(
        {"narrow": torch.nn.Linear(2, 2).bfloat16(), "wide": torch.nn.Linear(2, 2).double()}
    )
    values = model["narrow"].weight.detach().clone()
    widen(model)
    assert (
        model["narrow"].weight.dtype == torch.float32
        and model["wide"].weight.dtype == torch.float64
    )
    assert torch.equal(model["narrow"].weight, values.float())
