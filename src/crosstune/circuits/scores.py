"""`CircuitScores`: the interference of every sample of A with every sample of B in every head, and what may be asked of it.

For sample i of A, sample j of B and one block (q, k, v or o) of one head of one layer,

    M_ij = Σ_k g_ik² / (F_k + λ) · |g_jk|

is the directional score, over the elements k of that head's slice of the weight: diagonal Fisher, magnitude-weighted, not
symmetric, normalised by task A unless the form says otherwise. The other variants are in `scoring.variants`. g is the
gradient of a sample's summed loss (nats) by the effective weight; the score has the unit of g, signed and symmetric ones
have none. Every array is [nA, nB, layers, heads]; heads are query heads in q and o, key-value heads in k and v.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crosstune.circuits import tables
from crosstune.circuits.checks import check_block, check_number, why_not
from crosstune.circuits.findings import methods_paragraph, statements
from crosstune.circuits.pairs import (
    Pair,
    Sign,
    by_query_head,
    circuit_scores,
    find_pair,
    top_pairs,
    usual_form,
)
from crosstune.circuits.record import PairArray, Record
from crosstune.circuits.settings import Form
from crosstune.circuits.summary import Margins, heads_table, slices_table
from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement

_LISTED = 20  # pairs of each block and form in `tables`


class CircuitScores(Record):
    """Scores of pairs of samples by block and form, with their margins, summaries and diagnostics.

    Made layer by layer: `create`, `put` each layer, `finish`; or read whole from a folder by `open`.
    """

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
        margins = Margins.of(self, block, form)
        shape = (len(self.layers), len(self.heads(block)))
        rows, columns = (
            means.unflatten(1, shape).numpy() for means in (margins.row_means, margins.column_means)
        )
        return rows, columns

    def by_query_head(self, block: str, form: Form) -> Mapping[int, PairArray]:
        """The scores [nA, nB, layers] of each measured query head; those of k and v are its key-value head's.

        Args:
            block: The block.
            form: One of `forms`.

        Returns:
            Query head → a view of `pairs`. Query heads that share a key-value head show the same numbers of k and v, which
            therefore must not be added over them.
        """
        return by_query_head(self, block, form)

    def circuit(self, name: Literal["qk", "ov"], form: Form) -> PairArray:
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
        return circuit_scores(self, name, form)

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
            check_block(block, self.blocks)
            return find_pair(self, i, j, layer, {block: head})
        check_number("head", head)
        self.axes.head_index("q", head)
        served = self.axes.counts.kv_head(head)
        heads = {one: served if one in ("k", "v") else head for one in self.blocks}
        return find_pair(self, i, j, layer, heads)

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
        """The table `circuit_pairs` of the n pairs with the largest scores, by true ids and texts.

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
            self,
            n,
            usual_form(self) if form is None else form,
            blocks=self.blocks if block is None else (block,),
            layers=self.layers if layer is None else (layer,),
            head=head,
            sign=sign,
        )

    @cached_property
    def summary(self) -> Table:
        """The table `circuit_heads`: mean of each head with its two-way interval, band, p and reliability."""
        return heads_table(self)

    @cached_property
    def slices(self) -> Table:
        """The table `circuit_slices`: what each slice's Fisher is made of."""
        return slices_table(self)

    @property
    def tables(self) -> dict[str, Table]:
        """Heads, slices, and the top pairs of each block and form; of each head where a form is not ranked across heads."""
        top = [
            self.top(_LISTED, block=block, form=form, layer=layer, head=head)
            for block in self.blocks
            for form in self.forms
            for layer, head in self._ranked_together(block, form)
        ]
        return {
            tables.HEADS: self.summary,
            tables.SLICES: self.slices,
            tables.PAIRS: Table.concat(top),
        }

    def _ranked_together(self, block: str, form: Form) -> list[tuple[int | None, int | None]]:
        """The layers and heads that are ranked each by itself; None for all together."""
        if not why_not(form):
            return [(None, None)]
        return [(layer, head) for layer in self.layers for head in self.heads(block)]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What was found, in plain sentences that never say more than their intervals."""
        return statements(self, self.summary)

    def methods_paragraph(self) -> str:
        """A paragraph for a methods section, written from the settings: formula, properties, sizes, references."""
        return methods_paragraph(self)
