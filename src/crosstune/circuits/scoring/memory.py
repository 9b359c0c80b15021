"""Plan: how many heads are held at once, so that every tile and all that goes with it stays within the budget.

Room: the factors of one block, and the memory in which tiles of its heads are built, again and again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crosstune.circuits.scoring.accumulate import GATHERED
from crosstune.circuits.scoring.tiles import Source
from crosstune.foundation.errors import MeasurementError

GIB = 2**30
_HELD = 16 * 2**20  # bytes of tiles on a CPU: more would fall out of its caches between two passes
_PIECE = 4 * 2**20  # bytes that one pass goes over on a CPU, likewise
_MEANS = 6  # rows of halves' means that are alive at once
_PARTING = 8  # slices of temporaries while a Fisher becomes its inverse
_EXCLUDING = 4  # float64 tiles of temporaries while each sample is left out of the Fisher


@dataclass(frozen=True)
class Need:
    """What a block's scores take.

    Attributes:
        samples: Samples of A, of B, and at drawn labels.
        slice_shape: `(head_dim, d)`.
        heads: Chosen heads.
        itemsize: Bytes of a number.
        inverses: Slices of 1 / D, over all kinds of Fisher.
        tokens: Samples times tokens of the largest batch, whose factors may be converted.
        kronecker: Whether a preconditioned tile of A is held as well.
        excluding: Whether each sample is left out of its Fisher.
        halving: Whether a sample's Fisher depends on its half.
        together: Samples that were drawn together and are gathered at once.
        fixed: Bytes that are there anyway: factors on another device than their own.
    """

    samples: tuple[int, int, int]
    slice_shape: tuple[int, int]
    heads: int
    itemsize: int
    inverses: int
    tokens: int
    kronecker: bool
    excluding: bool
    halving: bool
    together: int
    fixed: int

    def bytes(self, heads: int, features: int, piece: int) -> int:
        """Most bytes that are alive at once."""
        size, width = self.slice_shape
        held = self.rows_held * heads * features * width
        rows = max(self.samples) * (1 + self.halving) + self.together + _MEANS
        passing = rows * heads * piece * width
        slices = (5 + self.inverses + _PARTING) * heads * size * width
        factors = self.tokens * (heads * features + width)
        excluded = 8 * _EXCLUDING * self.samples[0] * heads * piece * width if self.excluding else 0
        return self.fixed + excluded + self.itemsize * (held + passing + slices + factors)

    @property
    def rows_held(self) -> int:
        """Samples whose gradients are held at once."""
        a, b, drawn = self.samples
        return a * (1 + self.kronecker) + max(b, drawn)


@dataclass(frozen=True)
class Plan:
    """How a block is cut.

    Attributes:
        heads: Heads held at once.
        features: Features held of each; fewer than all only where one head does not fit, which builds every tile twice.
        piece: Features of each that one pass goes over.
        need: What it is cut for.
    """

    heads: int
    features: int
    piece: int
    need: Need

    @classmethod
    def of(cls, need: Need, budget_gib: float, *, cached: bool) -> Plan:
        """The fewest cuts that fit.

        Args:
            need: What must fit.
            budget_gib: Into how much.
            cached: Whether smaller tiles are faster (CPU), or larger ones (CUDA).

        Returns:
            The plan.

        Raises:
            MeasurementError: Not even one feature of one head fits.
        """
        limit = int(budget_gib * GIB)
        size = need.slice_shape[0]
        for chunks in range(1, need.heads + 1):
            heads = -(-need.heads // chunks)
            plan = cls(heads, size, _piece(need, heads, size, cached), need)
            slim = not cached or heads == 1 or plan.held <= _HELD
            if slim and plan.bytes <= limit:
                return plan
        for features in range(size - 1, 0, -1):
            plan = cls(1, features, _piece(need, 1, features, cached), need)
            if plan.bytes <= limit:
                return plan
        least = cls(1, 1, 1, need)
        raise MeasurementError(
            "budget_gib",
            law=f"must hold one feature of one head for all samples: {least.bytes / GIB:.3g} GiB",
            found=f"{budget_gib:.3g}",
            remedy="Raise budget_gib, or score fewer or shorter rows.",
        )

    @property
    def bytes(self) -> int:
        """Most bytes that are alive at once."""
        return self.need.bytes(self.heads, self.features, self.piece)

    @property
    def held(self) -> int:
        """Bytes of the tiles."""
        cells = self.heads * self.features * self.need.slice_shape[1]
        return self.need.rows_held * cells * self.need.itemsize

    @property
    def whole(self) -> bool:
        """Whether a head is held whole, so that its tiles are built once."""
        return self.features == self.need.slice_shape[0]

    def chunks(self) -> Iterator[slice]:
        """The heads held together, one group after another."""
        return _cuts(self.need.heads, self.heads)

    def stretches(self) -> Iterator[slice]:
        """The features held together."""
        return _cuts(self.need.slice_shape[0], self.features)

    def pieces(self, stretch: slice) -> Iterator[slice]:
        """The features of a stretch that one pass goes over, counted from its start."""
        return _cuts(stretch.stop - stretch.start, self.piece)


def _piece(need: Need, heads: int, features: int, cached: bool) -> int:
    if not cached:
        return features
    a, b, drawn = need.samples
    per_feature = (2 * a + max(b, drawn)) * heads * need.slice_shape[1] * need.itemsize
    return min(features, max(1, _PIECE // per_feature))


def _cuts(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


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
