"""Endpoints that do not belong together are refused, and the difference is shown."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tests.interference import tiny
from transformers import LlamaConfig

from crosstune.foundation.errors import CheckpointError, ModelError, StorageError, UnsupportedError
from crosstune.merging.checkpoints.compatibility import (
    about,
    check_dtypes,
    check_same_config,
    check_same_tokenizer,
    check_tensor,
    fit,
    listed,
    refuse_quantised,
)
from crosstune.merging.checkpoints.weights import in_memory


def test_a_configuration_that_computes_otherwise_is_refused_with_both_values() -> None:
    one, other = LlamaConfig(num_hidden_layers=2), LlamaConfig(num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="num_hidden_layers is 3, in `after` 2") as caught:
        check_same_config(other, one, "before")
    assert caught.value.argument == "before"


def test_a_configuration_that_only_trains_or_generates_otherwise_passes() -> None:
    one = LlamaConfig(attention_dropout=0.0, use_cache=True, pad_token_id=None)
    other = LlamaConfig(attention_dropout=0.1, use_cache=False, pad_token_id=0, dtype="bfloat16")
    check_same_config(other, one, "before")


def test_a_live_configuration_equals_what_it_reads_as_from_disk(tmp_path: Path) -> None:
    one = LlamaConfig(dtype=torch.bfloat16, nested={"sizes": (1, 2), "dtype": "float32"})
    one.save_pretrained(tmp_path)
    check_same_config(LlamaConfig.from_pretrained(tmp_path), one, "before")
    other = LlamaConfig(nested={"sizes": (1, 3)})
    with pytest.raises(CheckpointError, match="nested is"):
        check_same_config(other, one, "before")


def test_another_tokenizer_is_refused_with_its_first_tokens() -> None:
    other = tiny.tokenizer()
    other.add_tokens(["sparrow"])
    with pytest.raises(CheckpointError, match="'sparrow' is 23, with `after` None"):
        check_same_tokenizer(other, tiny.tokenizer(), "before")
    check_same_tokenizer(tiny.tokenizer(), tiny.tokenizer(), "before")


def test_any_name_of_a_tied_parameter_will_do() -> None:
    model = tiny.llama(tied=True)
    tensors = {n: p for n, p in model.named_parameters() if "embed" not in n}
    tensors["lm_head.weight"] = model.lm_head.weight
    found = fit(in_memory(tensors), model, "before")
    assert torch.equal(found["model.embed_tokens.weight"].read(), model.lm_head.weight)


def test_a_renamed_tensor_shows_as_missing_and_unknown() -> None:
    model = tiny.llama()
    tensors = dict(model.named_parameters())
    tensors["model.layers.0.mlp.lift.weight"] = tensors.pop("model.layers.0.mlp.up_proj.weight")
    with pytest.raises(
        CheckpointError,
        match="model.layers.0.mlp.up_proj.weight is missing; model.layers.0.mlp.lift.weight is not in `after`",
    ):
        fit(in_memory(tensors), model, "before")


def test_another_shape_is_shown_with_both() -> None:
    model = tiny.llama()
    tensors = dict(model.named_parameters()) | {"model.norm.weight": torch.ones(8)}
    with pytest.raises(CheckpointError, match=r"model.norm.weight is \(8,\), in `after` \(16,\)"):
        fit(in_memory(tensors), model, "before")


def test_dtypes_must_agree_and_be_floats() -> None:
    after = in_memory({"w": torch.ones(2)})
    half = in_memory({"w": torch.ones(2).half()})
    with pytest.raises(CheckpointError, match="w is torch.float16, in `after` torch.float32"):
        check_dtypes({"before": half, "after": after}, ["w"])
    eight = in_memory({"w": torch.ones(2, dtype=torch.int8)})
    with pytest.raises(
        UnsupportedError, match="1 tensors that are not float16 to float64, first w"
    ):
        check_dtypes({"before": eight, "after": after}, ["w"])


def test_weights_that_are_not_finite_are_counted() -> None:
    with pytest.raises(ModelError, match=r"`after.w` must be finite; found 2 of 3 elements"):
        check_tensor(torch.tensor([1.0, float("nan"), float("inf")]), "after", "w")


def test_a_quantised_model_is_refused_by_its_configuration() -> None:
    config = copy.deepcopy(tiny.llama().config)
    refuse_quantised(config, "before")
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(UnsupportedError, match="quantised by gptq"):
        refuse_quantised(config, "before")


def test_errors_about_a_model_name_the_end_it_is() -> None:
    with pytest.raises(StorageError, match="`before` must be there"), about("before"):
        raise StorageError("path_or_id", law="must be there", found="nothing", remedy="Look.")
    with pytest.raises(ModelError, match="`before.w` must be finite"), about("before"):
        raise ModelError("model.w", law="must be finite", found="nan", remedy="Look.")
    with pytest.raises(ModelError, match="`before.w` must be finite"), about("before"):
        raise ModelError("before.w", law="must be finite", found="nan", remedy="Look.")


def test_long_lists_are_cut_and_counted() -> None:
    assert listed(["a", "b", "c"]) == "a; b; c"
    assert listed(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"
