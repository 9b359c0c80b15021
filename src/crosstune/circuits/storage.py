"""Storage: numbered files of tensors in one folder, each whole or absent, and checked by its fingerprint whenever it is read.

Captured factors are stored so, one file a batch, and scores, one file a layer. A manifest beside them says what they are of.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from crosstune.foundation import ranks
from crosstune.foundation.errors import StorageError
from crosstune.foundation.models.loading import tensors_fingerprint
from crosstune.foundation.storage import atomic_write, fingerprint, read_json, write_json

Tensors = Mapping[str, Tensor]


@dataclass(eq=False)
class Store:
    """The files of one measurement.

    Attributes:
        what: What they hold: `factors` or `scores`, which is also the manifest's name.
        unit: What one file is of: a batch or a layer.
        count: How many there are when all is done.
        expected: The bytes of everything then.
        temporary: Whether the folder goes when the store is closed.
    """

    folder: Path
    what: str
    unit: str
    count: int
    expected: int
    temporary: bool = False
    _remover: Any = field(default=None, repr=False)

    @classmethod
    def create(
        cls, folder: Path | None, what: str, unit: str, *, count: int, expected: int
    ) -> Self:
        """A store in this folder, begun before or not; in a temporary one for None. For one process to call: others may use a copy."""
        _check_space(folder, what, expected)
        place = Path(tempfile.mkdtemp(prefix="crosstune-circuits-")) if folder is None else folder
        return cls(place, what, unit, count, expected, temporary=folder is None)

    def remove_in_the_end(self) -> None:
        """See to it that a temporary folder goes, also when nobody closes the store."""
        if self.temporary:
            self._remover = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove a temporary folder, once every process is done with it."""
        if self.temporary:
            ranks.wait_for_all()
            if self._remover is not None:
                self._remover()

    @property
    def manifest(self) -> Path:
        """The file that says what the others are of."""
        return self.folder / f"{self.what}.json"

    @property
    def _format(self) -> str:
        return f"crosstune circuit {self.what} 3"

    def describe(self, about: Mapping[str, object]) -> None:
        """Write down what the files are of, before there are any."""
        plain = {"format": self._format, "about": about, "fingerprint": fingerprint(about)}
        with self.writing():
            write_json(self.manifest, plain)

    def about(self) -> dict[str, Any]:
        """What the files are of, as it was written."""
        plain = read_json(self.manifest)
        known = plain.get("format") if isinstance(plain, dict) else None
        if known != self._format:
            raise self._refused(f"must be of the format {self._format!r}", repr(known))
        about: dict[str, Any] = plain.get("about")
        if fingerprint(about) != plain.get("fingerprint"):
            raise self._refused("must be the manifest that was written", "another fingerprint")
        return about

    def _refused(self, law: str, found: str) -> StorageError:
        remedy = "Delete the folder and measure again, or name another one."
        return StorageError(str(self.manifest), law=law, found=found, remedy=remedy)

    def note(self, **notes: object) -> None:
        """Add something that was found out on the way to the manifest."""
        with self.writing():
            write_json(self.manifest, {**read_json(self.manifest), **notes})

    def noted(self, name: str) -> Any:
        """What was noted under a name; None before."""
        return read_json(self.manifest).get(name)

    def path(self, index: int) -> Path:
        """The file of one batch or layer."""
        return self.folder / f"{self.unit}-{index:05d}.safetensors"

    def holds(self, index: int) -> bool:
        """Whether a file is there; what is there is whole."""
        return self.path(index).is_file()

    @property
    def bytes(self) -> int:
        """The bytes of the files."""
        return sum(path.stat().st_size for path in self.folder.glob("*.safetensors"))

    def write_parts(
        self,
        index: int,
        parts: Mapping[str, Tensors],
        elsewhere: Tensors = MappingProxyType({}),
    ) -> None:
        """Write one file of named parts, each of which may be read alone.

        What lies `elsewhere` is not written, but a later change of it is seen when a part is read.
        """
        stored = {
            f"{part}.{name}": value.detach().cpu().contiguous()
            for part, tensors in parts.items()
            for name, value in tensors.items()
        }
        marks = {
            part: _mark({name: stored[f"{part}.{name}"] for name in tensors} | dict(elsewhere))
            for part, tensors in parts.items()
        }
        with self.writing(), atomic_write(self.path(index)) as scratch:
            save_file(stored, scratch, metadata={"marks": json.dumps(marks)})

    def read_part(
        self, index: int, part: str, elsewhere: Tensors = MappingProxyType({})
    ) -> dict[str, Tensor]:
        """One part of a file, every bit as it was written."""
        path = self.path(index)
        try:
            with safe_open(path, framework="pt") as file:
                mark = json.loads(file.metadata()["marks"])[part]
                names = [name for name in file.keys() if name.split(".")[0] == part]  # noqa: SIM118
                found = {name.partition(".")[2]: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(path, f"{type(error).__name__}: {error}") from error
        if _mark(found | dict(elsewhere)) != mark:
            raise self._damaged(path, "other bits than were written")
        return found

    def _damaged(self, path: Path, found: str) -> StorageError:
        return StorageError(
            str(path),
            law=f"must hold the {self.what} that were written",
            found=found,
            remedy=f"Delete this file and run again: this {self.unit} alone is measured anew.",
        )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A disk that is full, or refuses, is reported in the user's words."""
        try:
            yield
        except (SafetensorError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            remedy = (
                "The folder was temporary: name a `folder` with more room."
                if self.temporary
                else "Free space and run again: the measurement goes on from here."
            )
            written = len(list(self.folder.glob(f"{self.unit}-*.safetensors")))
            raise StorageError(
                str(self.folder),
                law=f"must take {self.what} of {_sized(self.expected)}",
                found=f"{error} (files written: {written} of {self.count})",
                remedy=remedy,
            ) from error


def free_bytes(folder: Path | None) -> int:
    """What is free on the disk where a folder is, or will be; for None where temporary ones are."""
    place = Path(tempfile.gettempdir()) if folder is None else folder.absolute()
    return shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free


def _check_space(folder: Path | None, what: str, expected: int) -> None:
    """Raise unless the disk takes what the folder does not hold yet."""
    stored = 0 if folder is None else sum(path.stat().st_size for path in folder.glob("*.*"))
    free = free_bytes(folder)
    if expected - stored > free:
        raise StorageError(
            str(folder or tempfile.gettempdir()),
            law=f"must have room for {what} of {_sized(expected - stored)}",
            found=f"{_sized(free)} free",
            remedy="Free space, name a `folder` on another disk, or ask for fewer rows, layers, blocks or variants.",
        )


def _mark(tensors: Tensors) -> str:
    return tensors_fingerprint(sorted(tensors.items()))


def _sized(size: int) -> str:
    """A size in words: in MiB where two small ones would look alike in GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.4g} MiB"
