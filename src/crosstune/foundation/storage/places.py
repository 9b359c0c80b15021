"""Where files may go: the cache folder, and names from users that may become part of a path."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from crosstune.foundation.errors import StorageError

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
