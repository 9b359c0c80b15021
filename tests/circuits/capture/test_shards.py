"""Factors on disk: found again by what they are of, gone on with after a kill, and never trusted when damaged."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.circuits.drawn import captured, gradients, rows
from tests.interference import tiny

from crosstune.circuits import storage
from crosstune.circuits.capture import hooks as passing
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.capture.shards import Shard, ShardsOnDisk
from crosstune.foundation.errors import StorageError

ROWS = rows()
BATCHES = 3


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every pass that is made."""
    made: list[int] = []
    plain = passing.Pass.__call__

    def counting(self: Any, some: Any) -> Shard:
        made.append(len(some))
        return plain(self, some)

    monkeypatch.setattr(passing.Pass, "__call__", counting)
    return made


def capture(folder: Path | None, **options: Any) -> Factors:
    return captured(tiny.llama(), ROWS, folder, **options)


def assert_same_bits(one: Factors, other: Factors) -> None:
    assert one.rows == other.rows and one.kernel == other.kernel
    assert torch.tensor([one.difference]).equal(torch.tensor([other.difference]))
    assert one.layers == other.layers
    for layer in one.layers:
        mine, theirs = one.layer(layer).batches, other.layer(layer).batches
        assert len(mine) == len(theirs) == BATCHES
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.places, b.places) and a.deltas.keys() == b.deltas.keys()
            for block in a.deltas:
                assert torch.equal(a.headed(block), b.headed(block))
                assert torch.equal(a.shared(block), b.shared(block))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_the_same_capture_is_found_again(tmp_path: Path, passes: list[int]) -> None:
    first = capture(tmp_path)
    # Three batches, and of those with and without padding two rows alone, to see whether the others in their batch matter.
    assert sorted(passes) == [1, 1, 1, 1, 1, 2, 3]
    passes.clear()
    with capture(tmp_path, budget_gib=1e-6) as again:
        assert_same_bits(first, again)
    assert passes == [] and len(shards(tmp_path)) == BATCHES, "a named folder stays"
    assert_same_bits(first, capture(None))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(BATCHES))
def test_a_killed_capture_goes_on(
    after: int, tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ShardsOnDisk.write

    def dies(self: ShardsOnDisk, index: int, shard: Shard) -> None:
        if len(shards(tmp_path)) == after:
            raise Killed
        write(self, index, shard)

    with monkeypatch.context() as patch:
        patch.setattr(ShardsOnDisk, "write", dies)
        with pytest.raises(Killed):
            capture(tmp_path)
    assert len(shards(tmp_path)) == after
    passes.clear()
    resumed = capture(tmp_path)
    assert len(passes) == BATCHES - after
    assert_same_bits(resumed, capture(None))


OTHERS: dict[str, dict[str, Any]] = {
    "layers": {"layers": (0,)},
    "blocks": {"blocks": ("q",)},
    "labels": {"labels": "sampled"},
    "batches": {"batch_tokens": 60},
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_capture_lies_beside_it(other: str, tmp_path: Path, passes: list[int]) -> None:
    capture(tmp_path)
    passes.clear()
    capture(tmp_path, **OTHERS[other])
    assert passes
    assert len(list(tmp_path.iterdir())) == 2


def test_other_weights_rows_or_strength_of_an_adapter_lie_beside_it(tmp_path: Path) -> None:
    capture(tmp_path)
    captured(tiny.llama(seed=1), ROWS, tmp_path)
    captured(tiny.llama(), ROWS[:-1], tmp_path)
    adapted: Any = tiny.lora()
    captured(adapted, ROWS, tmp_path)
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2.0
    captured(adapted, ROWS, tmp_path)
    with adapted.disable_adapter():
        captured(adapted, ROWS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_options_that_change_no_factor_find_the_same(tmp_path: Path, passes: list[int]) -> None:
    capture(tmp_path)
    passes.clear()
    capture(tmp_path, variants=("signed",), budget_gib=1.0, seed=5, damping_share=0.2)
    assert passes == []


def test_drawn_labels_depend_on_the_seed(tmp_path: Path, passes: list[int]) -> None:
    capture(tmp_path, labels="sampled", seed=1)
    passes.clear()
    capture(tmp_path, labels="sampled", seed=1)
    assert passes == []
    capture(tmp_path, labels="sampled", seed=2)
    assert passes


def spoil_content(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


def spoil_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def spoil_header(path: Path) -> None:
    path.write_bytes(b"\x00" * 64 + path.read_bytes()[64:])


@pytest.mark.parametrize("spoil", [spoil_content, spoil_length, spoil_header, Path.unlink])
def test_a_damaged_shard_is_seen_and_named(spoil: Any, tmp_path: Path) -> None:
    factors = capture(tmp_path)
    damaged = shards(tmp_path)[1]
    spoil(damaged)
    with pytest.raises(StorageError, match=r"must hold the factors that were written") as caught:
        gradients(factors)
    assert str(damaged) in str(caught.value) and "Delete this file" in str(caught.value)


def test_a_deleted_shard_alone_is_captured_again(tmp_path: Path, passes: list[int]) -> None:
    before = capture(None)
    capture(tmp_path)
    shards(tmp_path)[1].unlink()
    passes.clear()
    assert_same_bits(capture(tmp_path), before)
    assert len(passes) == 1


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files may not grow beyond some bytes: the system refuses writes in the midst, as a full disk does."""
    resource = pytest.importorskip("resource", reason="no limits of file sizes on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_refuses_is_told_and_leaves_nothing_torn(
    tmp_path: Path, small_files: None
) -> None:
    with pytest.raises(StorageError, match=r"os error 27.*files written: 0 of 3.*run again"):
        capture(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["factors.json"]


def test_a_disk_that_fills_loses_nothing_that_was_whole(
    tmp_path: Path, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = storage.save_file

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        if len(shards(tmp_path)) == 2:
            path.write_bytes(b"the part that fitted")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", full)
        with pytest.raises(StorageError, match=r"No space left.*files written: 2 of 3.*goes on"):
            capture(tmp_path)
    assert len(shards(tmp_path)) == 2
    passes.clear()
    assert_same_bits(capture(tmp_path), capture(None))
    assert passes[0] == 1 and len(passes) == 1 + 7


def test_what_does_not_fit_goes_to_a_folder_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    with capture(None, budget_gib=1e-6) as factors:
        assert len(shards(tmp_path)) == BATCHES and factors.bytes > 30000
        assert_same_bits(factors, capture(None))
    assert list(tmp_path.iterdir()) == []
    kept = capture(None, budget_gib=1e-6)
    assert len(shards(tmp_path)) == BATCHES
    del kept
    assert list(tmp_path.iterdir()) == []


def test_half_precision_is_kept_as_it_is(tmp_path: Path) -> None:
    model: Any = tiny.llama().bfloat16()
    kept = captured(model, ROWS, tmp_path, precision="model")
    plain = captured(model, ROWS, precision="model")
    assert kept.layer(0).batches[0].shared("q").dtype == torch.bfloat16
    assert_same_bits(kept, plain)
    assert kept.bytes < capture(tmp_path).bytes


def test_a_shard_that_another_process_wrote_elsewhere_is_missed(tmp_path: Path) -> None:
    capture(tmp_path)
    (folder,) = tmp_path.iterdir()
    found = ShardsOnDisk(folder, "factors", "batch", BATCHES, 0)
    found.share(torch.device("cpu"))
    shutil.move(shards(tmp_path)[0], tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"every process sees; found 1 of 3 shards"):
        found.share(torch.device("cpu"))
