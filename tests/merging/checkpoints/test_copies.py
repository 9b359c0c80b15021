"""A bare copy computes the same and shares nothing: storage, gradients, hooks, accelerate's wrapper."""

from __future__ import annotations

from typing import Any

import torch
from tests.interference import tiny
from tests.merging import pairs

from crosstune.merging.checkpoints.live import bare_copy, widen


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
    assert (
        len(hidden) == 3
    )  # embeddings and two layers: transformers has put its own hooks on again
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
