"""Laws: circuits measured by two processes, or killed and gone on with, are those of one uninterrupted process, to the bit on one machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from tests.laws.circuits_apart import bits, die, run, work

from crosstune.circuits import api as face


@pytest.fixture(scope="module")
def whole() -> str:
    return bits(run())


def killed(folder: Path) -> None:
    """A folder that a killed process left, with one of two layers."""
    process = mp.get_context("spawn").Process(target=die, args=(str(folder), 1))
    process.start()
    process.join()
    assert process.exitcode == -9


def test_two_processes_score_what_one_scores(tmp_path: Path, whole: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    killed(tmp_path / "begun")
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        for name in (f"{rank}", f"{rank}-kept", f"{rank}-begun"):
            assert (tmp_path / f"{name}.txt").read_text(encoding="utf-8") == whole
    assert bits(run(tmp_path / "kept")) == whole


def test_killed_and_gone_on_with_is_uninterrupted(
    tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path)
    scored = []
    score = face.score_layer

    def scoring(*args: object, **options: object) -> object:
        scored.append(args)
        return score(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(face, "score_layer", scoring)
    assert bits(run(tmp_path)) == whole
    assert len(scored) == 1, "of two layers one was kept"
    assert bits(run(tmp_path)) == whole
    assert len(scored) == 1, "a finished measurement is read, not made again"
