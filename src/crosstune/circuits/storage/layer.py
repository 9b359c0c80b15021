"""One scored layer as named arrays, each checked against the axes before it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from crosstune.circuits.scoring.accumulate import has_own
from crosstune.circuits.scoring.engine import BlockScores
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.circuits.storage.axes import Axes
from crosstune.foundation.errors import MeasurementError

T = TypeVar("T")
FISHER_FACTS = ("min", "median", "max", "below_epsilon", "damping")


def pair_name(block: str, form: Form) -> str:
    """The name of an array of pair scores, also its file's."""
    return f"{block}-{form.variant}-{form.fisher}"


class Layer:
    """The arrays of one layer.

    Attributes:
        pairs: Pair scores [nA, nB, heads] by `pair_name`.
        sides: Everything else by a name of words and dots, heads on the last axis.
    """

    def __init__(self) -> None:
        self.pairs: dict[str, NDArray[np.float32]] = {}
        self.sides: dict[str, NDArray[np.float32]] = {}

    @classmethod
    def of(
        cls,
        axes: Axes,
        settings: CircuitSettings,
        layer: int,
        blocks: Mapping[str, BlockScores],
        weights: Mapping[str, str],
    ) -> Layer:
        """A layer whose every array fits.

        Returns:
            The arrays, of measured heads only. The mean over half of a task that has no sample is NaN.
        """
        made = cls()
        for block in settings.blocks:
            where = f"layer {layer}, block {block}, parameter {weights[block]}"
            if block not in blocks:
                _refuse(where, f"scores of block {block!r}", blocks)
            found = blocks[block]
            fit = _Fit(axes, block, found.heads, where)
            for form in settings.forms:
                given = _of_form(found.pairs, form, "pairs", where)
                values = fit(given, f"pairs of {form}", axes.shape(block, form)[:2])
                made.pairs[pair_name(block, form)] = values
            made.sides.update(_sides(found, fit, settings))
        return made


def _sides(found: BlockScores, fit: _Fit, settings: CircuitSettings) -> Iterator[tuple[str, Any]]:
    block, n_a, n_b = fit.block, len(fit.axes.rows_a), len(fit.axes.rows_b)
    for form in settings.average_forms:
        columns = _of_form(found.columns, form, "columns", fit.where)
        yield f"{block}.columns.{form}", _halves(fit(columns, f"columns of {form}", (2, n_b)), n_a)
        rows = _of_form(found.rows, form, "rows", fit.where)
        yield f"{block}.rows.{form}", _halves(fit(rows, f"rows of {form}", (2, n_a)), n_b)
        if has_own(form):
            apart = _of_form(found.apart, form, "scores apart", fit.where)
            for name, n in (("own_a", n_a), ("own_b", n_b), ("across_a", n_a), ("across_b", n_b)):
                yield f"{block}.{name}.{form}", fit(getattr(apart, name), f"{name} of {form}", (n,))
    for name, values, n in (
        ("l1_b", found.l1_b, n_b),
        ("norm_a", found.norm_a, n_a),
        ("norm_b", found.norm_b, n_b),
    ):
        yield f"{block}.{name}", fit(values, name, (n,))
    for kind, facts in found.fishers.items():
        figures = [fit(getattr(facts, name), f"{name} of {kind}", ()) for name in FISHER_FACTS]
        yield f"{block}.fisher.{kind}", np.stack(figures)


class _Fit:
    """Takes tensors of one block of one layer to arrays of its measured heads."""

    def __init__(self, axes: Axes, block: str, heads: Sequence[int], where: str) -> None:
        self.axes, self.block, self.where = axes, block, where
        self.measured = axes.heads(block)
        self.given = len(heads)
        if missing := set(self.measured) - set(heads):
            _refuse(where, f"scores of head {_spoken(sorted(missing))}", heads)
        self.places = [list(heads).index(head) for head in self.measured]

    def __call__(self, tensor: Tensor, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The tensor, checked; of all heads those that are measured."""
        values = tensor.detach().cpu().float().numpy()
        if values.shape != (*shape, self.given):
            raise MeasurementError(
                f"{name} ({self.where}, heads {_spoken(self.measured)})",
                law=f"must have the shape {[*shape, self.given]}",
                found=f"{list(values.shape)}",
                remedy="Score the samples and heads that the measurement was created for.",
            )
        if self.places != list(range(self.given)):
            values = values[..., self.places]
        infinite = np.isinf(values).reshape(-1, len(self.measured)).any(0)
        if infinite.any():
            heads = [head for head, bad in zip(self.measured, infinite, strict=True) if bad]
            raise MeasurementError(
                f"{name} ({self.where})",
                law="must be finite",
                found=f"an infinite score in head {_spoken(heads)}",
                remedy="Look at that slice's Fisher in `circuit_slices`; a larger `damping_share` or `epsilon` divides by more.",
            )
        return values


def _halves(values: NDArray[np.float32], averaged: int) -> NDArray[np.float32]:
    """Means over samples at even and at odd places of a task; NaN where there is none."""
    kept = values.copy()
    kept[averaged:] = np.nan  # one sample fills the first half only, no sample neither
    return kept


def _of_form(given: Mapping[Form, T], form: Form, name: str, where: str) -> T:
    if form not in given:
        _refuse(where, f"{name} of {form}", given)
    return given[form]


def _refuse(where: str, what: str, given: Iterable[object]) -> NoReturn:
    raise MeasurementError(
        where,
        law=f"must have {what}",
        found=", ".join(map(str, given)) or "nothing",
        remedy="Score a layer with the settings that the measurement was created with.",
    )


def _spoken(heads: Sequence[int]) -> str:
    some = ", ".join(map(str, heads[:8]))
    return f"{some} …" if len(heads) > 8 else some
