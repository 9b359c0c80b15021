"""Laws: circuits measured by two processes, or killed and gone on with, are those of one uninterrupted process, to the bit on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import processes
from tests.laws.circuits_apart import bits, die, run, work

from crosstune.circuits import api as face


@pytest.fixture(scope="module")
def whole() -> str:
    return bits(run())


def test_two_processes_score_what_one_scores(tmp_path: Path, whole: str) -> None:
    processes.killed(die, tmp_path / "begun", 1)
    processes.in_two(work, tmp_path)
    for rank in range(2):
        for name in (f"{rank}", f"{rank}-kept", f"{rank}-begun"):
            assert (tmp_path / f"{name}.txt").read_text(encoding="utf-8") == whole
    assert bits(run(tmp_path / "kept")) == whole


def test_killed_and_gone_on_with_is_uninterrupted(
    tmp_path: Path, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.killed(die, tmp_path, 1)  # with one of two layers
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
