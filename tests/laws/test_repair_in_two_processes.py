"""Law: two processes, each with every other batch, choose the coefficients that one chooses, to the bit on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import processes
from tests.laws.repair_in_pieces import bits, run, targeting, work

TARGETS = ("text", "checkpoints")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("two")
    processes.in_two(work, place, TARGETS)
    return place


@pytest.mark.parametrize("target", TARGETS)
def test_two_processes_choose_what_one_chooses(folder: Path, target: str) -> None:
    one = run(settings=targeting(target))
    expected = [f"{p.label} {told}" for p, told in zip(one.points, bits(one), strict=True)]
    for rank in range(2):
        text = (folder / f"{rank}-{target}.txt").read_text(encoding="utf-8")
        assert text.splitlines() == expected


def test_one_process_goes_on_with_what_two_have_left(folder: Path) -> None:
    found = run(folder / "evaluations-text", settings=targeting("text"))
    assert found.found is not None
    assert found.found.session.evaluator.made == 0
