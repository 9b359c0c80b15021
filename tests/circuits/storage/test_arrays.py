"""Arrays of pairs: NaN until put, in one piece by head, and refused before a disk is full."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from crosstune.circuits.storage import arrays as pair_arrays
from crosstune.circuits.storage.arrays import PairArrays, nbytes
from crosstune.foundation.errors import StorageError

SHAPES = {"one": (4, 3, 2, 5), "other": (1, 3, 2, 2)}


def test_files_and_memory_hold_the_same(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(4, 3, 5)
    made = [PairArrays.create(SHAPES, folder) for folder in (None, tmp_path)]
    for arrays in made:
        assert np.isnan(arrays["one"]).all() and np.isnan(arrays["other"]).all()
        arrays.put("one", 1, values)
        arrays.flush()
        assert np.isnan(arrays["one"][:, :, 0]).all()
        np.testing.assert_array_equal(arrays["one"][:, :, 1], values)
    assert (
        made[0].checksums(1)
        == made[1].checksums(1)
        == PairArrays.open(SHAPES, tmp_path).checksums(1)
    )
    assert made[0].checksums(0)["one"] != made[0].checksums(1)["one"]


def test_the_matrix_of_one_head_lies_in_one_piece(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        matrix = PairArrays.create(SHAPES, folder)["one"][:, :, 1, 3]
        assert matrix.T.flags.c_contiguous


def test_files_larger_than_a_chunk_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_arrays, "_CHUNK", 64)
    found = PairArrays.create({"one": (5, 5, 3, 2)}, tmp_path)["one"]
    assert np.isnan(found).all() and found.shape == (5, 5, 3, 2)


def test_going_on_keeps_what_is_there_and_beginning_does_not(tmp_path: Path) -> None:
    first = PairArrays.create(SHAPES, tmp_path)
    first.put("one", 0, np.ones((4, 3, 5), dtype=np.float32))
    first.flush()
    assert (PairArrays.create(SHAPES, tmp_path, go_on=True)["one"][:, :, 0] == 1).all()
    assert np.isnan(PairArrays.create(SHAPES, tmp_path)["one"]).all()


def test_a_full_disk_is_said_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(StorageError, match="must have room for .* GiB of scores.*No space left"):
        PairArrays.create(SHAPES, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_shape_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    PairArrays.create(SHAPES, tmp_path)
    with pytest.raises(StorageError, match=r"\(4, 3, 2, 5\)"):
        PairArrays.open({"one": (4, 3, 2, 6)}, tmp_path)
    with pytest.raises(StorageError, match="FileNotFoundError"):
        PairArrays.open({"third": (1, 1, 1, 1)}, tmp_path)


def test_nothing_takes_no_file_to_map(tmp_path: Path) -> None:
    shape = (0, 3, 2, 5)
    assert nbytes(shape) == 0
    assert PairArrays.create({"one": shape}, tmp_path)["one"].shape == shape
    assert PairArrays.open({"one": shape}, tmp_path)["one"].shape == shape
