"""The example of API skills: its code is code, its skills are told apart, and each gets an expert."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from examples.api_skills import TEMPLATES, main, skill


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_rows_are_python_and_held_out_ones_are_others(name: str) -> None:
    task = skill(name)
    for row in (*task.train, *task.test):
        ast.parse(row.text)
    assert not {row.text for row in task.train} & {row.text for row in task.test}
    assert (len(task.train), len(task.test)) == (128, 32)


def test_each_api_gets_an_expert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(str(tmp_path), steps=6)
    said = capsys.readouterr().out
    assert said.count("born: wins") == 3
    saved = (tmp_path / "learned" / "mixture" / "experts").glob("xp_*")
    assert {path.name for path in saved} == {f"xp_{name}" for name in TEMPLATES}
