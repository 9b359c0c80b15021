"""Whole files or none: write beside, flush to disk, rename, flush the folder; and where files may go."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosstune.foundation.errors import StorageError

_LITTLE = 2**30  # bytes of free space below which a warning is given


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path) -> Path:
    # The suffix stays last, because some writers choose a format by it.
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path that becomes `path` only if the block ends without an error.

    Args:
        path: The file that is to appear or to be replaced; its folder is made.

    Yields:
        A path in the same folder, to be written and closed inside the block.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` only if the block ends without an error.

    Args:
        path: The folder that is to appear.
        replace: Put the new folder in an old one's place. Without it an existing folder, also one that
            another process finished first, is kept and the new one dropped.

    Yields:
        An empty folder beside it, to be filled inside the block.

    Raises:
        StorageError: The folder cannot be put in its place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            _flush(file)
        if replace and target.exists():
            _exchange(temporary, target)
        elif not target.exists():
            # Two processes may finish together: the second rename fails on a filled folder.
            with contextlib.suppress(FileExistsError, OSError):
                temporary.replace(target)
            if not target.exists():
                raise StorageError(
                    str(target),
                    law="must be a place where a folder can be made",
                    found="the rename into it failed",
                    remedy="Check the rights and the free space of its parent folder.",
                )
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange(fresh: Path, target: Path) -> None:
    """Put the fresh folder in the place of an old one, which stays there if that fails."""
    old = _beside(target)
    target.replace(old)
    try:
        fresh.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old)


def write_text(path: Path | str, text: str) -> None:
    """The file holds exactly this text, in UTF-8, or is untouched.

    Args:
        path: The file.
        text: What it is to hold.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: Any) -> None:
    """The file holds this value as readable JSON, or is untouched.

    Args:
        path: The file.
        value: Anything that the json module takes; NaN is written as null by `canonical`, not here.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value of a JSON file.

    Args:
        path: The file.

    Returns:
        The value.

    Raises:
        StorageError: The file is missing, not UTF-8 or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(
            str(path),
            law="must be a readable JSON file",
            found=f"{type(error).__name__}: {error}",
            remedy="Restore the file, or delete the folder that holds it and run again.",
        ) from error


def check_room(folder: Path | str, argument: str) -> None:
    """Refuse a folder that cannot be made or written, before there is anything to write; little free space is warned of.

    Args:
        folder: The folder; nothing is left in it, and it is not made.
        argument: What the user calls it, for the error.

    Raises:
        StorageError: No file can be written in it, or in the first folder above it that exists.
    """
    place = Path(folder)
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryDirectory(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        raise StorageError(
            argument,
            law="must be a folder that can be made and written",
            found=f"{folder}, and nothing can be written in {place} ({error.strerror})",
            remedy="Name another folder.",
        ) from error
    if free < _LITTLE:
        words = "warning: only %.2f GiB are free in %s"
        logging.getLogger("crosstune").warning(words, free / 2**30, place)


_ALLOWED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


def safe_name(text: str, argument: str) -> str:
    """The name itself, if it can be one part of a path on every system.

    Args:
        text: A name from the user.
        argument: What the user calls it, for the error.

    Returns:
        `text`, unchanged.

    Raises:
        StorageError: The name could leave its folder, hide, or fail on some system.
    """
    if not _ALLOWED.fullmatch(text) or text.endswith("."):
        raise StorageError(
            argument,
            law="must be 1 to 100 letters, digits, '.', '_', '+' or '-', beginning with a letter or digit",
            found=repr(text),
            remedy="Choose another name; the text itself may stay in titles and descriptions.",
        )
    return text


def cache_folder() -> Path:
    """The folder for what can be made again: `$CROSSTUNE_CACHE`, else the user's cache folder.

    Returns:
        The folder; it is not made here.
    """
    if chosen := os.environ.get("CROSSTUNE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "crosstune"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home()))) / "crosstune" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "crosstune"
