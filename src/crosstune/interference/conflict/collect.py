"""Collects what every agreement figure at one state is made of: per site, sums of inner products of block gradients.

Two passes: first S_t = Σ_k g_k and ‖g_k‖² of every task, then ⟨g_k, S_u⟩ for every block and task, and ⟨g_a, g_b⟩ for the
few pairs of blocks that share rows. No Gram matrix, no sketch; gradients of blocks are stored only where all of them fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from crosstune.foundation import ranks
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.gradients.batched import Stack, block_gradients
from crosstune.foundation.gradients.blocks import Block, shared_pairs
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.models import Anatomy
from crosstune.foundation.ranks.collectives import owned
from crosstune.interference.conflict.cosine import PairSums

Gradient = dict[str, Tensor]
Pair = tuple[str, str]


class Source(Protocol):
    """Where the block gradients of one task come from."""

    @property
    def name(self) -> str:
        """The task's name, unique among the sources of one collection."""

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks."""

    def gradient(self, index: int) -> Gradient:
        """The gradient of a block by parameter name."""

    def stacks(self, indices: Sequence[int]) -> Iterator[Stack]:
        """The gradients of these blocks, once each, in stacks of one or more."""


class CurrentGradients:
    """The gradients of a task's blocks at the state the model is in; with `keep` each is computed once and stored."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[Block],
        names: Sequence[str],
        settings: GradientSettings,
        keep: bool,
    ) -> None:
        self.name = blocks[0].task
        self.blocks = blocks
        self.evaluations = 0
        self._model, self._names, self._settings = model, names, settings
        self._stored: list[Stack] | None = [] if keep else None

    def gradient(self, index: int) -> Gradient:
        """The gradient of a block."""
        (stack,) = self.stacks([index])
        return stack.gradient(0)

    def stacks(self, indices: Sequence[int]) -> Iterator[Stack]:
        """The gradients of these blocks, computed now unless they are stored."""
        missing = set(indices)
        for stack in [stack.only(missing) for stack in self._stored or ()]:
            if stack.places:
                missing -= set(stack.places)
                yield stack
        for stack in block_gradients(
            self._model, self.blocks, sorted(missing), self._names, self._settings
        ):
            self.evaluations += len(stack.places)
            if self._stored is not None:
                self._stored.append(stack)
            yield stack


class FrozenGradients:
    """A task's block gradients at an earlier state, on the CPU, all of them in every process: the first can write them alone."""

    def __init__(self, task: str, blocks: Sequence[Block], gradients: Sequence[Gradient]) -> None:
        self.name, self.blocks = stale_name(task), blocks
        self._stack = Stack.of(range(len(blocks)), gradients)

    @classmethod
    def of(cls, source: Source) -> FrozenGradients:
        """The source's gradients, copied."""
        gradients: dict[int, Gradient] = {}
        for stack in source.stacks(range(len(source.blocks))):
            for index, place in enumerate(stack.places):
                gradients[place] = {
                    name: value.detach().cpu() for name, value in stack.gradient(index).items()
                }
        return cls(source.name, source.blocks, [gradients[place] for place in sorted(gradients)])

    @property
    def gradients(self) -> list[Gradient]:
        """The gradient of each block."""
        return [self._stack.gradient(index) for index in range(len(self.blocks))]

    def gradient(self, index: int) -> Gradient:
        """The gradient that was taken then."""
        return self._stack.gradient(index)

    def stacks(self, indices: Sequence[int]) -> Iterator[Stack]:
        """The gradients of these blocks."""
        yield self._stack.only(indices)


def stale_name(task: str) -> str:
    """The name of a task's frozen gradients among the sources."""
    return f"{task} (frozen)"


def collect_sums(
    sources: Sequence[Source], pairs: Sequence[Pair], anatomy: Anatomy
) -> dict[Pair, PairSums]:
    """The sums of every task pair at all sites of one state, the same on every process.

    Where a source stores no gradients, it computes two per block and one more for each pair of blocks that share rows.
    The pair (a, b) is computed where block a belongs, so frozen gradients can only be the first of a pair.
    """
    by_name = {source.name: source for source in sources}
    own = {name: _empty(len(source.blocks), anatomy) for name, source in by_name.items()}
    totals = {name: _sum_gradients(source, own[name], anatomy) for name, source in by_name.items()}
    inner = {
        (t, u): _empty(len(by_name[t].blocks), anatomy)
        for a, b in pairs
        for t, u in ((a, a), (a, b), (b, a), (b, b))
    }
    shared = {
        (a, b): shared_pairs(by_name[a].blocks, by_name[b].blocks).nonzero() for a, b in pairs
    }
    masked = {pair: _empty(len(places), anatomy) for pair, places in shared.items()}
    for task, source in by_name.items():
        for stack in source.stacks(owned(len(source.blocks))):
            for other in (u for t, u in inner if t == task):
                inner[task, other][list(stack.places)] = _inner(
                    anatomy, stack.gradients, totals[other]
                )
            for pair in (pair for pair in pairs if pair[0] == task):
                _multiply_shared(anatomy, stack, by_name[pair[1]], shared[pair], masked[pair])
    _gather([own, inner, masked])
    _check_finite(own, anatomy)
    return {
        (a, b): PairSums(
            own_a=own[a],
            within_a=inner[a, a],
            across_a=inner[a, b],
            own_b=own[b],
            within_b=inner[b, b],
            across_b=inner[b, a],
            masked_pairs=shared[a, b],
            masked=masked[a, b],
        )
        for a, b in pairs
    }


def at_sites(sums: PairSums, places: Sequence[int]) -> PairSums:
    """The sums of some of the sites, by index."""
    return _each_site(sums, lambda value: value[:, list(places)])


def over_groups(sums: PairSums, groups: Tensor) -> PairSums:
    """The sums of groups of sites, for inner products add up over sites; groups [S, G] is 1 where a site belongs to one, else 0."""
    return _each_site(sums, lambda value: value @ groups)


def _each_site(sums: PairSums, change: Callable[[Tensor], Tensor]) -> PairSums:
    names = [field.name for field in fields(PairSums) if field.name != "masked_pairs"]
    return replace(sums, **{name: change(getattr(sums, name)) for name in names})


def fits(sources_blocks: int, anatomy: Anatomy, keep_gib: float) -> bool:
    """Whether one process can store its share of this many block gradients in float32."""
    elements = sum(anatomy.count(site) for site in anatomy.sites)
    share = -(-sources_blocks // ranks.world_size())
    return 4 * elements * share <= keep_gib * 2**30


def _sum_gradients(source: Source, own: Tensor, anatomy: Anatomy) -> Gradient:
    total: Gradient = {}
    for stack in source.stacks(owned(len(source.blocks))):
        own[list(stack.places)] = _inner(anatomy, stack.gradients, stack.gradients)
        for name, value in stack.gradients.items():
            total[name] = total[name].add_(value.sum(0)) if name in total else value.sum(0)
    if not total:  # more processes than blocks: this one adds nothing
        total = {name: value.new_zeros(value.shape) for name, value in source.gradient(0).items()}
    return {name: ranks.sum_over_ranks(value) for name, value in total.items()}


def _multiply_shared(
    anatomy: Anatomy, stack: Stack, other: Source, shared: Tensor, out: Tensor
) -> None:
    """Write ⟨g_a, g_b⟩ for every block a of a stack and block b of the other task that share rows."""
    size = len(stack.places)
    found = [
        (at, stack.places.index(block), partner)
        for at, (block, partner) in enumerate(shared.tolist())
        if block in stack.places
    ]
    # As many pairs at a time as the stack has blocks: no more memory than the stack itself.
    for first in range(0, len(found), size):
        at, indices, partners = map(list, zip(*found[first : first + size], strict=True))
        mine = {name: value[indices] for name, value in stack.gradients.items()}
        theirs = Stack.of(partners, [other.gradient(partner) for partner in partners])
        out[at] = _inner(anatomy, mine, theirs.gradients)


def _inner(anatomy: Anatomy, stack: Gradient, b: Gradient) -> Tensor:
    device = next(iter(stack.values())).device
    there = {name: value.to(device) for name, value in b.items()}
    return anatomy.inner_many(stack, there)


def _empty(length: int, anatomy: Anatomy) -> Tensor:
    return torch.zeros(length, len(anatomy.sites), dtype=torch.float64)


def _gather(tables: Sequence[dict[Any, Tensor]]) -> None:
    """Fill every table, in place, with what all processes put in, by one collective."""
    values = [value for table in tables for value in table.values()]
    whole = ranks.sum_over_ranks(torch.cat([value.flatten() for value in values]))
    pieces = whole.split([value.numel() for value in values])
    for value, piece in zip(values, pieces, strict=True):
        value.copy_(piece.view_as(value))


def _check_finite(own: dict[str, Tensor], anatomy: Anatomy) -> None:
    for task, norms in own.items():
        broken = (~norms.isfinite()).nonzero().tolist()
        if broken:
            block, site = broken[0]
            raise MeasurementError(
                f"tasks[{task!r}]",
                law="must have finite gradients",
                found=f"a NaN or infinity in block {block} at {anatomy.sites[site]}",
                remedy="Look for NaN in the weights, or measure before the training diverges.",
            )
