"""Store: factors on disk, one safetensors shard a batch beside a manifest, whole or absent, found again by what they are of.

A capture of the same model, rows and settings finds its shards and goes on with those that are missing; another one lies beside it
in a folder of its own, so one place serves many captures.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crosstune.circuits.capture.factors import Shard, Tensors
from crosstune.foundation import ranks
from crosstune.foundation.errors import StorageError
from crosstune.foundation.storage import atomic_write, fingerprint, read_json, write_json

_MANIFEST = "manifest.json"
_NATS = "nats"


@dataclass(eq=False)
class FactorStore:
    """The shards of one capture on disk; a `Keeper`.

    Attributes:
        folder: Where they lie.
        count: How many there are when all is done.
        expected: The bytes of all of them.
        temporary: Whether the folder goes when the factors are closed.
    """

    folder: Path
    count: int
    expected: int
    temporary: bool
    _remover: Any = field(default=None, repr=False)

    @classmethod
    def open(
        cls, parent: Path | None, identity: Mapping[str, object], *, count: int, expected: int
    ) -> FactorStore:
        """The store of a capture, gone on with where it was begun before; for one process to call.

        Args:
            parent: The folder that holds stores; None for one that is removed in the end.

        Returns:
            The store; other processes may use a copy of it.
        """
        place = Path(tempfile.gettempdir()) if parent is None else parent
        name = fingerprint(identity)
        _check_room(place / name, expected)
        if parent is None:
            place = Path(tempfile.mkdtemp(prefix="crosstune-factors-"))
        store = cls(place / name, count, expected, temporary=parent is None)
        manifest = store.folder / _MANIFEST
        if manifest.exists() and store._read_manifest().get("identity") != dict(identity):
            raise StorageError(
                str(store.folder),
                law="must hold the factors that its manifest names",
                found="a manifest of another capture",
                remedy="Delete this folder, or name another one.",
            )
        if not manifest.exists():
            with store._writing():
                write_json(manifest, {"identity": dict(identity), "shards": count})
        return store

    def remove_in_the_end(self) -> None:
        """See to it that a temporary folder goes, also when nobody closes the store."""
        if self.temporary:
            self._remover = weakref.finalize(
                self, shutil.rmtree, self.folder.parent, ignore_errors=True
            )

    def _read_manifest(self) -> dict[str, Any]:
        found = read_json(self.folder / _MANIFEST)
        return found if isinstance(found, dict) else {}

    @property
    def kernel(self) -> tuple[str, float] | None:
        """The attention kernel that this capture settled on and the difference it saw, once it has."""
        found = self._read_manifest().get("kernel")
        return None if found is None else (found["name"], float(found["difference"]))

    def settle(self, kernel: str, difference: float) -> None:
        """Write down the kernel, so that a capture that goes on uses the same."""
        told = {"name": kernel, "difference": repr(difference)}  # NaN is no JSON
        with self._writing():
            write_json(self.folder / _MANIFEST, {**self._read_manifest(), "kernel": told})

    def holds(self, index: int) -> bool:
        """Whether a shard is there; what is there is whole."""
        return self._path(index).is_file()

    @property
    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        return [index for index in range(self.count) if not self.holds(index)]

    def share(self, device: torch.device) -> None:
        """Every process reads the same folder."""
        ranks.wait_for_all()
        if self.missing:
            raise StorageError(
                str(self.folder),
                law="must be one folder that every process sees",
                found=f"{len(self.missing)} of {self.count} shards are not to be seen by process {ranks.rank()}",
                remedy="Name a `folder` on a disk that all machines share.",
            )

    def write(self, index: int, shard: Shard) -> None:
        """Keep one shard."""
        parts = {_NATS: {_NATS: shard.nats}} | {
            str(layer): tensors for layer, tensors in shard.layers.items()
        }
        tensors = {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, held in parts.items()
            for name, value in held.items()
        }
        marks = {
            part: _mark({name: tensors[f"{part}.{name}"] for name in held})
            for part, held in parts.items()
        }
        with self._writing(), atomic_write(self._path(index)) as scratch:
            save_file(tensors, scratch, metadata={"marks": json.dumps(marks)})

    def tensors(self, layer: int) -> Iterator[Tensors]:
        """The factors of one layer, read batch by batch."""
        return (self._read(index, str(layer)) for index in range(self.count))

    def nats(self, index: int) -> Tensor:
        """The summed losses of a batch's rows."""
        return self._read(index, _NATS)[_NATS]

    def _read(self, index: int, part: str) -> dict[str, Tensor]:
        path = self._path(index)
        try:
            with safe_open(path, framework="pt") as file:
                mark = json.loads(file.metadata()["marks"])[part]
                names = [name for name in file.keys() if name.split(".")[0] == part]  # noqa: SIM118
                found = {name.partition(".")[2]: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error
        if _mark(found) != mark:
            raise _damaged(path, "other bits than were written")
        return found

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    @property
    def bytes(self) -> int:
        """The bytes of the shards."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def close(self) -> None:
        """Remove a temporary folder, once every process is done with it."""
        if self.temporary:
            ranks.wait_for_all()
            if self._remover is not None:
                self._remover()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A disk that is full, or refuses, is told in the user's words."""
        try:
            yield
        except (SafetensorError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            fate = (
                "The folder was temporary: name a `folder` with more room."
                if self.temporary
                else "Free space and run again: the capture goes on from here."
            )
            raise StorageError(
                str(self.folder),
                law=f"must take factors of {_sized(self.expected)}",
                found=f"{error} (shards written: {self.count - len(self.missing)} of {self.count})",
                remedy=fate,
            ) from error


def _check_room(folder: Path, expected: int) -> None:
    """Raise unless the disk takes what the folder does not hold yet."""
    place = next(above for above in (folder, *folder.parents) if above.exists())
    kept = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    needed, free = expected - kept, shutil.disk_usage(place).free
    if needed > free:
        raise StorageError(
            str(folder),
            law=f"must have room for factors of {_sized(needed)}",
            found=f"{_sized(free)} free",
            remedy="Free space, name a `folder` on another disk, or ask for fewer rows, layers or blocks.",
        )


def _mark(tensors: Tensors) -> str:
    """A hash of names, shapes, dtypes and bits."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _damaged(path: Path, found: str) -> StorageError:
    return StorageError(
        str(path),
        law="must be the shard that was written",
        found=found,
        remedy="Delete this file and run again: it alone is captured anew.",
    )


def _sized(size: int) -> str:
    """A size in words: in MiB where two small ones would look alike in GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.4g} MiB"
