"""The record of a measurement: the scores of every layer, in memory or in a folder that a killed run goes on from.

In a folder the scores of pairs lie in one `.npy` file for each block and form, which `numpy.load(path, mmap_mode="r")` opens. All else
of a layer lies in a file of its own, written last: with it a layer is done, and its fingerprint is that of the layer's pairs too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstune.circuits.axes import Axes, HeadCounts
from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.checks import check_block, check_form
from crosstune.circuits.scoring.engine import BlockScores
from crosstune.circuits.scoring.fisher import FisherFacts
from crosstune.circuits.scoring.independent import IndependentMeans, has_within_task
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.circuits.storage import Store
from crosstune.foundation.errors import CrosstuneError, MeasurementError, StorageError
from crosstune.foundation.models import HeadMap
from crosstune.foundation.settings import from_mapping
from crosstune.foundation.storage import atomic_write, canonical

PairArray = NDArray[np.float32]
Shape = tuple[int, int, int, int]

FISHER_FACTS = tuple(field.name for field in fields(FisherFacts))
_GIB = 2**30
_CHUNK = 1 << 20  # numbers that are written at once
_FIGURES = "figures"  # what a layer's file holds: everything but the scores of pairs
# What changes speed and memory, but no score.
_FREE = ("budget_gib", "batch_tokens", "computation_device")
# The same model and rows give the same loss; other batches or kernels may change its last digits.
_SAME_LOSS = 1e-3


def pair_name(block: str, form: Form) -> str:
    """The name of an array of pair scores, also its file's."""
    return f"{block}-{form.variant}-{form.fisher}"


class Record:
    """Scores by block and form, filled layer by layer; what was not measured is NaN.

    In memory and on disk the sample of A runs fastest and the head slowest, so the matrix of all pairs of one head of one layer lies in
    one piece.
    """

    def __init__(
        self,
        axes: Axes,
        settings: CircuitSettings,
        arrays: Mapping[str, PairArray],
        store: Store | None,
    ) -> None:
        self.axes, self.settings = axes, settings
        self._arrays, self._store = arrays, store
        self._figures: dict[int, dict[str, NDArray[np.float32]]] = {}
        self._stacked: dict[str, NDArray[np.float64]] = {}
        if store is not None:
            for layer in filter(store.holds, axes.layers):
                found = store.read_part(layer, _FIGURES, self._pairs_of(layer))
                self._figures[layer] = {name: value.numpy() for name, value in found.items()}

    @classmethod
    def create(
        cls,
        rows_a: Sequence[FactorRow],
        rows_b: Sequence[FactorRow],
        heads: HeadMap,
        settings: CircuitSettings,
        folder: str | Path | None = None,
    ) -> Self:
        """Scores to be filled layer by layer; all NaN, or with the layers that the folder holds already.

        Args:
            rows_a: Samples of task A, in the order of their scores.
            rows_b: Samples of task B.
            heads: The model's heads.
            settings: What is scored, and the memory above which arrays are mapped from temporary files.
            folder: Where everything is stored, so that a killed measurement goes on.

        Returns:
            The scores. Without samples of A or B they are empty, and a warning says so.

        Raises:
            SettingsError: A layer or head is not the model's.
            StorageError: The folder is about something else, or the disk is full.
        """
        axes = Axes.of(rows_a, rows_b, heads, settings)
        if axes.empty:
            empty = without_samples(axes)
            warnings.warn(
                f"T{empty[1:]}: nothing can be scored, all averages are unmeasured (NaN).",
                stacklevel=2,
            )
        shapes = _shapes(axes, settings)
        expected = sum(map(_bytes, shapes.values()))
        if folder is None and expected <= settings.budget_gib * _GIB:
            return cls(axes, settings, {n: _unmeasured(s) for n, s in shapes.items()}, None)
        place = None if folder is None else Path(folder)
        store = Store.create(place, "scores", "layer", count=len(axes.layers), expected=expected)
        store.remove_in_the_end()
        if store.manifest.exists():
            before = _described(store)
            _check_same(before, (axes, settings), store.folder)
            axes = before[0]
        else:
            store.describe({"settings": canonical(settings), "axes": canonical(axes)})
        for name, shape in shapes.items():
            if not (store.folder / f"{name}.npy").exists():
                with store.writing():
                    _write_unmeasured(store.folder / f"{name}.npy", shape)
        return cls(axes, settings, _mapped(store, shapes, "r+"), store)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The scores that a folder holds, whole and bit for bit as they were written.

        Args:
            folder: The folder that `create` was given.

        Returns:
            The scores, their arrays mapped from their files.

        Raises:
            StorageError: It is not there, not whole, or damaged.
        """
        store = Store(Path(folder), "scores", "layer", count=0, expected=0)
        axes, settings = _described(store)
        # Copy on write: nothing is written, but torch warns of arrays that cannot be.
        found = cls(axes, settings, _mapped(store, _shapes(axes, settings), "c"), store)
        if found.missing:
            raise StorageError(
                str(folder),
                law="must hold every layer",
                found=f"none of layer {', '.join(map(str, found.missing))}",
                remedy="Measure with the same settings and this folder; what is done is not done again.",
            )
        return found

    def put(self, layer: int, blocks: Mapping[str, BlockScores]) -> None:
        """Add the scores of one layer; in a folder they are on the disk when this returns.

        Args:
            layer: The layer.
            blocks: Its scores by block.

        Raises:
            MeasurementError: The layer is not to be measured or is there already, an array does not fit, or a score
                is infinite; the message names layer, block, head and shapes.
        """
        at = self.axes.layer_index(layer)
        if layer in self._figures:
            raise MeasurementError(
                "layer",
                law="must be put once",
                found=f"layer {layer} again",
                remedy="Score only layers that are not in `done`.",
            )
        pairs: dict[str, PairArray] = {}
        figures: dict[str, NDArray[np.float32]] = {}
        for block in self.settings.blocks:
            where, heads = f"layer {layer}, block {block}", self.axes.heads(block)
            for form in self.settings.forms:
                pair_lead = self.axes.shape(block, form)[:2]
                place = f"pairs of {form} ({where})"
                values = _checked(blocks[block].pairs[form], pair_lead, heads, place)
                pairs[pair_name(block, form)] = values
            for name, given, lead in _figures_of(self.axes, self.settings, blocks[block]):
                figures[f"{block}.{name}"] = _checked(given, lead, heads, f"{name} ({where})")
        for name, values in pairs.items():
            self._arrays[name][:, :, at] = values
        if self._store is not None:
            for array in self._arrays.values():
                if isinstance(array, np.memmap):
                    array.flush()
            tensors = {name: torch.from_numpy(values) for name, values in figures.items()}
            self._store.write_parts(layer, {_FIGURES: tensors}, self._pairs_of(layer))
        self._figures[layer] = figures
        self._stacked.clear()

    def finish(self) -> Self:
        """The same scores, of which no layer is missing.

        Returns:
            Themselves.

        Raises:
            MeasurementError: A layer was not put.
        """
        if self.missing:
            raise MeasurementError(
                "layers",
                law="must all be put before scores are finished",
                found=f"nothing of layer {', '.join(map(str, self.missing))}",
                remedy="Put the scores of these layers.",
            )
        return self

    @property
    def folder(self) -> Path | None:
        """Where they are stored, for `open`; None in memory."""
        return None if self._store is None else self._store.folder

    @property
    def rows_a(self) -> tuple[FactorRow, ...]:
        """Samples of task A, in the order of the first axis."""
        return self.axes.rows_a

    @property
    def rows_b(self) -> tuple[FactorRow, ...]:
        """Samples of task B, in the order of the second axis."""
        return self.axes.rows_b

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers of the third axis."""
        return self.axes.layers

    @property
    def done(self) -> tuple[int, ...]:
        """The layers that are measured."""
        return tuple(sorted(self._figures))

    @property
    def missing(self) -> tuple[int, ...]:
        """The layers that are still to be measured; none where there is nothing to score."""
        if self.axes.empty:
            return ()
        return tuple(layer for layer in self.layers if layer not in self._figures)

    @property
    def counts(self) -> HeadCounts:
        """The numbers of the model's heads, and which of them share keys and values."""
        return self.axes.counts

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
        check_block(block, self.blocks)
        return self.axes.heads(block)

    def pairs(self, block: str, form: Form) -> PairArray:
        """The scores of all pairs.

        Shapes:
            [nA, nB, layers, heads]; [1, nB, layers, heads] for `ewc`, a score of j alone.

        Args:
            block: The block.
            form: One of `forms`.

        Returns:
            A read-only view; NaN where nothing was measured.
        """
        check_block(block, self.blocks)
        check_form(form, self.forms)
        view = self._arrays[pair_name(block, form)].view()
        view.flags.writeable = False
        return view

    def columns(self, block: str, form: Form) -> NDArray[np.float64]:
        """Means over A's samples at even and at odd places, [2, nB, layers, heads]."""
        return self._averages(block, form, "columns", (2, len(self.rows_b)))

    def rows(self, block: str, form: Form) -> NDArray[np.float64]:
        """Means over B's samples at even and at odd places, [2, nA, layers, heads]; NaN for scores of j alone."""
        return self._averages(block, form, "rows", (2, len(self.rows_a)))

    def independent(self, block: str, form: Form, name: str) -> NDArray[np.float64]:
        """Each sample's mean score with independent samples, [n, layers, heads]; `name` is a field of `IndependentMeans`."""
        rows = self.rows_a if name.endswith("_a") else self.rows_b
        return self._averages(block, form, name, (len(rows),))

    def _averages(
        self, block: str, form: Form, name: str, lead: tuple[int, ...]
    ) -> NDArray[np.float64]:
        check_block(block, self.blocks)
        check_form(form, self.average_forms)
        return self._all_layers(block, f"{name}.{form}", lead)

    def l1_b(self, block: str) -> NDArray[np.float64]:
        """‖g_j‖₁ of B's samples, [nB, layers, heads]."""
        return self._all_layers(block, "l1_b", (len(self.rows_b),))

    def norms(self, block: str, side: str) -> NDArray[np.float64]:
        """‖g‖₂ of a task's samples, [n, layers, heads]; `side` is a or b."""
        rows = self.rows_a if side == "a" else self.rows_b
        return self._all_layers(block, f"norm_{side}", (len(rows),))

    def fishers(self, block: str) -> dict[str, NDArray[np.float64]]:
        """Figures of each Fisher's slices, [min · median · max · below_epsilon · damping, layers, heads]."""
        start = f"{block}.fisher."
        some = next(iter(self._figures.values()), {})
        kinds = sorted(name.removeprefix(start) for name in some if name.startswith(start))
        return {
            kind: self._all_layers(block, f"fisher.{kind}", (len(FISHER_FACTS),)) for kind in kinds
        }

    def _all_layers(self, block: str, what: str, lead: tuple[int, ...]) -> NDArray[np.float64]:
        """Figures of all layers under one name, layers and heads last; NaN for what is not there."""
        name = f"{block}.{what}"
        if name not in self._stacked:
            found = np.full((*lead, len(self.layers), len(self.axes.heads(block))), np.nan)
            for layer, figures in self._figures.items():
                if name in figures:
                    found[..., self.axes.layer_index(layer), :] = figures[name]
            self._stacked[name] = found
        return self._stacked[name]

    def _pairs_of(self, layer: int) -> dict[str, Tensor]:
        at = self.axes.layer_index(layer)
        return {name: torch.from_numpy(array[:, :, at]) for name, array in self._arrays.items()}


def without_samples(axes: Axes) -> str:
    """Which task has no samples, as a clause."""
    empty = [name for name, rows in (("A", axes.rows_a), ("B", axes.rows_b)) if not rows]
    return f"task {' and task '.join(empty)} {'have' if len(empty) > 1 else 'has'} no samples"


def _figures_of(
    axes: Axes, settings: CircuitSettings, scores: BlockScores
) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
    """What is stored of a block beside its pairs: name, values, and their shape but for heads."""
    n = {"a": len(axes.rows_a), "b": len(axes.rows_b)}
    for form in settings.average_forms:
        yield f"columns.{form}", scores.columns[form], (2, n["b"])
        yield f"rows.{form}", scores.rows[form], (2, n["a"])
        if has_within_task(form):
            for field in fields(IndependentMeans):
                values = getattr(scores.independent[form], field.name)
                yield f"{field.name}.{form}", values, (n[field.name[-1]],)
    yield "l1_b", scores.l1_b, (n["b"],)
    yield "norm_a", scores.norm_a, (n["a"],)
    yield "norm_b", scores.norm_b, (n["b"],)
    for kind, facts in scores.fishers.items():
        figures = torch.stack([getattr(facts, name) for name in FISHER_FACTS])
        yield f"fisher.{kind}", figures, (len(FISHER_FACTS),)


def _checked(
    tensor: Tensor, lead: tuple[int, ...], heads: Sequence[int], where: str
) -> NDArray[np.float32]:
    """The values [*lead, heads], if they have that shape and none is infinite."""
    values = tensor.detach().cpu().float().numpy()
    if values.shape != (*lead, len(heads)):
        raise MeasurementError(
            where,
            law=f"must have the shape {[*lead, len(heads)]}",
            found=f"{list(values.shape)}",
            remedy="Score the samples and heads that the measurement was created for.",
        )
    infinite = np.isinf(values).reshape(-1, len(heads)).any(0)
    if infinite.any():
        named = (str(head) for head, wrong in zip(heads, infinite, strict=True) if wrong)
        raise MeasurementError(
            where,
            law="must be finite",
            found=f"an infinite score in head {', '.join(named)}",
            remedy="Look at that slice's Fisher in `circuit_slices`; a larger `damping_share` or `epsilon` divides by more.",
        )
    return values


def _shapes(axes: Axes, settings: CircuitSettings) -> dict[str, Shape]:
    return {
        pair_name(block, form): axes.shape(block, form)
        for block in settings.blocks
        for form in settings.forms
    }


def _bytes(shape: Shape) -> int:
    return 4 * math.prod(shape)


def _unmeasured(shape: Shape) -> PairArray:
    return np.full(shape, np.nan, dtype=np.float32, order="F")


def _write_unmeasured(path: Path, shape: Shape) -> None:
    """Fill a file by ordinary writing: a disk that is full says so now, and not by a broken mapping later."""
    header = {"descr": "<f4", "fortran_order": True, "shape": shape}
    values = np.full(_CHUNK, np.nan, dtype="<f4").tobytes()
    left = _bytes(shape)
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        while left:
            left -= stream.write(values[:left])


def _mapped(store: Store, shapes: Mapping[str, Shape], mode: Any) -> dict[str, PairArray]:
    """Arrays mapped from their files; nothing cannot be mapped."""
    arrays: dict[str, PairArray] = {}
    for name, shape in shapes.items():
        path, found = store.folder / f"{name}.npy", ""
        try:
            array = np.load(path, mmap_mode=mode, allow_pickle=False)
            if (array.shape, array.dtype) != (shape, np.dtype(np.float32)):
                found = f"{array.dtype} {array.shape}"
            arrays[name] = array if _bytes(shape) else _unmeasured(shape)
        except (OSError, ValueError) as error:
            found = f"{type(error).__name__}: {error}"
        if found:
            raise StorageError(
                str(path),
                law=f"must be a float32 array of shape {shape}",
                found=found,
                remedy="Delete the folder and measure again.",
            )
    return arrays


def _described(store: Store) -> tuple[Axes, CircuitSettings]:
    """What the scores of a folder are of, and how they were scored."""
    about = store.about()
    try:
        return Axes.from_plain(about["axes"]), from_mapping(CircuitSettings, about["settings"])
    except (CrosstuneError, TypeError) as error:
        raise StorageError(
            str(store.manifest),
            law="must hold a measurement of this version",
            found=str(error),
            remedy="Delete the folder and measure again.",
        ) from error


def _check_same(
    before: tuple[Axes, CircuitSettings], now: tuple[Axes, CircuitSettings], folder: Path
) -> None:
    """Raise unless the measurement before is a beginning of the one now."""
    then, wanted = (_decisive(*one) for one in (before, now))
    differing = [what for what in then if then[what] != wanted[what]]
    if not differing:
        rows = ((*axes.rows_a, *axes.rows_b) for axes, _ in (before, now))
        differing = [
            f"weights: row {old.row_id!r} lost {old.loss:.6g} nats, now {new.loss:.6g}"
            for old, new in zip(*rows, strict=True)
            if not (math.isnan(old.loss) and math.isnan(new.loss))
            and not math.isclose(old.loss, new.loss, rel_tol=_SAME_LOSS)
        ]
    if differing:
        raise StorageError(
            str(folder),
            law="must be empty or hold a beginning of this very measurement",
            found=f"scores of other {differing[0]}",
            remedy="Choose another folder, or delete it to measure anew.",
        )


def _decisive(axes: Axes, settings: CircuitSettings) -> dict[str, object]:
    """What must not differ, but for the losses of the rows."""
    rows_a, rows_b = (
        [(row.row_id, row.group, row.tokens, row.text) for row in rows]
        for rows in (axes.rows_a, axes.rows_b)
    )
    return {
        "settings": {name: v for name, v in asdict(settings).items() if name not in _FREE},
        "heads": (axes.layers, axes.counts, axes.chosen),
        "rows of task A": rows_a,
        "rows of task B": rows_b,
    }
