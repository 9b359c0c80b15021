"""Axes of the scores: which samples, layers and heads the entries of an array [nA, nB, layers, heads] are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.models import HeadMap


@dataclass(frozen=True)
class HeadCounts:
    """How many layers a model has, measured or not, and how many heads a layer."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, heads: HeadMap) -> HeadCounts:
        """The counts of a head map."""
        return cls(*(int(getattr(heads, field.name)) for field in fields(cls)))

    def kv_head(self, head: int) -> int:
        """The key-value head that serves a query head."""
        return head // (self.num_heads // self.num_kv_heads)

    def group(self, kv_head: int) -> range:
        """The query heads that a key-value head serves."""
        size = self.num_heads // self.num_kv_heads
        return range(size * kv_head, size * (kv_head + 1))


@dataclass(frozen=True)
class Axes:
    """Samples of both tasks, measured layers and, as `chosen`, measured query heads; `counts` are of the whole model."""

    rows_a: tuple[FactorRow, ...]
    rows_b: tuple[FactorRow, ...]
    layers: tuple[int, ...]
    counts: HeadCounts
    chosen: tuple[int, ...]

    @classmethod
    def of(
        cls,
        rows_a: Sequence[FactorRow],
        rows_b: Sequence[FactorRow],
        heads: HeadMap,
        settings: CircuitSettings,
    ) -> Axes:
        """The axes of a measurement."""
        settings.check_places(heads.num_layers, heads.num_heads)
        counts = HeadCounts.of(heads)
        layers, chosen = (
            tuple(range(count)) if some is None else tuple(sorted(some))
            for some, count in (
                (settings.layers, counts.num_layers),
                (settings.heads, counts.num_heads),
            )
        )
        return cls(tuple(rows_a), tuple(rows_b), layers, counts, chosen)

    @property
    def empty(self) -> bool:
        """Whether a task has no samples, so that there is nothing to score."""
        return not (self.rows_a and self.rows_b)

    @property
    def units_a(self) -> list[str]:
        """What counts as one independent draw, for each sample of A; units go across tasks, as translations and copies do."""
        return [row.unit for row in self.rows_a]

    @property
    def units_b(self) -> list[str]:
        """Likewise of B."""
        return [row.unit for row in self.rows_b]

    def heads(self, block: str) -> tuple[int, ...]:
        """The measured heads of a block: query heads for q and o, key-value heads for k and v."""
        if block in ("q", "o"):
            return self.chosen
        return tuple(dict.fromkeys(self.counts.kv_head(head) for head in self.chosen))

    def shape(self, block: str, form: Form) -> tuple[int, int, int, int]:
        """The shape of a block's pair scores; those of j alone have one row."""
        rows = min(1, len(self.rows_a)) if form.variant == "ewc" else len(self.rows_a)
        return rows, len(self.rows_b), len(self.layers), len(self.heads(block))

    def layer_index(self, layer: int) -> int:
        """Where a layer is on its axis."""
        return _index("layer", layer, self.layers)

    def head_index(self, block: str, head: int) -> int:
        """Where a head is on the axis of its block."""
        return _index(f"head of block {block}", head, self.heads(block))

    @classmethod
    def from_plain(cls, plain: Any) -> Axes:
        """The axes as `foundation.storage.canonical` wrote them."""
        return cls(
            tuple(map(_row, plain["rows_a"])),
            tuple(map(_row, plain["rows_b"])),
            layers=tuple(plain["layers"]),
            counts=HeadCounts(**plain["counts"]),
            chosen=tuple(plain["chosen"]),
        )


def _row(plain: Any) -> FactorRow:
    return FactorRow(**{**plain, "loss": float(plain["loss"])})  # NaN is spelled out in JSON


def _index(argument: str, wanted: int, measured: Sequence[int]) -> int:
    if wanted not in measured:
        some = ", ".join(map(str, measured[:8])) + (" …" if len(measured) > 8 else "")
        raise MeasurementError(
            argument,
            law=f"must be of what was measured: {some or 'nothing'}",
            found=repr(wanted),
            remedy="Ask for one of these, or measure it as well.",
        )
    return measured.index(wanted)
