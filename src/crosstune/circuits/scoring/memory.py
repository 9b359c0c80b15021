"""Memory of one block: how its tiles are cut to stay within the budget, and the workspace in which they are built, again and again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crosstune.circuits.scoring.independent import GATHERED
from crosstune.circuits.scoring.tiles import BlockFactors
from crosstune.foundation.errors import MeasurementError

GIB = 2**30
_HELD = 16 * 2**20  # bytes of tiles on a CPU: more would fall out of its caches between two passes
_PASS = 4 * 2**20  # bytes that one pass goes over on a CPU, likewise
_MEANS = 6  # rows of halves' means that are alive at once
_PARTING = 8  # slices of temporaries while a Fisher becomes its inverse
_EXCLUDING = 4  # float64 tiles of temporaries while each sample is left out of the Fisher


@dataclass(frozen=True)
class Need:
    """What decides the memory of a block's scores.

    Attributes:
        samples: Samples of A, of B, and at drawn labels.
        slice_shape: `(head_dim, d)`.
        inverses: Slices of 1 / D, over all kinds of Fisher.
        tokens: Samples times tokens of the largest batch, whose factors may be converted.
        kronecker: Whether a preconditioned tile of A is held as well.
        excluding: Whether each sample is left out of its Fisher.
        halving: Whether a sample's Fisher depends on its half.
        gathered: Samples of one unit that are gathered at once.
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
    gathered: int
    fixed: int

    def bytes(self, heads: int, features: int, part: int) -> int:
        """Most bytes that are alive at once."""
        size, width = self.slice_shape
        held = self.rows_held * heads * features * width
        rows = max(self.samples) * (1 + self.halving) + self.gathered + _MEANS
        passing = rows * heads * part * width
        slices = (5 + self.inverses + _PARTING) * heads * size * width
        factors = self.tokens * (heads * features + width)
        excluded = 8 * _EXCLUDING * self.samples[0] * heads * part * width if self.excluding else 0
        return self.fixed + excluded + self.itemsize * (held + passing + slices + factors)

    @property
    def rows_held(self) -> int:
        """Samples whose gradients are held at once."""
        a, b, drawn = self.samples
        return a * (1 + self.kronecker) + max(b, drawn)


@dataclass(frozen=True)
class Cuts:
    """How a block is cut.

    Attributes:
        heads: Heads held at once.
        features: Features held of each; fewer than all only where one head does not fit, which builds every tile twice.
        part: Features of each that one pass goes over.
    """

    heads: int
    features: int
    part: int
    need: Need

    @classmethod
    def of(cls, need: Need, budget_gib: float, *, cached: bool) -> Cuts:
        """The fewest cuts that fit the budget; where memory is `cached` (CPU) smaller tiles are faster, elsewhere larger ones."""
        limit = int(budget_gib * GIB)
        size = need.slice_shape[0]
        for chunks in range(1, need.heads + 1):
            heads = -(-need.heads // chunks)
            cuts = cls(heads, size, _part(need, heads, size, cached), need)
            is_small = not cached or heads == 1 or cuts.held <= _HELD
            if is_small and cuts.bytes <= limit:
                return cuts
        for features in range(size - 1, 0, -1):
            cuts = cls(1, features, _part(need, 1, features, cached), need)
            if cuts.bytes <= limit:
                return cuts
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
        return self.need.bytes(self.heads, self.features, self.part)

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

    def parts(self, stretch: slice) -> Iterator[slice]:
        """The features of a stretch that one pass goes over, counted from its start."""
        return _cuts(stretch.stop - stretch.start, self.part)


def _part(need: Need, heads: int, features: int, cached: bool) -> int:
    if not cached:
        return features
    a, b, drawn = need.samples
    per_feature = (2 * a + max(b, drawn)) * heads * need.slice_shape[1] * need.itemsize
    return min(features, max(1, _PASS // per_feature))


def _cuts(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


Place = Literal["a", "b", "kronecker"]
_PLACES = ("a", "b", "kronecker", "work")


@dataclass(frozen=True)
class TaskFactors:
    """The factors of one block.

    Attributes:
        name: Block and layer, as errors name them.
        heads: The chosen heads, likewise.
        true: Of A's rows at labels drawn from the model; None where no form needs them.
        kronecker: Of task A, preconditioned; likewise.
    """

    name: str
    heads: tuple[int, ...]
    a: BlockFactors
    b: BlockFactors
    true: BlockFactors | None
    kronecker: BlockFactors | None

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
        groups = (*self.a.groups, *self.b.groups)
        has_dependent = not set(self.a.units).isdisjoint(self.b.units)
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
            gathered=max([3 * GATHERED * has_dependent, *map(len, groups)]),
            fixed=sum(one.copied for one in present),
        )


class Workspace:
    """Memory for the tiles that are held at once; what is built in it replaces what was there.

    One allocation serves all blocks of a layer: memory that is new costs more than what is done in it.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Give the memory back."""
        self._memory = torch.empty(0)
        self._parts = dict.fromkeys(_PLACES, self._memory)

    def fit(self, cuts: Cuts, like: BlockFactors, budget_gib: float) -> None:
        """Take memory for these cuts: what is there already, wherever that is enough and leaves the budget for the rest."""
        self.cuts = cuts
        need, width = cuts.need, like.slice_shape[1]
        held, passing = cuts.heads * cuts.features * width, cuts.heads * cuts.part * width
        a, b, drawn = need.samples
        sizes = [
            a * held,
            max(b, drawn) * held,
            a * held * need.kronecker,
            max(need.samples) * passing,
        ]
        most = int(budget_gib * GIB) - (cuts.bytes - sum(sizes) * need.itemsize)
        fits = sum(sizes) * need.itemsize <= self._memory.nbytes <= most
        if not fits or (self._memory.dtype, self._memory.device) != (like.dtype, like.device):
            self.clear()  # what was there goes before what comes
            self._memory = torch.empty(sum(sizes), dtype=like.dtype, device=like.device)
        parts = self._memory[: sum(sizes)].split(sizes)
        self._parts = dict(zip(_PLACES, parts, strict=True))

    def tile(
        self,
        place: Place,
        source: BlockFactors,
        heads: slice,
        stretch: slice,
        *,
        built: bool = False,
    ) -> Tensor:
        """A tile, [n, heads, features, d], which stays until another is built in its place.

        In place `b` also A at drawn labels is built, in `kronecker` A preconditioned.
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

    def work(self, part: Tensor) -> Tensor:
        """Memory in the shape of a part of a tile."""
        return self._parts["work"][: part.numel()].view(part.shape)

    def squared(self, tile: Tensor, stretch: slice) -> Iterator[tuple[slice, Tensor]]:
        """The squares of a tile, part by part: which features of the heads, and their squares."""
        for cut in self.cuts.parts(stretch):
            part = tile[:, :, cut]
            yield within(stretch, cut), torch.mul(part, part, out=self.work(part))


def within(stretch: slice, cut: slice) -> slice:
    """A part of a stretch as features of the head."""
    return slice(stretch.start + cut.start, stretch.start + cut.stop)
