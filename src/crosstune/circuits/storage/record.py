"""The record of a measurement: what was scored of which layer, in memory or in a folder that can be gone on with."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosstune.circuits.checks import check_block, check_form
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.circuits.storage.arrays import Array, PairArrays, Shape, nbytes
from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.layer import FISHER_FACTS, Layer, pair_name
from crosstune.circuits.storage.manifest import FILE, Manifest
from crosstune.foundation.errors import MeasurementError, StorageError
from crosstune.foundation.storage import atomic_write, fingerprint_file

_GIB = 2**30


class Record:
    """Scores by block and form, each place of an array known by the axes; what was not measured is NaN.

    In a folder a layer counts as done once its data are on the disk and the manifest says so.
    """

    def __init__(
        self, axes: Axes, settings: CircuitSettings, arrays: PairArrays, folder: Path | None
    ) -> None:
        self.axes, self.settings, self.folder = axes, settings, folder
        self._arrays = arrays
        self._sides: dict[int, dict[str, NDArray[np.float32]]] = {}
        self._sums: dict[int, dict[str, Any]] = {}
        self._stacked: dict[str, NDArray[np.float64]] = {}

    @classmethod
    def create(cls, axes: Axes, settings: CircuitSettings, folder: Path | None) -> Record:
        """A record without layers, or with those that the folder holds already.

        Args:
            settings: How they are scored; above its budget a record without a folder lives in a temporary one.
        """
        shapes = _shapes(axes, settings)
        if folder is not None:
            return cls._in_folder(axes, settings, shapes, folder)
        if sum(map(nbytes, shapes.values())) <= settings.budget_gib * _GIB:
            return cls(axes, settings, PairArrays.create(shapes, None), None)
        temporary = Path(tempfile.mkdtemp(prefix="crosstune-circuits-"))
        try:
            record = cls._in_folder(axes, settings, shapes, temporary)
        except StorageError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        weakref.finalize(record, shutil.rmtree, temporary, ignore_errors=True)
        return record

    @classmethod
    def _in_folder(
        cls, axes: Axes, settings: CircuitSettings, shapes: Mapping[str, Shape], folder: Path
    ) -> Record:
        known = (folder / FILE).exists()
        done: dict[int, dict[str, Any]] = {}
        if known:
            manifest = Manifest.read(folder)
            manifest.check_same(axes, settings, folder)
            axes, done = manifest.axes, manifest.done
        else:
            Manifest(axes, settings, {}).write(folder)
        arrays = PairArrays.create(shapes, folder, go_on=known)
        record = cls(axes, settings, arrays, folder)
        record._take(done)
        return record

    @classmethod
    def open(cls, folder: Path) -> Record:
        """A whole record, every bit as it was written."""
        manifest = Manifest.read(folder)
        missing = [layer for layer in manifest.axes.layers if layer not in manifest.done]
        if missing and not manifest.axes.empty:
            raise StorageError(
                str(folder),
                law="must hold every layer",
                found=f"none of layer {', '.join(map(str, missing))}",
                remedy="Measure with the same settings and this folder; what is done is kept.",
            )
        shapes = _shapes(manifest.axes, manifest.settings)
        record = cls(manifest.axes, manifest.settings, PairArrays.open(shapes, folder), folder)
        record._take(manifest.done)
        return record

    @property
    def done(self) -> tuple[int, ...]:
        """The layers that are whole."""
        return tuple(sorted(self._sides))

    def put(self, layer: int, scored: Layer) -> None:
        """Keep one layer."""
        at = self.axes.layer_place(layer)
        if layer in self._sides:
            raise MeasurementError(
                "layer",
                law="must be put once",
                found=f"layer {layer} again",
                remedy="Score only layers that are not in `done`.",
            )
        for name, values in scored.pairs.items():
            self._arrays.put(name, at, values)
        if self.folder is not None:
            self._arrays.flush()
            path = self._side_file(layer)
            sides: Mapping[str, Any] = scored.sides
            with atomic_write(path) as temporary:
                np.savez(temporary, **sides)
            self._sums[layer] = {
                "pairs": self._arrays.checksums(at),
                "sides": fingerprint_file(path),
            }
            Manifest(self.axes, self.settings, self._sums).write(self.folder)
        self._sides[layer] = scored.sides
        self._stacked.clear()

    def pairs(self, block: str, form: Form) -> Array:
        """The pair scores, [nA, nB, layers, heads], read only; one row for scores of j alone."""
        check_block(block, self.settings.blocks)
        check_form(form, self.settings.forms)
        return self._arrays[pair_name(block, form)]

    def columns(self, block: str, form: Form) -> NDArray[np.float64]:
        """Means over A's samples at even and at odd places, [2, nB, layers, heads]."""
        check_block(block, self.settings.blocks)
        check_form(form, self.settings.average_forms)
        return self._side(block, f"columns.{form}", (2, len(self.axes.rows_b)))

    def rows(self, block: str, form: Form) -> NDArray[np.float64]:
        """Means over B's samples at even and at odd places, [2, nA, layers, heads]; NaN for scores of j alone."""
        check_block(block, self.settings.blocks)
        check_form(form, self.settings.average_forms)
        return self._side(block, f"rows.{form}", (2, len(self.axes.rows_a)))

    def apart(self, block: str, form: Form, name: str) -> NDArray[np.float64]:
        """Each sample's mean score with those drawn apart from it, [n, layers, heads]; `name` is a field of `tiles.own.Apart`."""
        check_block(block, self.settings.blocks)
        check_form(form, self.settings.average_forms)
        rows = self.axes.rows_a if name.endswith("_a") else self.axes.rows_b
        return self._side(block, f"{name}.{form}", (len(rows),))

    def l1_b(self, block: str) -> NDArray[np.float64]:
        """‖g_j‖₁ of B's samples, [nB, layers, heads]."""
        return self._side(block, "l1_b", (len(self.axes.rows_b),))

    def norms(self, block: str, side: str) -> NDArray[np.float64]:
        """‖g‖₂ of a task's samples, [n, layers, heads]; `side` is a or b."""
        rows = self.axes.rows_a if side == "a" else self.axes.rows_b
        return self._side(block, f"norm_{side}", (len(rows),))

    def fishers(self, block: str) -> dict[str, NDArray[np.float64]]:
        """Figures of each Fisher's slices, [min · median · max · below_epsilon · damping, layers, heads]."""
        start = f"{block}.fisher."
        kinds = sorted(
            {
                name.removeprefix(start)
                for sides in self._sides.values()
                for name in sides
                if name.startswith(start)
            }
        )
        return {kind: self._side(block, f"fisher.{kind}", (len(FISHER_FACTS),)) for kind in kinds}

    def _side(self, block: str, what: str, lead: tuple[int, ...]) -> NDArray[np.float64]:
        """Figures of all layers under one name, layers and heads last; NaN for what is not there."""
        name = f"{block}.{what}"
        if name not in self._stacked:
            shape = (*lead, len(self.axes.layers), len(self.axes.heads(block)))
            found = np.full(shape, np.nan)
            for layer, sides in self._sides.items():
                if name in sides:
                    found[..., self.axes.layer_place(layer), :] = sides[name]
            self._stacked[name] = found
        return self._stacked[name]

    def _take(self, done: Mapping[int, dict[str, Any]]) -> None:
        """Read the layers that the manifest calls done, and check every bit of them."""
        for layer, sums in done.items():
            path = self._side_file(layer)
            found = self._arrays.checksums(self.axes.layer_place(layer))
            whole = path.exists() and fingerprint_file(path) == sums["sides"]
            if not whole or found != sums["pairs"]:
                raise StorageError(
                    str(self.folder),
                    law="must be as it was written",
                    found=f"damaged scores of layer {layer}",
                    remedy="Delete the folder and measure again.",
                )
            with np.load(path, allow_pickle=False) as sides:
                self._sides[layer] = {name: sides[name] for name in sides.files}
            self._sums[layer] = sums

    def _side_file(self, layer: int) -> Path:
        assert self.folder is not None
        return self.folder / f"layer-{layer:04d}.npz"


def _shapes(axes: Axes, settings: CircuitSettings) -> dict[str, Shape]:
    return {
        pair_name(block, form): axes.shape(block, form)
        for block in settings.blocks
        for form in settings.forms
    }
