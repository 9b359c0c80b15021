"""Factors: what went into each attention projection and the gradient that came back, from which every sample's gradient follows.

The gradient of a sample's summed loss with respect to a projection's effective weight is G = Σ over its tokens of δ ⊗ x. The two factors
are far smaller than G, and every score of every head can be made of them; so they are what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType

from torch import Tensor

from crosstune.circuits.capture.shards import Shards
from crosstune.circuits.storage import Tensors
from crosstune.foundation.models import HeadMap, Projection

_DELTA = "delta."


@dataclass(frozen=True)
class FactorRow:
    """One sample.

    Attributes:
        group: Its group; None where it has none.
        unit: What is one independent draw (`Row.unit`).
        tokens: Its scored tokens.
        text: What it says; empty where nobody said so.
        loss: Its summed loss, nats.
    """

    row_id: str
    group: str | None
    unit: str
    tokens: int
    text: str
    loss: float


@dataclass(frozen=True)
class FactorBatch:
    """The factors of some samples at one layer, zero beyond each sample's last token that counts.

    Shapes:
        places: [b], where each row stands among all rows. x: [b, T, d], the input of q, k and v. z: [b, T, H·dh], the input of o.
        deltas: [b, T, features of the module], the gradient of the summed loss at the output of the block's module; one tensor for
        all blocks of a fused module. x and z are None where no block needs them.
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

        With `shared(block)`, the gradient of sample n's head h is Σ_t headed[n, t, h] ⊗ shared[n, t]; for o that is the transpose
        of its input columns.

        Shapes:
            Result: [b, T, heads, head_dim], a view; key-value heads for k and v.
        """
        features = self.z if block == "o" else self.deltas[block]
        assert features is not None
        return self.projections[block].take(features)

    def shared(self, block: str) -> Tensor:
        """The factor that all heads of a block share: the input for q, k and v, δ for o; [b, T, d]."""
        features = self.deltas["o"] if block == "o" else self.x
        assert features is not None
        return features


@dataclass(frozen=True)
class LayerFactors:
    """The factors of every sample at one layer, each in one batch; `units` are what counts as one independent draw, by sample."""

    layer: int
    batches: tuple[FactorBatch, ...]
    units: tuple[str, ...]


@dataclass(frozen=True)
class Factors:
    """What one capture holds, in memory or on disk; use it in a `with` block, or `close()` it.

    Attributes:
        rows: The samples, in the order in which they were given.
        labels: `text`, or `sampled` from the model's own predictions.
        kernel: The attention kernel: `default`; `math` where a row's factors depended on the other rows of its batch; `alone`
            where they did with that one too, and rows went through the model one at a time.
        difference: By how much they differed when that was tested, relative to their size; NaN where every row was alone.
        batches: The places of the rows of each batch.
        shards: The factors of each batch.
    """

    rows: tuple[FactorRow, ...]
    heads: HeadMap
    layers: tuple[int, ...]
    blocks: tuple[str, ...]
    labels: str
    kernel: str
    difference: float
    batches: tuple[Tensor, ...] = field(repr=False)
    shards: Shards = field(repr=False)

    @property
    def bytes(self) -> int:
        """The size of all factors, in memory or on disk."""
        return self.shards.bytes

    def layer(self, layer: int) -> LayerFactors:
        """The factors of one layer; read from disk now, where they are stored there. A damaged file is a StorageError."""
        projections = {block: self.heads.projection(layer, block) for block in self.blocks}
        return LayerFactors(
            layer,
            tuple(
                FactorBatch.of(places, tensors, projections)
                for places, tensors in zip(self.batches, self.shards.tensors(layer), strict=True)
            ),
            units=tuple(row.unit for row in self.rows),
        )

    def with_texts(self, texts: Sequence[str]) -> Factors:
        """The same factors, whose rows say what they say; one text for each row, in their order."""
        rows = (replace(row, text=text) for row, text in zip(self.rows, texts, strict=True))
        return replace(self, rows=tuple(rows))

    def close(self) -> None:
        """Remove what was stored for this capture alone; factors in a folder that was named stay."""
        self.shards.close()

    def __enter__(self) -> Factors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
