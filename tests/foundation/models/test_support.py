"""Ways of holding a model that are refused by name; each planted without the library that makes it."""

from __future__ import annotations

import pytest
import torch
from tests.foundation.models.decoders import decoder, with_lora

from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.models import check_supported


def wrapped_as(module_name: str, class_name: str) -> torch.nn.Module:
    """A model inside a module whose class claims to come from another library."""
    kind = type(class_name, (torch.nn.Module,), {"__module__": module_name})
    outer = kind()
    outer.inner = decoder("llama")
    return outer


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_ordinary_models_pass(name: str) -> None:
    check_supported(decoder(name))
    check_supported(with_lora(decoder(name), target_modules=["q_proj"]))
    check_supported(decoder(name).to(torch.bfloat16))


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel", "FSDP"),
        ("torch.distributed.fsdp._fully_shard._fully_shard", "FSDPModule", "FSDP"),
        ("deepspeed.runtime.engine", "DeepSpeedEngine", "DeepSpeed"),
    ],
)
def test_sharding_engines_are_named(module: str, name: str, words: str) -> None:
    with pytest.raises(UnsupportedError, match=f"must not use {words}.*{name}"):
        check_supported(wrapped_as(module, name))


def test_a_zero_3_parameter_is_named() -> None:
    model = decoder("llama")
    model.lm_head.weight.ds_id = 7
    with pytest.raises(UnsupportedError, match=r"ZeRO-3.*lm_head\.weight"):
        check_supported(model)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("bitsandbytes.nn.modules", "quantised weights"),
        ("torchao.dtypes", "quantised weights"),
        ("torch.distributed.tensor", "tensor parallelism"),
    ],
)
def test_foreign_parameters_are_named(module: str, words: str) -> None:
    kind = type("Foreign", (torch.nn.Parameter,), {"__module__": module})
    model = decoder("llama")
    model.lm_head.weight = kind(torch.zeros(2))
    with pytest.raises(UnsupportedError, match=rf"{words}.*lm_head\.weight"):
        check_supported(model)


def test_integer_and_meta_weights_are_named() -> None:
    model = decoder("llama")
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(UnsupportedError, match=r"quantised weights.*torch\.int8"):
        check_supported(model)
    with pytest.raises(UnsupportedError, match="offloaded"):
        check_supported(decoder("llama").to("meta"))


def test_a_model_that_says_it_is_quantised_is_believed() -> None:
    model = decoder("llama")
    model.is_quantized = True
    with pytest.raises(UnsupportedError, match="quantised weights"):
        check_supported(model)
