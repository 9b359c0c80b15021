"""Oracle: gradients of single samples put together from factors equal torch.func's and Opacus's, by head, also under adapters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tests.circuits.drawn import assert_close, captured, gradients, rows, tiles
from tests.foundation.models.decoders import decoder, linear_targets, with_lora
from torch import Tensor
from torch.func import functional_call, grad, vmap

from crosstune.foundation.data import Encoded
from crosstune.foundation.models import HeadMap

SAME = rows([8] * 5, prompt=2, vocabulary=40)
# Losses, rotations and norms are float32 in float64 models: 6e-8, of a head's gradient that may cancel to a thousandth.
ROUNDING = 1e-4
FAMILIES = ["llama", "gpt2", "gpt_neox", "phi3", "qwen3"]
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "lora_bias": True},
}


def summed_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """From logits of all places, written out: −Σ log softmax at the labels that are scored."""
    logs = logits[:-1].log_softmax(-1)
    spent = -logs.gather(1, labels[1:].clamp(min=0)[:, None])[:, 0]
    return (spent * (labels[1:] != -100)).sum()


def by_vmap(model: Any, some: Sequence[Encoded]) -> dict[str, Tensor]:
    """[n, *shape] of every attention weight, without padding; the model is eager."""
    names = {projection.weight for projection in HeadMap.of(model).projections}
    weights = {name: p.detach() for name, p in model.named_parameters() if name in names}

    def loss(chosen: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        # The given mask keeps the model from making one by a vmap of its own.
        mask = torch.full((len(ids), len(ids)), -1e9, dtype=torch.float64).triu(1)[None, None]
        outputs = functional_call(
            model, chosen, (ids[None],), {"use_cache": False, "attention_mask": mask}
        )
        return summed_nats(outputs.logits[0], labels)

    ids = torch.tensor([row.input_ids for row in some])
    labels = torch.tensor([row.labels for row in some])
    found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, ids, labels)
    return {name: value.detach() for name, value in found.items()}


def by_opacus(model: Any, some: Sequence[Encoded]) -> dict[str, Tensor]:
    """[n, *shape] of every attention weight, by Opacus's hooks."""
    from opacus import GradSampleModule

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)

        names = {projection.weight for projection in HeadMap.of(model).projections}
        peer = copy.deepcopy(model).train()
        for name, parameter in peer.named_parameters():
            parameter.requires_grad_(name in names)
        wrapped = GradSampleModule(peer, loss_reduction="sum")
        logits = wrapped(torch.tensor([row.input_ids for row in some]), use_cache=False).logits
        labels = torch.tensor([row.labels for row in some])
        sum(map(summed_nats, logits, labels)).backward()
        return {
            name: p.grad_sample.detach() for name, p in peer.named_parameters() if name in names
        }


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_give_the_gradients_of_vmap(family: str) -> None:
    model = decoder(family).double()
    found = gradients(captured(model, SAME, batch_tokens=16))
    assert_close(found, tiles(model, by_vmap(model, SAME)), ROUNDING)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_factors_give_the_gradients_of_opacus(family: str) -> None:
    no_dropout = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    model = decoder(family, **(no_dropout if family == "gpt2" else {})).double()
    assert_close(gradients(captured(model, SAME)), tiles(model, by_opacus(model, SAME)), ROUNDING)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("family", ["llama_biased", "gpt2"])
def test_under_an_adapter_they_are_those_of_the_merged_weights(family: str, adapter: str) -> None:
    fused = family == "gpt2"
    targets = ["c_attn", "c_proj"] if fused else linear_targets("mixtral")
    model = with_lora(
        decoder(family),
        target_modules=targets,
        fan_in_fan_out=fused,
        lora_dropout=0.3,
        **ADAPTERS[adapter],
    ).double()
    merged = copy.deepcopy(model).merge_and_unload().eval()
    found = gradients(captured(model.train(), SAME))
    assert_close(found, gradients(captured(merged, SAME)), 1e-12)  # the same weights in float64
    assert_close(found, tiles(merged, by_vmap(merged, SAME)), ROUNDING)
