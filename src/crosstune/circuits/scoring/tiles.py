"""Tiles: the gradients of single samples with respect to a head's slice of the effective weight, built from factors.

`G[n, h, :, :] = Σ_t headed[n, t, h, :] ⊗ shared[n, t, :]`, the gradient of sample n's summed loss in nats. For q, k and v
`headed` is the derivative at the projection's output by head and `shared` its input, so G is the head's output rows; for o
`headed` is the projection's input by head and `shared` the derivative at its output, so G is the head's input columns,
transposed. Scores are sums over elements, to which that does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Batch(Protocol):
    """Samples of like length: what a projection saw and what came back, zero at padding."""

    @property
    def places(self) -> Tensor:
        """Which sample each row is, [b]."""

    def headed(self, block: str) -> Tensor:
        """The factor that is cut by head, [b, T, heads, head_dim]."""

    def shared(self, block: str) -> Tensor:
        """The factor that all heads share, [b, T, d]."""


class Layer(Protocol):
    """The factors of one task in one layer."""

    @property
    def layer(self) -> int:
        """Which layer."""

    @property
    def batches(self) -> Sequence[Batch]:
        """All samples."""

    @property
    def units(self) -> Sequence[str]:
        """What counts as one independent draw, by sample: its group, or itself."""


@dataclass(frozen=True)
class BlockFactors:
    """The factors of one task and block on the device that computes, from which tiles are built.

    Tiles hold samples as they lie in the batches: sample `order[p]` at position p. So a batch's product is written where it
    stays, and what is computed is put in order at the end, when it is small.

    Shapes:
        order: [count], on the CPU. headed: [b, T, heads, head_dim] each, of the chosen heads. shared: [b, T, d] each.

    Attributes:
        units: What counts as one independent draw, by sample.
        copied: Bytes of factors that lie elsewhere as well.
    """

    order: Tensor
    headed: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    units: tuple[str, ...]
    copied: int = 0

    @classmethod
    def of(
        cls,
        layer: Layer,
        block: str,
        heads: list[int] | None = None,
        device: torch.device | None = None,
    ) -> BlockFactors:
        """The factors of a block; half-precision ones as they are."""
        headed: list[Tensor] = []
        shared: list[Tensor] = []
        copied = 0
        for batch in layer.batches:
            by_head, other = batch.headed(block), batch.shared(block)
            every = heads is None or len(heads) == by_head.shape[2]
            headed.append((by_head if every else by_head[:, :, heads]).to(device))
            shared.append(other.to(device))
            copied += headed[-1].nbytes * (headed[-1] is not by_head)
            copied += shared[-1].nbytes * (shared[-1] is not other)
        order = torch.cat([batch.places.cpu() for batch in layer.batches])
        return cls(order, tuple(headed), tuple(shared), tuple(layer.units), copied)

    @property
    def count(self) -> int:
        """Samples."""
        return len(self.order)

    @property
    def places(self) -> Tensor:
        """The position of each sample, [count]."""
        return self.order.argsort()

    @property
    def halves(self) -> Tensor:
        """Which half the sample at each position is of: 0 for even ones, 1 for odd ones; [count], on the device."""
        return (self.order % 2).to(self.device)

    @property
    def members(self) -> dict[str, list[int]]:
        """The positions of the samples of each unit."""
        found: dict[str, list[int]] = {}
        for position, sample in enumerate(self.order.tolist()):
            found.setdefault(self.units[sample], []).append(position)
        return found

    @property
    def groups(self) -> tuple[Tensor, ...]:
        """The positions of the samples of each unit that has several, on the device."""
        several = (places for places in self.members.values() if len(places) > 1)
        return tuple(torch.tensor(places, device=self.device) for places in several)

    @property
    def heads(self) -> int:
        """Chosen heads."""
        return self.headed[0].shape[2]

    @property
    def slice_shape(self) -> tuple[int, int]:
        """`(head_dim, d)`, the shape of one head's slice."""
        return self.headed[0].shape[3], self.shared[0].shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """float64 for factors of float64, else float32."""
        wide = any(part.dtype == torch.float64 for part in (*self.headed, *self.shared))
        return torch.float64 if wide else torch.float32

    @property
    def device(self) -> torch.device:
        """Where tiles are built."""
        return self.shared[0].device

    def new_zeros(self, *shape: int) -> Tensor:
        """Zeros of the tiles' dtype on their device."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def build(self, heads: slice, features: slice, out: Tensor) -> None:
        """Fill a tile with every sample's gradient, one batched product per batch; out: [count, heads, features, d], contiguous."""
        flat = out.flatten(1, 2)
        sizes = [len(part) for part in self.headed]
        for tile, headed, shared in zip(flat.split(sizes), self.headed, self.shared, strict=True):
            factor = headed[:, :, heads, features].to(out.dtype).flatten(2)
            torch.bmm(factor.mT, shared.to(out.dtype), out=tile)


def by_head(tile: Tensor) -> Tensor:
    """The view [heads, n, features × d] of a tile."""
    return tile.transpose(0, 1).flatten(2)
