"""Axes of the scores: which sample, layer and head each place of an array belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.errors import MeasurementError, StorageError
from crosstune.foundation.models import HeadMap


@dataclass(frozen=True)
class HeadCounts:
    """How many heads a model's layers have.

    Attributes:
        num_layers: Layers of the model, measured or not.
        num_heads: Query heads of a layer.
        num_kv_heads: Key-value heads of a layer.
        head_dim: Features of a head.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, heads: HeadMap) -> HeadCounts:
        """The counts of a head map."""
        return cls(*(int(getattr(heads, field.name)) for field in fields(cls)))

    def count(self, block: str) -> int:
        """Heads of a block: key-value heads for k and v."""
        return self.num_kv_heads if block in ("k", "v") else self.num_heads

    def kv_head(self, head: int) -> int:
        """The key-value head that serves a query head."""
        return head // (self.num_heads // self.num_kv_heads)

    def group(self, kv_head: int) -> range:
        """The query heads that a key-value head serves."""
        size = self.num_heads // self.num_kv_heads
        return range(size * kv_head, size * (kv_head + 1))


@dataclass(frozen=True)
class Axes:
    """What the places of score arrays [nA, nB, layers, heads] stand for.

    Attributes:
        rows_a: Samples of task A.
        rows_b: Samples of task B.
        layers: Measured layers.
        counts: All heads of the model.
        chosen: Measured query heads.
    """

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
        layers: Sequence[int] | None = None,
    ) -> Axes:
        """The axes of a measurement.

        Args:
            settings: Which heads are measured, and which layers where `layers` is None.
        """
        counts = HeadCounts.of(heads)
        wanted = layers if layers is not None else settings.layers
        measured = tuple(range(counts.num_layers)) if wanted is None else tuple(wanted)
        chosen = tuple(range(counts.num_heads)) if settings.heads is None else settings.heads
        check_places("layers", measured, counts.num_layers)
        check_places("heads", chosen, counts.num_heads)
        return cls(
            tuple(rows_a),
            tuple(rows_b),
            layers=tuple(sorted(measured)),
            counts=counts,
            chosen=tuple(sorted(chosen)),
        )

    @property
    def empty(self) -> bool:
        """Whether a task has no samples, so that there is nothing to score."""
        return not (self.rows_a and self.rows_b)

    @property
    def units_a(self) -> list[str]:
        """What each sample of A was drawn with."""
        return [row.unit for row in self.rows_a]

    @property
    def units_b(self) -> list[str]:
        """Likewise of B. Groups and texts go across tasks, as translations and copies do."""
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

    def layer_place(self, layer: int) -> int:
        """The place of a layer."""
        return _place("layer", layer, self.layers)

    def head_place(self, block: str, head: int) -> int:
        """The place of a head in its block."""
        return _place(f"head of block {block}", head, self.heads(block))

    def row_place(self, side: str, row: int | str) -> int:
        """The place of a sample of task `a` or `b`, given its place or its id."""
        rows = self.rows_a if side == "a" else self.rows_b
        if isinstance(row, str):
            return _place(f"row of task {side.upper()}", row, [one.row_id for one in rows])
        return _place(f"row of task {side.upper()}", row, range(len(rows)))

    @classmethod
    def from_plain(cls, plain: Any) -> Axes:
        """The axes as `foundation.storage.canonical` wrote them."""
        try:
            return cls(
                tuple(map(_row, plain["rows_a"])),
                tuple(map(_row, plain["rows_b"])),
                layers=tuple(plain["layers"]),
                counts=HeadCounts(**plain["counts"]),
                chosen=tuple(plain["chosen"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(
                "axes",
                law="must be what this version of Crosstune writes",
                found=f"{type(error).__name__}: {error}",
                remedy="Delete the folder and measure again.",
            ) from error


def check_places(argument: str, given: Sequence[int], count: int) -> None:
    """Raise unless all given numbers are layers or heads of a model that has so many of them."""
    wrong = [number for number in given if not 0 <= number < count]
    if wrong:
        raise MeasurementError(
            argument,
            law=f"must be 0 to {count - 1}, as the model has {count}",
            found=", ".join(map(str, wrong)),
            remedy="Name those that exist, or leave it out for all.",
        )


def _row(plain: Any) -> FactorRow:
    return FactorRow(**{**plain, "loss": float(plain["loss"])})  # NaN is spelled out in JSON


def _place(argument: str, wanted: int | str, known: Sequence[int] | Sequence[str]) -> int:
    places = {name: at for at, name in enumerate(known)}
    if wanted not in places:
        some = ", ".join(map(str, list(known)[:8])) + (" …" if len(known) > 8 else "")
        raise MeasurementError(
            argument,
            law=f"must be of what was measured: {some or 'nothing'}",
            found=repr(wanted),
            remedy="Ask for one of these, or measure it as well.",
        )
    return places[wanted]
