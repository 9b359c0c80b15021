"""Law: after measuring, a model and every generator are bit for bit what they were."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, tensors_like, with_lora

from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.models import check_supported, measuring, weights_at

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning:transformers")

DROPOUT = {
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "gpt_neox": {"hidden_dropout": 0.3, "attention_dropout": 0.3},
}
DYNAMIC_ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}


def trained(name: str, *, checkpointing: bool = False, **settings: Any) -> Any:
    """A model in the midst of training: dropout, mixed flags, half its gradients accumulated."""
    dropout = DROPOUT.get(name, {"attention_dropout": 0.3})
    model = decoder(name.removesuffix("+lora"), **{**dropout, **settings}).train()
    if name.endswith("+lora"):
        model = with_lora(model, target_modules=["q_proj"], lora_dropout=0.5).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.get_submodule(next(n for n, _ in model.named_modules() if n.endswith(".1"))).eval()
    nll(model).backward()
    for index, parameter in enumerate(model.parameters()):
        if index % 3 == 0:
            parameter.requires_grad_(False)
            parameter.grad = None
    return model


def nll(model: Any, rows: torch.Tensor = ROWS) -> torch.Tensor:
    return model(rows, labels=rows, use_cache=False).loss


def bits(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else (tensor.dtype, tensor.detach().numpy().tobytes())


def trace(model: Any) -> dict[str, Any]:
    """Everything a measurement could leave behind, in comparable form."""
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "weights": [(p.data_ptr(), bits(p)) for p in model.parameters()],
        "gradients": [(id(p.grad), bits(p.grad)) for p in model.parameters()],
        "buffers": [(name, id(b), bits(b)) for name, b in model.named_buffers()],
        "saved": sorted(model.state_dict()),
        "plain": [
            (name, key, repr(value))
            for name, m in model.named_modules()
            for key, value in vars(m).items()
            if isinstance(value, int | float | str | None)
        ],
        "python": random.getstate(),
        "numpy": tuple(map(str, np.random.get_state())),  # noqa: NPY002
        "torch": bits(torch.get_rng_state()),
    }


def violent(model: Any) -> None:
    """All that a measurement might do, and much that it should not."""
    model.requires_grad_(True)
    torch.autograd.grad(nll(model), list(model.parameters()), allow_unused=True)
    model.train()
    nll(model, ROWS.repeat(1, 5)).backward()
    random.random()
    np.random.rand(3)  # noqa: NPY002
    torch.rand(3)
    for module in model.modules():
        for buffer in module._buffers.values():
            buffer.mul_(3.0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize(
    "name", ["llama", "llama+lora", "gpt2", "gpt_neox", "gemma3_text", "qwen2_moe"]
)
def test_nothing_is_left_behind(name: str, checkpointing: bool) -> None:
    model = trained(name, checkpointing=checkpointing)
    before = trace(model)
    with measuring(model):
        violent(model)
        assert trace(model) != before
    assert trace(model) == before


def test_nothing_is_left_behind_when_an_error_passes() -> None:
    model = trained("llama")
    before = trace(model)

    def fail() -> None:
        with measuring(model):
            violent(model)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert trace(model) == before


def test_dynamic_rope_forgets_the_long_row() -> None:
    model = decoder("llama", max_position_embeddings=16, rope_parameters=DYNAMIC_ROPE).train()
    nll(model)
    before, long = trace(model), ROWS.repeat(1, 5)
    with measuring(model):
        nll(model, long)
        assert trace(model)["buffers"] != before["buffers"]  # it did stretch its frequencies
        model.model.rotary_emb.register_buffer("new", torch.zeros(1))
        model.model.rotary_emb.another = 3
    assert trace(model) == before
    assert not hasattr(model.model.rotary_emb, "new")
    assert not hasattr(model.model.rotary_emb, "another")


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_training_goes_on_as_if_nothing_had_been_measured(checkpointing: bool) -> None:
    def two_steps(between: Callable[[Any], None]) -> list[Any]:
        torch.manual_seed(5)
        model = decoder("gpt2", **DROPOUT["gpt2"]).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            nll(model).backward()
            between(model)  # while gradients are accumulated
            nll(model).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [bits(p) for p in model.parameters()]

    def measure(model: Any) -> None:
        with measuring(model):
            torch.autograd.grad(nll(model), list(model.parameters()))

    assert two_steps(measure) == two_steps(lambda model: None)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_there_is_no_dropout_inside(name: str, checkpointing: bool) -> None:
    model = trained(name, checkpointing=checkpointing)
    with torch.no_grad():
        assert nll(model.train()) != nll(model)
    with measuring(model):
        inside = nll(model)
        assert bits(nll(model)) == bits(inside)
    assert bits(inside) == bits(nll(model.eval()))


def recomputed(model: Any) -> int:
    """How often the first MLP is entered in one forward and backward pass."""
    calls: list[int] = []
    mlp = next(m for n, m in model.named_modules() if n.endswith("0.mlp"))
    # before, not after: the recomputation stops inside the block as soon as it has what it needs
    handle = mlp.register_forward_pre_hook(lambda m, i: calls.append(1))
    loss = nll(model)
    torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
    handle.remove()
    return len(calls)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "mixtral"])
def test_checkpointing_layers_still_checkpoint(name: str) -> None:
    model = decoder(name).train()
    with measuring(model):
        assert recomputed(model) == 1
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with measuring(model):
        assert recomputed(model) == 2
    model.eval()
    with measuring(model):
        assert recomputed(model) == 1  # it did not checkpoint outside either


@pytest.mark.parametrize("name", CONFIGS)
def test_checkpointing_does_not_change_a_gradient(name: str) -> None:
    model = decoder(name).train()
    parameters = list(model.parameters())
    with measuring(model):
        plain = torch.autograd.grad(nll(model), parameters)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with measuring(model):
        again = torch.autograd.grad(nll(model), parameters)
    assert [bits(g) for g in plain] == [bits(g) for g in again]


@pytest.mark.parametrize("keywords", [{"use_reentrant": True}, {"preserve_rng_state": True}])
def test_reentrant_checkpointing_is_refused_in_words(keywords: dict[str, bool]) -> None:
    model = decoder("llama").train()
    model.gradient_checkpointing_enable(keywords)
    before = trace(model)
    with pytest.raises(UnsupportedError, match='"use_reentrant": False'), measuring(model):
        pass
    assert trace(model) == before


# --- weights_at ------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_a_model_at_other_weights_is_another_model(name: str, checkpointing: bool) -> None:
    model, other = decoder(name).train(), decoder(name, seed=9).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    before = trace(model)
    values = {n: p.detach().clone() for n, p in other.named_parameters()}
    with measuring(model), weights_at(model, values):
        gradients = torch.autograd.grad(nll(model), list(model.parameters()))
    with measuring(other):
        wanted = torch.autograd.grad(nll(other), list(other.parameters()))
    assert [bits(g) for g in gradients] == [bits(g) for g in wanted]
    assert trace(model) == before
    assert [bits(v) for v in values.values()] == [bits(p) for p in other.parameters()]


def test_some_weights_may_be_exchanged_and_the_rest_stay() -> None:
    model = decoder("llama")
    with weights_at(model, {"model.norm.weight": torch.full((16,), 2.0)}):
        assert bool((model.model.norm.weight == 2).all())
    before = trace(model)
    with weights_at(model, {}):
        assert trace(model) == before


def test_the_original_storage_comes_back_when_an_error_passes() -> None:
    model = decoder("llama")
    before = trace(model)
    with pytest.raises(ZeroDivisionError), weights_at(model, tensors_like(model, seed=1)):
        raise ZeroDivisionError
    assert trace(model) == before


def test_a_tied_weight_answers_to_both_names() -> None:
    model = decoder("gpt2")
    before, value = trace(model), torch.ones(40, 16)
    for names in (["lm_head.weight"], ["transformer.wte.weight", "lm_head.weight"]):
        with weights_at(model, dict.fromkeys(names, value)):
            assert model.transformer.wte.weight is model.lm_head.weight
            assert model.lm_head.weight.data_ptr() == value.data_ptr()
        assert trace(model) == before
    two = {"transformer.wte.weight": value, "lm_head.weight": value.clone()}
    with pytest.raises(ModelError, match="two tensors"), weights_at(model, two):
        pass


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model.nothing", torch.zeros(16), "no such parameter"),
        ("model.norm.weight", torch.zeros(17), r"shape \(17,\)"),
        ("model.norm.weight", torch.zeros(16, dtype=torch.float64), r"float64"),
        ("model.norm.weight", torch.zeros(16, device="meta"), "meta"),
    ],
)
def test_values_that_do_not_fit_are_refused(name: str, value: torch.Tensor, words: str) -> None:
    model = decoder("llama")
    before = trace(model)
    values = {"model.embed_tokens.weight": torch.zeros(40, 16), name: value}
    with pytest.raises(ModelError, match=words), weights_at(model, values):
        pass
    assert trace(model) == before


@pytest.mark.gpu
def test_the_generators_of_a_device_come_back() -> None:
    model = decoder("llama", attention_dropout=0.3).cuda().train()
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    with measuring(model):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)


def wrapped_as(module_name: str, class_name: str) -> torch.nn.Module:
    """A model inside a module whose class claims to come from another library."""
    kind = type(class_name, (torch.nn.Module,), {"__module__": module_name})
    outer = kind()
    outer.inner = decoder("llama")
    return outer


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
    with pytest.raises(UnsupportedError, match=r"ZeRO-3.*lm_head\.weight"), measuring(model):
        pass


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
