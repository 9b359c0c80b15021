"""The ledger's checkpoint files: what is written is read; what was damaged is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crosstune.foundation.errors import CheckpointError, StorageError
from crosstune.interference.ledger.state import LedgerState


def state() -> LedgerState:
    return LedgerState(
        steps=(10, 13),
        identity={"every": "abc"},
        tensors=({"path": torch.ones(2, 3).double(), "entries": torch.zeros(4, 3).double()},),
        facts=([{"start_step": 0, "loss_start": 0.1 + 0.2}],),
        weights={"model.norm.weight": torch.arange(3, dtype=torch.bfloat16)},
    )


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    state().write(tmp_path)
    found = LedgerState.read(tmp_path)
    for name in ("steps", "identity", "facts"):
        assert getattr(found, name) == getattr(state(), name)
    assert found.weights["model.norm.weight"].dtype == torch.bfloat16
    for one, other in zip(found.tensors, state().tensors, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    state().write(tmp_path)
    numbers = tmp_path / "forgetting.safetensors"
    numbers.write_bytes(numbers.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="must be the file that the ledger wrote"):
        LedgerState.read(tmp_path)
    numbers.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        LedgerState.read(tmp_path)
    (tmp_path / "forgetting.json").write_text("{", encoding="utf-8")
    with pytest.raises(StorageError):
        LedgerState.read(tmp_path)


def test_what_differs_is_named() -> None:
    saved = LedgerState((0, 5), {"every": "10", "stage": "bn"}, (), (), {})
    saved.check({"every": "10", "stage": "bn"}, 5)
    with pytest.raises(CheckpointError, match="another stage in the checkpoint"):
        saved.check({"every": "10", "stage": "ar"}, 5)
    with pytest.raises(CheckpointError, match=r"step of its checkpoint \(5\).*at step 6"):
        saved.check({"every": "10", "stage": "bn"}, 6)
