"""A record: only what fits is stored, layers that are done are whole, and a layer that was torn is not done."""

from __future__ import annotations

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.circuits.known_scores import SETTINGS, World, rows

from crosstune.circuits import record as recording
from crosstune.circuits.record import Record
from crosstune.circuits.settings import Form
from crosstune.circuits.storage import Store
from crosstune.foundation.errors import MeasurementError, StorageError
from crosstune.foundation.storage import fingerprint

SIGNED = Form("signed", "pooled")


def test_a_layer_is_done_only_when_its_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = World().begin(folder=tmp_path)

    def full(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(Store, "write_parts", full)
        with pytest.raises(OSError, match="disk full"):
            scores.put(0, World().layer(0))
    again = World().begin(folder=tmp_path)
    assert again.done == () and np.isnan(again.summary.column("mean")).all()
    again.put(0, World().layer(0))
    assert World().begin(folder=tmp_path).done == (0,)


def test_figures_are_by_layer_and_head_and_nan_where_there_are_none() -> None:
    record = World().begin()
    record.put(2, World().layer(2))
    assert record.columns("k", SIGNED).shape == (2, 6, 3, 2)
    assert record.rows("o", SIGNED).shape == (2, 8, 3, 4)
    assert record.norms("q", "a").shape == (8, 3, 4) and record.l1_b("v").shape == (6, 3, 2)
    assert record.fishers("q")["task_a"].shape == (5, 3, 4)
    assert np.isnan(record.l1_b("v")[:, :2]).all() and np.isfinite(record.l1_b("v")[:, 2]).all()
    record.put(0, World().layer(0))
    assert np.isfinite(record.l1_b("v")[:, 0]).all(), "a new layer is seen"


def test_a_shape_that_does_not_fit_is_named_with_everything() -> None:
    blocks = World().layer(1)
    wrong = {**blocks["o"].pairs, SIGNED: torch.zeros(8, 5, 4)}
    blocks["o"] = replace(blocks["o"], pairs=wrong)
    with pytest.raises(MeasurementError) as found:
        World().begin().put(1, blocks)
    for part in ("signed/pooled", "layer 1", "block o", "[8, 6, 4]", "[8, 5, 4]"):
        assert part in str(found.value)


@pytest.mark.parametrize("name", ["l1_b", "norm_a", "norm_b"])
def test_every_array_is_checked(name: str) -> None:
    blocks = World().layer(1)
    blocks["k"] = replace(blocks["k"], **{name: torch.zeros(3, 2)})
    with pytest.raises(MeasurementError, match=name):
        World().begin().put(1, blocks)


def test_an_infinite_score_is_no_score() -> None:
    world = World().with_settings(heads=(3, 2))
    blocks = world.layer(1)
    blocks["q"].pairs[SIGNED][2, 3, 1] = torch.inf
    record = world.begin()
    with pytest.raises(MeasurementError, match="an infinite score in head 3"):
        record.put(1, blocks)
    assert record.done == () and np.isnan(record.pairs("q", SIGNED)).all()


def test_the_matrix_of_one_head_lies_in_one_piece(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        matrix = World().begin(folder=folder).pairs("q", SIGNED)[:, :, 1, 3]
        assert matrix.T.flags.c_contiguous


def test_files_larger_than_a_chunk_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_CHUNK", 16)
    found = World().begin(folder=tmp_path).pairs("q", SIGNED)
    assert np.isnan(found).all() and found.shape == (8, 6, 3, 4)


def test_a_full_disk_is_said_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(StorageError, match="must take scores of .* MiB.*No space left"):
        World().begin(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_an_array_of_another_shape_or_none_is_refused(tmp_path: Path) -> None:
    World().scores(folder=tmp_path)
    path = tmp_path / "k-signed-pooled.npy"
    np.save(path, np.zeros((8, 6, 3, 4), dtype=np.float32))
    with pytest.raises(StorageError, match=r"\(8, 6, 3, 2\).*found float32 \(8, 6, 3, 4\)"):
        Record.open(tmp_path)
    path.unlink()
    with pytest.raises(StorageError, match="FileNotFoundError"):
        Record.open(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(SETTINGS, damping_share=0, layers=(2, 0), epsilon=1e-12, heads=(1,))],
)
def test_axes_and_settings_come_back_equal(tmp_path: Path, settings: object) -> None:
    world = replace(World(), settings=settings)
    written = world.scores(folder=tmp_path)
    found = Record.open(tmp_path)
    assert (found.axes, found.settings) == (written.axes, settings)


def with_losses(change: float) -> World:
    lost = tuple(replace(row, loss=row.loss * change) for row in rows("a", 8))
    return replace(World(), rows_a=lost)


def test_the_last_digits_of_a_loss_are_no_other_model(tmp_path: Path) -> None:
    World().scores(folder=tmp_path)
    assert with_losses(1 + 1e-5).begin(folder=tmp_path).done == (0, 1, 2)
    with pytest.raises(StorageError, match="weights"):
        with_losses(1 + 1e-2).begin(folder=tmp_path)


def test_an_unknown_loss_equals_itself(tmp_path: Path) -> None:
    unknown = with_losses(math.nan)
    unknown.begin(folder=tmp_path)
    unknown.begin(folder=tmp_path)
    with pytest.raises(StorageError, match="weights"):
        World().begin(folder=tmp_path)


@pytest.mark.parametrize("of", ["settings", "rows"])
def test_a_measurement_of_another_version_is_refused(tmp_path: Path, of: str) -> None:
    World().begin(folder=tmp_path)
    plain = json.loads((tmp_path / "scores.json").read_text())
    about = plain["about"]
    (about["settings"] if of == "settings" else about["axes"]["rows_a"][0])["unheard_of"] = 1
    plain["fingerprint"] = fingerprint(plain["about"])
    (tmp_path / "scores.json").write_text(json.dumps(plain))
    with pytest.raises(StorageError, match="of this version.*unheard_of"):
        Record.open(tmp_path)
