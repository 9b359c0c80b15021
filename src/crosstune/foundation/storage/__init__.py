"""Files that are whole or absent, fingerprints of what they hold, and the cache folder."""

from __future__ import annotations

from crosstune.foundation.storage.files import (
    atomic_folder,
    atomic_write,
    cache_folder,
    check_room,
    read_json,
    safe_name,
    write_json,
    write_text,
)
from crosstune.foundation.storage.fingerprints import canonical, fingerprint, fingerprint_file

__all__ = [
    "atomic_folder",
    "atomic_write",
    "cache_folder",
    "canonical",
    "check_room",
    "fingerprint",
    "fingerprint_file",
    "read_json",
    "safe_name",
    "write_json",
    "write_text",
]
