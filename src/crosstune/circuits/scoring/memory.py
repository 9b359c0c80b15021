"""Plan: how many heads are held at once, so that every tile and all that goes with it stays within the budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
