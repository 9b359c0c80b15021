"""A file is whole or as it was, whatever happens in between."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from crosstune.foundation.errors import StorageError
from crosstune.foundation.storage import (
    atomic_folder,
    atomic_write,
    cache_folder,
    check_room,
    read_json,
    safe_name,
    write_json,
    write_text,
)


def _write_half(context, file):
    with context as temporary:
        file(temporary).write_text("half")
        raise RuntimeError


def test_an_error_leaves_the_old_file_and_no_rest(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError):
        _write_half(atomic_write(tmp_path / "a.txt"), lambda path: path)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError):
        _write_half(atomic_folder(tmp_path / "model"), lambda path: path / "x")
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(tmp_path / "model") as temporary:
        (temporary / "x").write_text("whole")
    assert (tmp_path / "model" / "x").read_text() == "whole"


def test_whoever_comes_second_keeps_the_first_folder_unless_told(tmp_path):
    for text, replace in (("first", False), ("second", False)):
        with atomic_folder(tmp_path / "model", replace=replace) as temporary:
            (temporary / "x").write_text(text)
    assert (tmp_path / "model" / "x").read_text() == "first"
    with atomic_folder(tmp_path / "model", replace=True) as temporary:
        (temporary / "x").write_text("third")
    assert (tmp_path / "model" / "x").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_exchange_leaves_the_old_folder(tmp_path, monkeypatch):
    replace, refused = Path.replace, []

    def refuse(path, target):
        if target.name == "model" and not refused:
            refused.append(path)
            raise PermissionError("not here")
        return replace(path, target)

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_text("old")
    monkeypatch.setattr(Path, "replace", refuse)
    with (
        pytest.raises(PermissionError, match="not here"),
        atomic_folder(tmp_path / "model", replace=True),
    ):
        pass
    assert (tmp_path / "model" / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_json_round_trips_and_a_broken_file_is_named(tmp_path):
    write_json(tmp_path / "a.json", {"বাংলা": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"বাংলা": [1, 2.5, None]}
    write_text(tmp_path / "b.json", "{")
    with pytest.raises(StorageError, match=r"b\.json"):
        read_json(tmp_path / "b.json")


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


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"`output` must be .*/file \(Not a directory\)"):
        check_room(tmp_path / place, "output")
    check_room(tmp_path / "new" / "run", "output")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a file system of Linux")
def test_a_place_that_only_looks_writable_is_refused():
    with pytest.raises(StorageError, match="nothing can be written in /proc"):
        check_room("/proc/x", "output")


def test_little_space_is_said_and_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    for free, said in ((2**31, []), (2**28, [f"warning: only 0.25 GiB are free in {tmp_path}"])):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        check_room(tmp_path / "run", "output")
        assert caplog.messages == said
