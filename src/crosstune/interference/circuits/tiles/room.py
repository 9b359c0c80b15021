"""Room: the factors of one block, and the memory in which tiles of its heads are built, again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.interference.circuits.tiles.building import Source
from crosstune.interference.circuits.tiles.plan import Need, Plan


@dataclass(frozen=True)
class Sources:
    """The factors of one block.

    Attributes:
        name: Block and layer, as errors name them.
        heads: The chosen heads, likewise.
        a: Of task A.
        b: Of task B.
        true: Of A's rows at labels drawn from the model; None where nobody asks.
        kronecker: Of task A, preconditioned; None where nobody asks.
    """

    name: str
    heads: tuple[int, ...]
    a: Source
    b: Source
    true: Source | None
    kronecker: Source | None

    @property
    def counts(self) -> tuple[int, int]:
        """Samples of A and of B."""
        return self.a.count, self.b.count

    @property
    def drawn(self) -> int:
        """Samples at drawn labels."""
        return self.true.count if self.true else 0

    def need(self, kinds: Sequence[str]) -> Need:
        """What scores under Fishers of these kinds take."""
        present = [one for one in (self.a, self.b, self.true, self.kronecker) if one]
        return Need(
            samples=(*self.counts, self.drawn),
            slice_shape=self.a.slice_shape,
            heads=self.a.heads,
            itemsize=self.a.dtype.itemsize,
            inverses=sum(2 if kind == "held_out" else 1 for kind in kinds),
            tokens=max(part.shape[0] * part.shape[1] for one in present for part in one.shared),
            kronecker=self.kronecker is not None,
            excluding="leave_one_out" in kinds,
            halving="held_out" in kinds,
            fixed=sum(one.copied for one in present),
        )


class Room:
    """Memory for the tiles that a plan holds at once; what is built in it replaces what was there.

    Args:
        plan: How the block is cut.
        like: A source whose dtype and device the tiles have.
    """

    def __init__(self, plan: Plan, like: Source) -> None:
        self._plan, self._like = plan, like
        need, width = plan.need, like.slice_shape[1]
        a, b, drawn = need.samples
        held, passing = plan.heads * plan.features * width, plan.heads * plan.piece * width
        self._a = self._empty(a * held)
        self._b = self._empty(max(b, drawn) * held)
        self._kronecker = self._empty(a * held * need.kronecker)
        self._work = self._empty(max(need.samples) * passing)

    def a(self, source: Source, heads: slice, stretch: slice, *, built: bool = False) -> Tensor:
        """The tile of task A, [nA, heads, features, d]; where `built`, it is there already."""
        return self._tile(self._a, source, heads, stretch, built)

    def b(self, source: Source, heads: slice, stretch: slice, *, built: bool = False) -> Tensor:
        """The tile of task B, or of A at drawn labels, in the same place."""
        return self._tile(self._b, source, heads, stretch, built)

    def kronecker(self, source: Source, heads: slice, stretch: slice) -> Tensor:
        """The preconditioned tile of task A."""
        return self._tile(self._kronecker, source, heads, stretch, False)

    def work(self, piece: Tensor) -> Tensor:
        """Memory in the shape of a piece of a tile."""
        return self._work[: piece.numel()].view(piece.shape)

    def squared(self, tile: Tensor, stretch: slice) -> Iterator[tuple[slice, Tensor]]:
        """The squares of a tile, piece by piece: which features of the heads, and their squares."""
        for piece in self._plan.pieces(stretch):
            part = tile[:, :, piece]
            yield within(stretch, piece), torch.mul(part, part, out=self.work(part))

    def _tile(
        self, memory: Tensor, source: Source, heads: slice, stretch: slice, built: bool
    ) -> Tensor:
        sizes = (heads.stop - heads.start, stretch.stop - stretch.start)
        shape = (source.count, *sizes, source.slice_shape[1])
        tile = memory[: source.count * sizes[0] * sizes[1] * shape[-1]].view(shape)
        if not built:
            source.build(heads, stretch, tile)
        return tile

    def _empty(self, numbers: int) -> Tensor:
        return torch.empty(numbers, dtype=self._like.dtype, device=self._like.device)


def within(stretch: slice, piece: slice) -> slice:
    """A piece of a stretch as features of the head."""
    return slice(stretch.start + piece.start, stretch.start + piece.stop)
