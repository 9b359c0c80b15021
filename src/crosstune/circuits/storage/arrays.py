"""Arrays of pair scores [nA, nB, layers, heads]: NaN until measured; in memory, or mapped from `.npy` files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosstune.foundation.errors import StorageError
from crosstune.foundation.storage import atomic_write

Array = NDArray[np.float32]
Shape = tuple[int, int, int, int]

_CHUNK = 1 << 22
_GIB = 2**30


class PairArrays:
    """float32 arrays by name, written layer by layer.

    In memory and on disk the sample of A runs fastest and the head slowest, so the matrix of all pairs of one head of one
    layer lies in one piece. A file is an ordinary `.npy` that `numpy.load(path, mmap_mode="r")` opens.
    """

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)

    @classmethod
    def create(
        cls, shapes: Mapping[str, Shape], folder: Path | None, *, go_on: bool = False
    ) -> PairArrays:
        """Arrays of NaN.

        Args:
            go_on: Whether files that are already there are ours and are opened as they are.
        """
        if folder is None:
            return cls({name: _unmeasured(shape) for name, shape in shapes.items()})
        total = sum(map(nbytes, shapes.values()))
        for name, shape in shapes.items():
            path = folder / f"{name}.npy"
            if not (go_on and path.exists()):
                _write_unmeasured(path, shape, total)
        return cls.open(shapes, folder, writable=True)

    @classmethod
    def open(
        cls, shapes: Mapping[str, Shape], folder: Path, *, writable: bool = False
    ) -> PairArrays:
        """Arrays mapped from their files."""
        return cls(
            {
                name: _mapped(folder / f"{name}.npy", shape, writable)
                for name, shape in shapes.items()
            }
        )

    def __getitem__(self, name: str) -> Array:
        view = self._arrays[name].view()
        view.flags.writeable = False
        return view

    def put(self, name: str, at: int, values: Array) -> None:
        """Write one layer."""
        self._arrays[name][:, :, at] = values

    def flush(self) -> None:
        """What was put is on the disk, where there is one."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()

    def checksums(self, at: int) -> dict[str, int]:
        """A number for each array that changes with any bit of one layer."""
        return {name: _checksum(array[:, :, at]) for name, array in self._arrays.items()}


def nbytes(shape: Shape) -> int:
    """Bytes of an array of that shape."""
    return 4 * int(np.prod(shape, dtype=np.int64))


def _unmeasured(shape: Shape) -> Array:
    return np.full(shape, np.nan, dtype=np.float32, order="F")


def _mapped(path: Path, shape: Shape, writable: bool) -> Array:
    if not nbytes(shape):
        return _unmeasured(shape)  # nothing cannot be mapped
    found: Any
    try:
        found = np.load(path, mmap_mode="r+" if writable else "r", allow_pickle=False)
        if (found.shape, found.dtype) == (shape, np.dtype(np.float32)):
            return np.asanyarray(found)
        found = f"{found.dtype} {found.shape}"
    except (OSError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"
    raise StorageError(
        str(path),
        law=f"must be a float32 array of shape {shape}",
        found=found,
        remedy="Delete the folder and measure again.",
    )


def _write_unmeasured(path: Path, shape: Shape, total: int) -> None:
    """Fill a file by ordinary writing: a disk that is full says so now, and not by a broken mapping later."""
    header = {"descr": "<f4", "fortran_order": True, "shape": shape}
    values = np.full(_CHUNK // 4, np.nan, dtype="<f4").tobytes()
    left = nbytes(shape)
    try:
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            while left:
                left -= stream.write(values[:left])
    except OSError as error:
        raise StorageError(
            str(path.parent),
            law=f"must have room for {total / _GIB:.3g} GiB of scores",
            found=f"{type(error).__name__}: {error}",
            remedy="Free some space, choose another folder, or score fewer rows, layers or variants.",
        ) from error


def _checksum(layer: Array) -> int:
    value = 0
    for head in range(layer.shape[2]):
        value = zlib.crc32(np.ascontiguousarray(layer[:, :, head].T).data, value)
    return value
