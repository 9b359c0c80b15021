"""Rows of random tokens, and every sample's gradient put together from its factors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from crosstune.circuits.capture.capture import capture_factors
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.settings import BLOCKS, CircuitSettings
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.models import HeadMap

LENGTHS = (9, 4, 12, 7, 12, 5)


def rows(
    lengths: Sequence[int] = LENGTHS, *, prompt: int = 0, vocabulary: int = 23
) -> list[Encoded]:
    """One row of each length; the first token and `prompt` more are not scored."""
    found = []
    for number, length in enumerate(lengths):
        draw = random.Random(number)
        ids = [draw.randrange(3, vocabulary) for _ in range(length)]
        silent, group = min(1 + prompt, length - 1), f"g{number // 2}"
        labels = [UNSCORED] * silent + ids[silent:]
        found.append(
            Encoded(f"r{number}", ids, labels, length - silent, 0, False, group, unit=group)
        )
    return found


def captured(model: Any, some: Sequence[Encoded], folder: Any = None, **options: Any) -> Factors:
    """The factors of some rows, two or three of them at a time unless told otherwise."""
    labels = options.pop("labels", "text")
    settings = CircuitSettings(**{"batch_tokens": 30, **options})
    heads = HeadMap.of(model)
    return capture_factors(
        model, some, heads, pad_id=0, settings=settings, labels=labels, folder=folder
    )


def gradients(factors: Factors) -> dict[tuple[int, str], Tensor]:
    """Layer and block → [n, heads, head_dim, d], in the order of the rows; o's is the transpose of its columns."""
    found: dict[tuple[int, str], Tensor] = {}
    for layer in factors.layers:
        for batch in factors.layer(layer).batches:
            for block in factors.blocks:
                tiles = torch.einsum(
                    "nthi,ntd->nhid", batch.headed(block).double(), batch.shared(block).double()
                )
                whole = found.setdefault(
                    (layer, block), tiles.new_zeros(len(factors.rows), *tiles.shape[1:])
                )
                whole[batch.places] = tiles
    return found


def tiles(model: Any, weights: dict[str, Tensor]) -> dict[tuple[int, str], Tensor]:
    """The same from per-sample gradients of the weights, [n, *shape] by name."""
    heads = HeadMap.of(model)
    return {
        (layer, block): torch.stack([projection.tile(one) for one in weights[projection.weight]])
        for layer in range(heads.num_layers)
        for block in BLOCKS
        for projection in [heads.projection(layer, block)]
    }


def assert_close(
    found: dict[tuple[int, str], Tensor], expected: dict[tuple[int, str], Tensor], tolerance: float
) -> None:
    """Every sample's gradient of every head is as near as that, relative to its size."""
    assert found.keys() == expected.keys()
    for place, value in expected.items():
        assert found[place].shape == value.shape, place
        distance = (found[place] - value).flatten(2).norm(dim=-1)
        assert value.norm() > 0
        assert bool((distance <= tolerance * value.flatten(2).norm(dim=-1) + 1e-12).all()), place
