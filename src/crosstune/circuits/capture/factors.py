"""Factors: what went into each attention projection and the gradient that came back, from which every sample's gradient follows.

The gradient of a sample's summed loss with respect to a projection's effective weight is G = Σ over its tokens of δ ⊗ x. The two factors
are far smaller than G, and every score of every head can be made of them; so they are what is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crosstune.foundation import ranks
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.models import HeadMap, Projection

Tensors = Mapping[str, Tensor]
"""The factors of one layer by name: `x`, `z`, and `delta.<blocks>`, one for each module (`delta.qkv` where one makes all three)."""

_DELTA = "delta."


@dataclass(frozen=True)
class FactorRow:
    """One sample.

    Attributes:
        row_id: The row.
        group: The row's group.
        tokens: Its scored tokens.
        text: What it says; empty where nobody said so.
        loss: Its summed loss, nats.
    """

    row_id: str
    group: str | None
    tokens: int
    text: str
    loss: float

    @property
    def unit(self) -> str:
        """What the sample was drawn with: its group, or its text, so that copies of one row are one."""
        if self.group:
            return f"group {self.group}"
        return f"text {self.text}" if self.text else f"row {self.row_id}"


@dataclass(frozen=True)
class Shard:
    """What one forward and backward pass brought, of all layers.

    Shapes:
        nats: [b], float64, on the CPU.

    Attributes:
        nats: The summed loss of each row.
        layers: Layer → its factors by name; every tensor [b, T, features].
    """

    nats: Tensor
    layers: Mapping[int, Tensors]

    @property
    def bytes(self) -> int:
        """The memory of its factors."""
        return sum(
            value.numel() * value.element_size()
            for tensors in self.layers.values()
            for value in tensors.values()
        )

    @classmethod
    def joined(cls, shards: Sequence[Shard]) -> Shard:
        """One shard of all rows, those that are shorter padded with zeros."""
        rows = {
            layer: {
                name: pad_sequence([row for s in shards for row in s.layers[layer][name]], True)
                for name in tensors
            }
            for layer, tensors in shards[0].layers.items()
        }
        return cls(torch.cat([shard.nats for shard in shards]), rows)

    def to(self, device: torch.device) -> Shard:
        """The same shard, its factors on a device."""
        return Shard(
            self.nats,
            {
                layer: {name: value.to(device) for name, value in tensors.items()}
                for layer, tensors in self.layers.items()
            },
        )


@dataclass(frozen=True)
class FactorBatch:
    """The factors of some samples at one layer, zero beyond each sample's last token that counts.

    Shapes:
        x: [b, T, d], the input of q, k and v. z: [b, T, H·dh], the input of o. deltas: [b, T, features of the module].

    Attributes:
        places: Where each row stands among all rows.
        x: None where no block was asked for that needs it.
        z: Likewise.
        deltas: Block → the gradient of the summed loss at the output of the block's module; one tensor
            for all blocks of a fused module.
        projections: Block → where its heads lie.
    """

    places: Tensor
    x: Tensor | None
    z: Tensor | None
    deltas: Mapping[str, Tensor]
    projections: Mapping[str, Projection]

    @classmethod
    def of(
        cls, places: Tensor, tensors: Tensors, projections: Mapping[str, Projection]
    ) -> FactorBatch:
        """The batch that holds these tensors."""
        deltas = {
            block: value
            for name, value in tensors.items()
            if name.startswith(_DELTA)
            for block in name.removeprefix(_DELTA)
        }
        return cls(places, tensors.get("x"), tensors.get("z"), deltas, projections)

    def headed(self, block: str) -> Tensor:
        """The factor that heads divide: δ for q, k and v, the input of the projection for o.

        Shapes:
            Result: [b, T, heads, head_dim], a view; key-value heads for k and v.

        Returns:
            With `shared(block)`, the gradient of sample n's head h is Σ_t headed[n, t, h] ⊗ shared[n, t]; for
            o that is the transpose of its input columns.
        """
        self._check(block)
        features = self.z if block == "o" else self.deltas[block]
        assert features is not None
        return self.projections[block].take(features)

    def shared(self, block: str) -> Tensor:
        """The factor that all heads of a block share: the input for q, k and v, δ for o.

        Shapes:
            Result: [b, T, d].
        """
        self._check(block)
        features = self.deltas["o"] if block == "o" else self.x
        assert features is not None
        return features

    def _check(self, block: str) -> None:
        if block not in self.deltas:
            raise SettingsError(
                "block",
                law=f"must be of those that were captured: {', '.join(self.deltas)}",
                found=repr(block),
                remedy="Name it in `blocks` before capturing.",
            )


@dataclass(frozen=True)
class LayerFactors:
    """The factors of every sample at one layer.

    Attributes:
        layer: The layer.
        batches: Samples of like length together; every sample is in one of them.
        units: What each sample was drawn with.
    """

    layer: int
    batches: tuple[FactorBatch, ...]
    units: tuple[str, ...]


class Keeper(Protocol):
    """Where factors are kept, shard by shard."""

    @property
    def bytes(self) -> int:
        """Their size."""
        ...

    @property
    def kernel(self) -> tuple[str, float] | None:
        """The attention kernel that was settled on before, and the difference that was seen."""
        ...

    def settle(self, kernel: str, difference: float) -> None:
        """Remember them."""
        ...

    def holds(self, index: int) -> bool:
        """Whether a shard is there."""
        ...

    def write(self, index: int, shard: Shard) -> None:
        """Keep a shard."""
        ...

    def share(self, device: torch.device) -> None:
        """Let every process have every shard; all call it when each has written its own."""
        ...

    def nats(self, index: int) -> Tensor:
        """The summed losses of a shard's rows."""
        ...

    def tensors(self, layer: int) -> Iterator[Tensors]:
        """The factors of one layer, shard by shard."""
        ...

    def close(self) -> None:
        """Remove what was kept for this capture alone."""
        ...


class InMemory:
    """Keeps factors that fit, where they were made; a `Keeper`."""

    kernel: tuple[str, float] | None = None

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}

    @property
    def bytes(self) -> int:
        """Their memory."""
        return sum(shard.bytes for shard in self._shards.values())

    def settle(self, kernel: str, difference: float) -> None:
        """Remember the kernel."""
        self.kernel = (kernel, difference)

    def holds(self, index: int) -> bool:
        """Whether a shard is there."""
        return index in self._shards

    def write(self, index: int, shard: Shard) -> None:
        """Keep a shard."""
        self._shards[index] = shard

    def share(self, device: torch.device) -> None:
        """Let every process have every shard."""
        if ranks.world_size() == 1:
            return
        mine = {index: shard.to(torch.device("cpu")) for index, shard in self._shards.items()}
        for theirs in ranks.gather_over_ranks(mine):
            for index, shard in theirs.items():
                if index not in self._shards:
                    self._shards[index] = shard.to(device)

    def nats(self, index: int) -> Tensor:
        """The summed losses of a shard's rows."""
        return self._shards[index].nats

    def tensors(self, layer: int) -> Iterator[Tensors]:
        """The factors of one layer, shard by shard."""
        return (self._shards[index].layers[layer] for index in sorted(self._shards))

    def close(self) -> None:
        """Let the memory go."""
        self._shards = {}


@dataclass(frozen=True)
class Factors:
    """What one capture holds, in memory or on disk; use it in a `with` block, or `close()` it.

    Attributes:
        rows: The samples, in the order in which they were given.
        heads: The model's heads.
        layers: The layers that were captured, in order.
        blocks: The blocks that were captured.
        labels: `text`, or `sampled` from the model's own predictions.
        kernel: The attention kernel: `default`; `math` where a row's factors hung on its neighbours in the batch; `alone`
            where they did with that one too, and rows went through the model one at a time.
        difference: By how much they differed when that was tested, relative to their size; NaN where no row
            had a neighbour.
        batches: The places of the rows of each batch.
        keeper: Where the factors are.
    """

    rows: tuple[FactorRow, ...]
    heads: HeadMap
    layers: tuple[int, ...]
    blocks: tuple[str, ...]
    labels: str
    kernel: str
    difference: float
    batches: tuple[Tensor, ...] = field(repr=False)
    keeper: Keeper = field(repr=False)

    @property
    def bytes(self) -> int:
        """The size of all factors, in memory or on disk."""
        return self.keeper.bytes

    def layer(self, layer: int) -> LayerFactors:
        """The factors of one layer; read from disk now, where they are kept there.

        Args:
            layer: One of `layers`.

        Returns:
            Every sample once.

        Raises:
            SettingsError: The layer was not captured.
            StorageError: What was kept on disk is damaged or gone.
        """
        if layer not in self.layers:
            raise SettingsError(
                "layer",
                law=f"must be of those that were captured: {', '.join(map(str, self.layers))}",
                found=layer,
                remedy="Name it in `layers` before capturing.",
            )
        projections = {block: self.heads.projection(layer, block) for block in self.blocks}
        return LayerFactors(
            layer,
            tuple(
                FactorBatch.of(places, tensors, projections)
                for places, tensors in zip(self.batches, self.keeper.tensors(layer), strict=True)
            ),
            units=tuple(row.unit for row in self.rows),
        )

    def with_texts(self, texts: Sequence[str]) -> Factors:
        """The same factors, whose rows say what they say.

        Args:
            texts: The text of each row, in the order of `rows`.

        Returns:
            Factors that share everything else.

        Raises:
            DataError: There are more or fewer texts than rows.
        """
        if len(texts) != len(self.rows):
            raise DataError(
                "texts",
                law=f"must be one for each of {len(self.rows)} rows",
                found=len(texts),
                remedy="Give them in the order of the rows.",
            )
        rows = (replace(row, text=text) for row, text in zip(self.rows, texts, strict=True))
        return replace(self, rows=tuple(rows))

    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures should know about how they were captured, in sentences."""
        if self.kernel == "default" or math.isnan(self.difference):
            return ()
        how = "one row at a time" if self.kernel == "alone" else "with the math kernel of attention"
        return (
            f"Captured {how}: with the default kernel a row's factors "
            f"differed by {self.difference:.1e} of their size when other rows stood beside it.",
        )

    def close(self) -> None:
        """Remove what was kept for this capture alone; factors in a folder that was named stay."""
        self.keeper.close()

    def __enter__(self) -> Factors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
