"""Law: a repair leaves the models it was given, and the streams of random numbers, as they were."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned

from crosstune.merging import repair

SETTINGS = replace(
    tuned.SMALL,
    granularity=("singular",),
    baselines=(),
    penalties=(0.0,),
    exchange_rates=(1.0,),
    replay=True,
    replay_rates=(1e-3,),
)


def state(model: Any) -> list[Any]:
    """Everything of a model that could be touched."""
    return [
        *(
            (name, p.clone(), p.dtype, p.requires_grad, p.grad)
            for name, p in model.named_parameters()
        ),
        *((name, buffer.clone()) for name, buffer in model.named_buffers()),
        *(
            (name, module.training, len(module._forward_hooks))
            for name, module in model.named_modules()
        ),
        *(len(p._post_accumulate_grad_hooks or ()) for p in model.parameters()),
        model.config.to_dict(),
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def randomness() -> list[Any]:
    return [random.getstate(), repr(np.random.get_state()), torch.get_rng_state()]  # noqa: NPY002


@pytest.mark.parametrize("kind", ["bfloat16", "lora"])
def test_models_and_random_streams_are_as_they_were(kind: str) -> None:
    before, after = tuned.adapted() if kind == "lora" else tuned.pair()
    if kind == "bfloat16":
        before, after = before.bfloat16(), after.bfloat16()
    before.train()  # as a user may hold it, with half of it frozen and a gradient waiting
    for at, parameter in enumerate(after.parameters()):
        parameter.requires_grad_(at % 2 == 0)
        parameter.grad = torch.ones_like(parameter)
    torch.manual_seed(5)
    kept = [state(before), state(after), randomness()]
    found = repair(before, after, tiny.tokenizer(), tuned.keep(), settings=SETTINGS)
    found.pick(max_loss={"bn": 0.05})
    found.place()
    found.generations({"en": ["the cat"]}, new_tokens=2)
    assert found.found is not None
    names = ("before", "after", "random streams")
    for name, was, now in zip(
        names, kept, [state(before), state(after), randomness()], strict=True
    ):
        assert same(was, now), name
