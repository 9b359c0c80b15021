"""Room: the factors of one block, and the memory in which tiles of its heads are built, again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crosstune.circuits.scoring.memory import GIB, Need, Plan
from crosstune.circuits.scoring.own import GATHERED
from crosstune.circuits.scoring.tiles import Source

Place = Literal["a", "b", "kronecker"]
_PLACES = ("a", "b", "kronecker", "work")


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
            together=max(
                self.a.together,
                self.b.together,
                0 if set(self.a.units).isdisjoint(self.b.units) else 3 * GATHERED,
            ),
            fixed=sum(one.copied for one in present),
        )


class Room:
    """Memory for the tiles that a plan holds at once; what is built in it replaces what was there.

    One piece of memory serves all blocks of a layer: memory that is new costs more than what is done in it.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Give the memory back."""
        self._memory = torch.empty(0)
        self._parts = dict.fromkeys(_PLACES, self._memory)

    def fit(self, plan: Plan, like: Source, budget_gib: float) -> None:
        """Make room for a plan, in the memory that is there wherever that is enough and leaves the budget for the rest."""
        self._plan = plan
        need, width = plan.need, like.slice_shape[1]
        held, passing = plan.heads * plan.features * width, plan.heads * plan.piece * width
        a, b, drawn = need.samples
        sizes = [
            a * held,
            max(b, drawn) * held,
            a * held * need.kronecker,
            max(need.samples) * passing,
        ]
        most = int(budget_gib * GIB) - (plan.bytes - sum(sizes) * need.itemsize)
        fits = sum(sizes) * need.itemsize <= self._memory.nbytes <= most
        if not fits or (self._memory.dtype, self._memory.device) != (like.dtype, like.device):
            self.clear()  # what was there goes before what comes
            self._memory = torch.empty(sum(sizes), dtype=like.dtype, device=like.device)
        parts = self._memory[: sum(sizes)].split(sizes)
        self._parts = dict(zip(_PLACES, parts, strict=True))

    def tile(
        self, place: Place, source: Source, heads: slice, stretch: slice, *, built: bool = False
    ) -> Tensor:
        """A tile, [n, heads, features, d].

        Args:
            place: Where: `a`, `b` (also for A at drawn labels), or `kronecker` for A, preconditioned.

        Returns:
            The tile, which stays until another is built in its place.
        """
        shape = (
            source.count,
            heads.stop - heads.start,
            stretch.stop - stretch.start,
            source.slice_shape[1],
        )
        tile = self._parts[place][: math.prod(shape)].view(shape)
        if not built:
            source.build(heads, stretch, tile)
        return tile

    def work(self, piece: Tensor) -> Tensor:
        """Memory in the shape of a piece of a tile."""
        return self._parts["work"][: piece.numel()].view(piece.shape)

    def squared(self, tile: Tensor, stretch: slice) -> Iterator[tuple[slice, Tensor]]:
        """The squares of a tile, piece by piece: which features of the heads, and their squares."""
        for piece in self._plan.pieces(stretch):
            part = tile[:, :, piece]
            yield within(stretch, piece), torch.mul(part, part, out=self.work(part))


def within(stretch: slice, piece: slice) -> slice:
    """A piece of a stretch as features of the head."""
    return slice(stretch.start + piece.start, stretch.start + piece.stop)
