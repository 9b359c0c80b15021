"""Storage: files are whole or absent, and neither they nor what lies elsewhere is trusted when changed."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from crosstune.circuits import storage
from crosstune.circuits.storage import Store
from crosstune.foundation.errors import StorageError

PARTS = {"one": {"x.y": torch.arange(6.0).view(2, 3)}, "two": {"z": torch.zeros(2).bfloat16()}}


def store(folder: Path | None, expected: int = 100) -> Store:
    return Store.create(folder, "scores", "layer", count=2, expected=expected)


def test_a_part_comes_back_as_it_was_written(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.write_parts(1, PARTS)
    assert made.holds(1) and not made.holds(0) and made.bytes > 32
    for part, tensors in PARTS.items():
        found = made.read_part(1, part)
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value)


def test_a_change_elsewhere_is_seen(tmp_path: Path) -> None:
    made, elsewhere = store(tmp_path), torch.zeros(3, 2).T
    made.write_parts(0, {"one": PARTS["one"]}, {"pairs": elsewhere})
    assert made.read_part(0, "one", {"pairs": elsewhere.clone()}).keys() == {"x.y"}
    elsewhere[1, 2] = -0.0
    with pytest.raises(StorageError, match="other bits than were written.*this layer alone"):
        made.read_part(0, "one", {"pairs": elsewhere})


def test_the_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.describe({"rows": ["a"]})
    made.note(kernel="math")
    assert made.about() == {"rows": ["a"]}
    assert (made.noted("kernel"), made.noted("other")) == ("math", None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "readable JSON"),
        ("[]", "must be of the format 'crosstune circuit scores 3'; found None"),
        ('{"format": "crosstune circuit scores 2"}', "found 'crosstune circuit scores 2'"),
        ('{"format": "crosstune circuit scores 3", "about": {}}', "another fingerprint"),
    ],
)
def test_a_manifest_of_another_format_or_content_is_refused(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(StorageError, match=words):
        store(tmp_path).about()


def test_a_changed_description_is_refused(tmp_path: Path) -> None:
    made = store(tmp_path)
    made.describe({"rows": ["a"]})
    plain = json.loads(made.manifest.read_text())
    made.manifest.write_text(json.dumps({**plain, "about": {"rows": ["b"]}}))
    with pytest.raises(StorageError, match="another fingerprint"):
        made.about()


class Usage(NamedTuple):
    free: int


def test_room_is_asked_for_what_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path).write_parts(0, PARTS)
    size = store(tmp_path).bytes
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: Usage(2**20))
    store(tmp_path, 2**20 + size)
    for folder, expected in ((tmp_path, 2**20 + size + 1), (None, 2**20 + 1)):
        with pytest.raises(StorageError, match="must have room for scores of 1 MiB; found 1 MiB"):
            store(folder, expected)


def test_a_full_disk_is_said_in_words_and_leaves_nothing_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store(tmp_path)
    made.write_parts(0, PARTS)

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"the part that fitted")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(StorageError, match=r"No space left.*files written: 1 of 2.*goes on"):
        made.write_parts(1, PARTS)
    assert [path.name for path in tmp_path.iterdir()] == ["layer-00000.safetensors"]


def test_a_temporary_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    for close in (True, False):
        made = store(None)
        made.remove_in_the_end()
        assert made.folder.exists()
        if close:
            made.close()
        del made
        assert list(tmp_path.iterdir()) == []
