"""Sources of block gradients that are known numbers, and a comparison of the tiny model's two languages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tests.interference import tiny
from torch import Tensor

from crosstune.foundation.data import Encoded
from crosstune.foundation.gradients.batched import Stack
from crosstune.foundation.gradients.blocks import Block
from crosstune.foundation.models import Anatomy, gradient_sites
from crosstune.interference.conflict.comparison import Comparison, read_comparable
from crosstune.interference.conflict.settings import AgreementSettings

SMALL = AgreementSettings(blocks=8, rows_per_block=2, length=16)


def comparison(model: Any, tasks: Any = None, settings: AgreementSettings = SMALL) -> Comparison:
    """The tiny model's languages made comparable."""
    tasks = tasks or {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24, start=100)}
    number = settings.blocks
    assert isinstance(number, int)
    return Comparison.prepare(model, tiny.tokenizer(), read_comparable(tasks), settings, number)


def block(task: str, index: int, groups: set[str]) -> Block:
    """A block without rows, of the given groups."""
    rows: tuple[Encoded, ...] = ()
    return Block(task, index, rows, frozenset(groups), 1.0, 0)


class KnownSource:
    """A task whose block gradients are given."""

    def __init__(
        self, name: str, gradients: list[dict[str, Tensor]], groups: list[set[str]]
    ) -> None:
        self.name = name
        self.blocks = [block(name, index, some) for index, some in enumerate(groups)]
        self._gradients = gradients

    def gradient(self, index: int) -> dict[str, Tensor]:
        return self._gradients[index]

    def stacks(self, indices: Sequence[int]) -> Iterator[Stack]:
        yield Stack.of(indices, [self._gradients[index] for index in indices])


def random_gradients(anatomy: Anatomy, blocks: int, seed: int) -> list[dict[str, Tensor]]:
    """Independent normal gradients of every parameter that the anatomy knows."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: p.shape for name, p in tiny.llama().named_parameters()}
    names = dict.fromkeys(part.parameter for part in anatomy.parts)
    return [
        {name: torch.randn(shapes[name], generator=generator) for name in names}
        for _ in range(blocks)
    ]


def tiny_anatomy() -> Anatomy:
    """The sites of the tiny model."""
    return gradient_sites(tiny.llama())
