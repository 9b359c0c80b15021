"""The manifest of a folder of scores: what they are about, and which layers are done. A layer not named here does not exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.settings import CircuitSettings
from crosstune.circuits.storage.axes import Axes
from crosstune.foundation.errors import CrosstuneError, StorageError
from crosstune.foundation.settings import from_mapping
from crosstune.foundation.storage import canonical, fingerprint, read_json, write_json

FILE = "scores.json"
_FORMAT = "crosstune circuit scores 2"
# What changes speed and memory, but no score.
_FREE = ("budget_gib", "batch_tokens", "computation_device")
# The same model and rows give the same loss; other batches or kernels may change its last digits.
_SAME_LOSS = 1e-3


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes:
        axes: The samples, layers and heads.
        settings: How they were scored.
        done: Layers that are whole, with the checksums of their arrays and of their other figures.
    """

    axes: Axes
    settings: CircuitSettings
    done: dict[int, dict[str, Any]]

    def write(self, folder: Path) -> None:
        """The folder's manifest says this, or what it said before."""
        about = {"settings": canonical(self.settings), "axes": canonical(self.axes)}
        write_json(
            folder / FILE,
            {
                "format": _FORMAT,
                "fingerprint": fingerprint(about),
                **about,
                "done": {str(layer): self.done[layer] for layer in sorted(self.done)},
            },
        )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder."""
        plain = read_json(folder / FILE)
        known = plain.get("format") if isinstance(plain, dict) else None
        if known != _FORMAT:
            _refuse_file(folder, f"must be {_FORMAT!r}", repr(known))
        about = {name: plain.get(name) for name in ("settings", "axes")}
        if fingerprint(about) != plain.get("fingerprint"):
            _refuse_file(folder, "must be as it was written", "another fingerprint")
        try:
            settings = from_mapping(CircuitSettings, plain["settings"])
        except CrosstuneError as error:
            _refuse_file(folder, "must hold settings of this version", str(error))
        axes = Axes.from_plain(plain["axes"])
        return cls(axes, settings, {int(layer): sums for layer, sums in plain["done"].items()})

    def check_same(self, axes: Axes, settings: CircuitSettings, folder: Path) -> None:
        """Raise unless these scores can be gone on with."""
        compared: tuple[tuple[str, object, object], ...] = (
            ("settings", _deciding(self.settings), _deciding(settings)),
            ("layers", self.axes.layers, axes.layers),
            ("heads", (self.axes.counts, self.axes.chosen), (axes.counts, axes.chosen)),
            ("rows of task A", _said(self.axes.rows_a), _said(axes.rows_a)),
            ("rows of task B", _said(self.axes.rows_b), _said(axes.rows_b)),
        )
        for what, ours, theirs in compared:
            if ours != theirs:
                _refuse_other(folder, what)
        then, now = ((*one.rows_a, *one.rows_b) for one in (self.axes, axes))
        for before, after in zip(then, now, strict=True):
            if not _same_loss(before.loss, after.loss):
                losses = f"{before.loss:.6g} nats, now {after.loss:.6g}"
                _refuse_other(folder, f"weights: row {before.row_id!r} lost {losses}")


def _same_loss(before: float, after: float) -> bool:
    both_unknown = math.isnan(before) and math.isnan(after)
    return both_unknown or math.isclose(before, after, rel_tol=_SAME_LOSS)


def _deciding(settings: CircuitSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in _FREE}


def _said(rows: Sequence[FactorRow]) -> list[tuple[Any, ...]]:
    return [(row.row_id, row.group, row.tokens, row.text) for row in rows]


def _refuse_other(folder: Path, what: str) -> NoReturn:
    raise StorageError(
        str(folder),
        law="must be empty or hold a beginning of this very measurement",
        found=f"scores of other {what}",
        remedy="Choose another folder, or delete it to measure anew.",
    )


def _refuse_file(folder: Path, law: str, found: str) -> NoReturn:
    raise StorageError(
        str(folder / FILE), law=law, found=found, remedy="Delete the folder and measure again."
    )
