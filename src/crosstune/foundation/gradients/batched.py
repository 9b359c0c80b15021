"""Gradients of many blocks from one forward and backward pass, where that is faster than a pass for each.

Small models spend their time between kernels, not in them. The taps of a batch hold every block's gradient:
G_k = Σ over the tokens of block k of δ ⊗ x, the same sums that a pass of the block alone would make.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.gradients.blocks import Block
from crosstune.foundation.gradients.gradients import batch_of, block_gradient
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.models import Groups, capture, grouped_gradients

# Weights × tokens of one block above which a pass of its own is as fast, since kernels take the time and not Python:
# measured by benchmarks/block_gradients.py on one CPU core; for accelerators an estimate from kernel launch times.
CPU_WORK, ACCELERATOR_WORK = 5 * 10**8, 10**10


class Stack(NamedTuple):
    """Gradients of several blocks of a task at one state.

    Attributes:
        places: The blocks, by their places in the sequence that was asked for.
        gradients: Parameter name → [K, *shape], float32 (float64 for a float64 model).
        nats: The summed loss of each block, before the division.
    """

    places: tuple[int, ...]
    gradients: dict[str, Tensor]
    nats: tuple[float, ...]

    def gradient(self, index: int) -> dict[str, Tensor]:
        """Views of one block's gradient, by its index in the stack."""
        return {name: value[index] for name, value in self.gradients.items()}

    def only(self, places: Collection[int]) -> Stack:
        """The part of the stack that holds these blocks."""
        chosen = [index for index, place in enumerate(self.places) if place in places]
        if len(chosen) == len(self.places):
            return self
        return Stack(
            tuple(self.places[index] for index in chosen),
            {name: value[chosen] for name, value in self.gradients.items()},
            tuple(self.nats[index] for index in chosen),
        )

    @classmethod
    def of(cls, places: Iterable[int], gradients: Sequence[Mapping[str, Tensor]]) -> Stack:
        """A stack of gradients that were kept one by one, and whose losses are not known any more."""
        stacked = {name: torch.stack([one[name] for one in gradients]) for name in gradients[0]}
        return cls(tuple(places), stacked, (math.nan,) * len(gradients))


def block_gradients(
    model: nn.Module,
    blocks: Sequence[Block],
    places: Iterable[int],
    names: Sequence[str],
    settings: GradientSettings,
) -> Iterator[Stack]:
    """The gradients of a task's blocks, several at a time where that is faster; equal to `block_gradient`'s but for rounding.

    Block by block go: blocks of much work, blocks whose gradients fit `settings.stack_bytes` only
    alone, models that checkpoint activations, and models that use a parameter outside its own module.

    Args:
        model: The model, inside `evaluating`.
        blocks: The task's blocks; they share one constant and one padding token.
        places: Which of them.
        names: The parameters, by their names in ``model.named_parameters()``.
        settings: The size of a forward pass and of a stack.

    Yields:
        Stacks that hold every asked block once, in no particular order.
    """
    most = _most_together(model, names, settings)
    for group in _passes(blocks, places, most, settings.batch_tokens):
        found = _at_once(model, blocks, group, names) if len(group) > 1 else None
        if found is None:
            yield from (_alone(model, blocks, place, names, settings) for place in group)
        else:
            yield found


class _Most(NamedTuple):
    """The most that blocks may be to go together."""

    blocks: int
    tokens: float


def _most_together(model: nn.Module, names: Sequence[str], settings: GradientSettings) -> _Most:
    known = dict(model.named_parameters())
    looked_at = sum(known[name].numel() for name in names)
    fitting = settings.stack_bytes // (4 * max(1, looked_at))
    checkpointed = any(
        module.training and getattr(module, "gradient_checkpointing", False)
        for module in model.modules()
    )
    on_cpu = next(model.parameters()).device.type == "cpu"
    work = CPU_WORK if on_cpu else ACCELERATOR_WORK
    weights = sum(parameter.numel() for parameter in known.values())
    return _Most(1 if checkpointed else fitting, work / weights)


def _shape(block: Block) -> tuple[int, int]:
    """Rows and tokens of the longest row."""
    return len(block.rows), max(len(row.input_ids) for row in block.rows)


def _passes(
    blocks: Sequence[Block], places: Iterable[int], most: _Most, batch_tokens: int
) -> list[list[int]]:
    """The blocks in groups of like shape that go through the model together."""
    groups: list[list[int]] = []
    filled = (0, 0)
    for place in sorted(places, key=lambda place: _shape(blocks[place])):
        rows, width = shape = _shape(blocks[place])
        joint = (max(rows, filled[0]), max(width, filled[1]))
        fits = (
            groups
            and len(groups[-1]) < most.blocks
            and rows * width <= most.tokens
            and (len(groups[-1]) + 1) * joint[0] * joint[1] <= batch_tokens
        )
        if fits:
            groups[-1].append(place)
            filled = joint
        else:
            groups.append([place])
            filled = shape
    # In order of place, so that sums over a stack do not depend on how its rows happened to be shaped.
    return [sorted(group) for group in groups]


def _at_once(
    model: nn.Module, blocks: Sequence[Block], places: Sequence[int], names: Sequence[str]
) -> Stack | None:
    """The blocks' gradients from one pass; None where the model does not let them be told apart."""
    first = blocks[places[0]]
    most_rows = max(len(blocks[place].rows) for place in places)
    rows = [row for place in places for row in _filled(blocks[place].rows, most_rows, first.pad_id)]
    device = next(model.parameters()).device
    batch = batch_of(rows, first.pad_id, device)
    groups = Groups(len(places), *batch["input_ids"].shape)
    captured = capture(
        model, names, lambda: token_nats(model, batch), factor=1 / first.expected_tokens
    )
    if captured.missed or not all(groups.hold(tap) for tap in captured.taps):
        return None
    gradients: dict[str, Tensor] = {}
    for tap in captured.taps:
        for name, value in grouped_gradients(tap, groups).items():
            gradients[name] = gradients[name].add_(value) if name in gradients else value
    known = dict(model.named_parameters())
    for name in names:
        if name not in gradients:
            gradients[name] = _zeros(known[name], len(places))
    nats = groups.split(captured.values.double()).sum(dim=(1, 2))
    return Stack(tuple(places), gradients, tuple(nats.tolist()))


def _alone(
    model: nn.Module,
    blocks: Sequence[Block],
    place: int,
    names: Sequence[str],
    settings: GradientSettings,
) -> Stack:
    found = block_gradient(model, blocks[place], names, settings)
    gradients = {name: value[None] for name, value in found.gradient.items()}
    return Stack((place,), gradients, (found.nats,))


def _filled(rows: Sequence[Encoded], count: int, pad_id: int) -> list[Encoded]:
    """The rows and as many that score nothing as make this many."""
    silent = Encoded("", [pad_id], [UNSCORED], 0, 0, False, unit="")
    return [*rows, *[silent] * (count - len(rows))]


def _zeros(parameter: Tensor, count: int) -> Tensor:
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros(count, *parameter.shape, dtype=dtype, device=parameter.device)
