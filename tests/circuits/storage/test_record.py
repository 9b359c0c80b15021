"""A record: layers that are done are whole, and a layer that was torn is not done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.circuits.known_scores import World

from crosstune.circuits.settings import Form
from crosstune.circuits.storage.manifest import Manifest
from crosstune.circuits.storage.record import Record
from crosstune.foundation.errors import MeasurementError

SIGNED = Form("signed", "pooled")


def test_a_layer_is_done_only_when_the_manifest_could_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = World().begin(folder=tmp_path)

    def full(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(Manifest, "write", full)
        with pytest.raises(OSError, match="disk full"):
            scores.put(0, World().layer(0))
    again = World().begin(folder=tmp_path)
    assert again.done == () and np.isnan(again.summary.column("mean")).all()
    again.put(0, World().layer(0))
    assert Manifest.read(tmp_path).done.keys() == {0}


def test_figures_are_by_layer_and_head_and_nan_where_there_are_none() -> None:
    scores = World().begin()
    scores.put(2, World().layer(2))
    record = scores.record
    assert record.columns("k", SIGNED).shape == (2, 6, 3, 2)
    assert record.rows("o", SIGNED).shape == (2, 8, 3, 4)
    assert record.norms("q", "a").shape == (8, 3, 4) and record.l1_b("v").shape == (6, 3, 2)
    assert record.fishers("q")["task_a"].shape == (5, 3, 4)
    assert np.isnan(record.l1_b("v")[:, :2]).all() and np.isfinite(record.l1_b("v")[:, 2]).all()
    scores.put(0, World().layer(0))
    assert np.isfinite(record.l1_b("v")[:, 0]).all(), "a new layer is seen"


def test_what_was_not_measured_is_named() -> None:
    record: Record = World().with_settings(blocks=("q",)).scores().record
    for call in (lambda: record.pairs("k", SIGNED), lambda: record.columns("k", SIGNED)):
        with pytest.raises(MeasurementError, match="`block` must be of what was measured: q"):
            call()
    with pytest.raises(MeasurementError, match="directional/task_a, signed/pooled"):
        record.pairs("q", Form("signed", "task_a"))
