"""Names from users never lead out of their folder; the cache folder is read when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosstune.foundation.errors import StorageError
from crosstune.foundation.storage import cache_folder, safe_name


@pytest.mark.parametrize(
    "name", ["..", "a/b", "", ".hidden", "a\x00b", "ends.", "x" * 101, "a b", "ä"]
)
def test_dangerous_names_are_refused(name):
    with pytest.raises(StorageError, match="task"):
        safe_name(name, "task")


def test_ordinary_names_pass_unchanged():
    assert safe_name("en_US-v1.2+x", "task") == "en_US-v1.2+x"


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("CROSSTUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == Path(tmp_path / "x" / "crosstune")
