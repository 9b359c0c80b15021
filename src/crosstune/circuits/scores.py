"""`CircuitScores`: the interference of every sample of A with every sample of B in every head, and what may be asked of it.

For sample i of A, sample j of B and one block (q, k, v or o) of one head of one layer,

    M_ij = Σ_k g_ik² / (F_k + λ) · |g_jk|

is the directional score, over the elements k of that head's slice of the weight: diagonal Fisher, magnitude-weighted, not
symmetric, normalised by task A unless the form says otherwise. The other variants are in `tiles.variants`. g is the
gradient of a sample's summed loss (nats) by the effective weight; the score has the unit of g, signed and symmetric ones
have none. Every array is [nA, nB, layers, heads]; heads are query heads in q and o, key-value heads in k and v.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosstune.circuits import checks as asked
from crosstune.circuits import findings as words
from crosstune.circuits import tables
from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.invariance import why_not
from crosstune.circuits.methods import methods_paragraph, without_samples
from crosstune.circuits.pair import Pair, by_query_head, circuit_scores, find_pair
from crosstune.circuits.queries import Sign, top_pairs, usual_form
from crosstune.circuits.scoring.engine import BlockScores
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.circuits.storage.arrays import Array
from crosstune.circuits.storage.axes import Axes, HeadCounts
from crosstune.circuits.storage.layer import Layer
from crosstune.circuits.storage.record import Record
from crosstune.circuits.summary import Margins, heads_table, slices_table
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.models import HeadMap
from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement

_LISTED = 20  # pairs of each block and form in `tables`


class CircuitScores:
    """Scores of pairs of samples by block and form, with their margins, summaries and diagnostics.

    Made layer by layer: `create`, `put` each layer, `finish`; or read whole from a folder by `open`.

    Args:
        record: What was measured.
        heads: The model's heads, which `put` names in messages; None where all layers are there.
    """

    def __init__(self, record: Record, heads: HeadMap | None = None) -> None:
        self.record = record
        self._heads = heads

    @classmethod
    def create(
        cls,
        rows_a: Sequence[FactorRow],
        rows_b: Sequence[FactorRow],
        heads: HeadMap,
        settings: CircuitSettings,
        layers: Sequence[int] | None = None,
        folder: str | Path | None = None,
    ) -> CircuitScores:
        """Scores to be filled layer by layer; all NaN, or with the layers that the folder holds already.

        Args:
            rows_a: Samples of task A, in the order of their scores.
            rows_b: Samples of task B.
            heads: The model's heads.
            settings: What is scored, and the memory above which arrays are mapped from files.
            layers: The layers to be measured; those of the settings by default.
            folder: Where everything is kept, so that a killed measurement goes on.

        Returns:
            The scores. Without samples of A or B they are empty, and a warning says so.

        Raises:
            MeasurementError: A layer or head is not the model's.
            StorageError: The folder is about something else, or the disk is full.
        """
        axes = Axes.of(rows_a, rows_b, heads, settings, layers)
        _warn_of_nothing(axes)
        place = None if folder is None else Path(folder)
        return cls(Record.create(axes, settings, place), heads)

    @classmethod
    def open(cls, folder: str | Path) -> CircuitScores:
        """The scores that a folder holds, whole and bit for bit as they were written.

        Args:
            folder: The folder that `create` was given.

        Returns:
            The scores, their arrays mapped from their files.

        Raises:
            StorageError: It is not there, not whole, or damaged.
        """
        return cls(Record.open(Path(folder)))

    def put(self, layer: int, blocks: Mapping[str, BlockScores]) -> None:
        """Keep the scores of one layer; in a folder they are on the disk when this returns.

        Args:
            layer: The layer.
            blocks: Its scores by block.

        Raises:
            MeasurementError: The layer is not to be measured or is there already, an array does not fit, or a score
                is infinite; the message names parameter, layer, head, block and shapes.
        """
        if self._heads is None:
            raise MeasurementError(
                "layer",
                law="must not be put into scores that were opened whole",
                found=f"layer {layer}",
                remedy="Go on with a measurement by `CircuitScores.create` and its folder.",
            )
        self.record.axes.layer_place(layer)
        weights = {
            block: self._heads.projection(layer, block).weight for block in self.settings.blocks
        }
        axes = self.record.axes
        self.record.put(layer, Layer.of(axes, self.settings, layer, blocks, weights))

    def finish(self) -> CircuitScores:
        """The same scores, of which no layer is missing.

        Returns:
            Themselves.

        Raises:
            MeasurementError: A layer was not put.
        """
        missing = [layer for layer in self.layers if layer not in self.done]
        if missing and not self.record.axes.empty:
            raise MeasurementError(
                "layers",
                law="must all be put before scores are finished",
                found=f"nothing of layer {', '.join(map(str, missing))}",
                remedy="Put the scores of these layers.",
            )
        return self

    @property
    def settings(self) -> CircuitSettings:
        """How it was measured."""
        return self.record.settings

    @property
    def folder(self) -> Path | None:
        """Where they are kept, for `open`; None in memory."""
        return self.record.folder

    @property
    def rows_a(self) -> tuple[FactorRow, ...]:
        """Samples of task A, in the order of the first axis."""
        return self.record.axes.rows_a

    @property
    def rows_b(self) -> tuple[FactorRow, ...]:
        """Samples of task B, in the order of the second axis."""
        return self.record.axes.rows_b

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the third axis."""
        return self.record.axes.layers

    @property
    def done(self) -> tuple[int, ...]:
        """The layers that are measured."""
        return self.record.done

    @property
    def counts(self) -> HeadCounts:
        """The numbers of the model's heads, and which of them share keys and values."""
        return self.record.axes.counts

    @property
    def blocks(self) -> tuple[str, ...]:
        """The measured blocks."""
        return self.settings.blocks

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms of pair scores."""
        return self.settings.forms

    @property
    def average_forms(self) -> tuple[Form, ...]:
        """The forms of means and margins."""
        return self.settings.average_forms

    def heads(self, block: str) -> tuple[int, ...]:
        """The heads of a block's last axis: query heads for q and o, key-value heads for k and v."""
        asked.check_block(block, self.blocks)
        return self.record.axes.heads(block)

    def pairs(self, block: str, form: Form) -> Array:
        """The scores of all pairs.

        Shapes:
            [nA, nB, layers, heads]; [1, nB, layers, heads] for `ewc`, a score of j alone.

        Args:
            block: The block.
            form: One of `forms`.

        Returns:
            A read-only view; NaN where nothing was measured.
        """
        return self.record.pairs(block, form)

    def margins(self, block: str, form: Form) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean of each sample of A over B, and of each sample of B over A.

        Shapes:
            [nA, layers, heads] and [nB, layers, heads].

        Args:
            block: The block.
            form: One of `average_forms`.

        Returns:
            Both; NaN over nothing.
        """
        margins = Margins.of(self.record, block, form)
        shape = (len(self.layers), len(self.heads(block)))
        rows, columns = (
            means.unflatten(1, shape).numpy() for means in (margins.row_means, margins.column_means)
        )
        return rows, columns

    def by_query_head(self, block: str, form: Form) -> Mapping[int, Array]:
        """The scores [nA, nB, layers] of each measured query head; those of k and v are its key-value head's.

        Args:
            block: The block.
            form: One of `forms`.

        Returns:
            Query head → a view of `pairs`. Query heads that share a key-value head show the same numbers of k and v, which
            therefore must not be added over them.
        """
        return by_query_head(self.record, block, form)

    def circuit(self, name: Literal["qk", "ov"], form: Form) -> Array:
        """The scores of whole circuits: qk is a query head with its key head, ov a value head with all that reads it.

        Shapes:
            qk: [nA, nB, layers, query heads]; ov: [nA, nB, layers, key-value heads].

        Args:
            name: The circuit. In qk, query heads that share a key head each count it: do not add over heads.
            form: A form that rescaling the weights does not change.

        Returns:
            The sums, in memory.

        Raises:
            MeasurementError: The form cannot be added across blocks, or part of a circuit was not measured.
        """
        return circuit_scores(self.record, name, form)

    def pair(
        self, i: int | str, j: int | str, layer: int, head: int, *, block: str | None = None
    ) -> Pair:
        """One pair of samples in one head: all its scores with norms and the Fisher's figures.

        Args:
            i: A's sample: an int is its place from 0, a string its id, also where the id looks like a number.
            j: B's sample likewise.
            layer: The layer.
            head: The head: of the block, or a query head where no block is named.
            block: One block; None takes all, k and v by the key-value head that serves the query head.

        Returns:
            The pair.
        """
        if block is not None:
            asked.check_block(block, self.blocks)
            return find_pair(self.record, i, j, layer, {block: head})
        asked.check_number("head", head)
        self.record.axes.head_place("q", head)
        served = self.counts.kv_head(head)
        places = {one: served if one in ("k", "v") else head for one in self.blocks}
        return find_pair(self.record, i, j, layer, places)

    def top(
        self,
        n: int = 20,
        *,
        block: str | None = None,
        form: Form | None = None,
        layer: int | None = None,
        head: int | None = None,
        sign: Sign = "any",
    ) -> Table:
        """The table `circuit_pairs` of the n pairs that stand out, by true ids and texts.

        Args:
            n: How many.
            block: One block; None ranks all of them together.
            form: Which scores; None takes the first that may be ranked across heads. Directional and EWC scores are ranked
                within one head only.
            layer: One layer; None for all.
            head: One head of the named block; None for all.
            sign: `any` by magnitude, `conflict` the most negative first, `synergy` the most positive.

        Returns:
            The pairs, the largest first.
        """
        return top_pairs(
            self.record,
            n,
            usual_form(self.record) if form is None else form,
            blocks=self.blocks if block is None else (block,),
            layers=self.layers if layer is None else (layer,),
            head=head,
            sign=sign,
        )

    @cached_property
    def summary(self) -> Table:
        """The table `circuit_heads`: mean of each head with its two-way interval, band, p and reliability."""
        return heads_table(self.record)

    @cached_property
    def slices(self) -> Table:
        """The table `circuit_slices`: what each slice's Fisher is made of."""
        return slices_table(self.record)

    @property
    def tables(self) -> dict[str, Table]:
        """Heads, slices, and the top pairs of each block and form; of each head where a form is not ranked across heads."""
        listed = [
            self.top(_LISTED, block=block, form=form, layer=layer, head=head)
            for block in self.blocks
            for form in self.forms
            for layer, head in self._lists(block, form)
        ]
        return {
            tables.HEADS: self.summary,
            tables.SLICES: self.slices,
            tables.PAIRS: Table.concat(listed),
        }

    def _lists(self, block: str, form: Form) -> list[tuple[int | None, int | None]]:
        """The layers and heads of which top pairs are listed apart; None for all together."""
        if not why_not(form):
            return [(None, None)]
        return [(layer, head) for layer in self.layers for head in self.heads(block)]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What was found, in plain sentences that never say more than their intervals."""
        return words.statements(self.record, self.summary)

    def methods_paragraph(self) -> str:
        """A paragraph for a methods section, written from the settings: formula, properties, sizes, references."""
        return methods_paragraph(self.record)


def _warn_of_nothing(axes: Axes) -> None:
    if axes.empty:
        warnings.warn(
            f"T{without_samples(axes)[1:]}: nothing can be scored, all averages are unmeasured (NaN).",
            stacklevel=3,
        )
