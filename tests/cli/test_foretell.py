"""`crosstune run examples/foretell/study.py`: a whole run from a file, and mistakes that are named as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.examples import small_foretell

from crosstune.cli.main import main
from crosstune.foundation.settings import to_yaml
from crosstune.studies.frame import procedure

STUDY = str(Path(__file__).parents[2] / "examples" / "foretell" / "study.py")


def test_a_study_runs_from_a_file_and_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedure.report, "draw", lambda run: None)
    file = tmp_path / "foretell.yaml"
    chosen = small_foretell.settings(tmp_path, states=1, measurement={"variants": ["signed"]})
    file.write_text(to_yaml(chosen), encoding="utf-8")
    assert main(["run", STUDY, "--config", str(file)]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 15
    assert main(["show", chosen.output, "--draw=false", "--all"]) == 0
    said = capsys.readouterr().out
    assert "Do heads foretell what en loses to bn?" in said
    assert "What could have been seen" in said
    assert main(["list", str(tmp_path)]) == 0
    assert "foretell, 1 cell, finished" in capsys.readouterr().out


def test_a_mistake_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", STUDY, "--learn=fr"]) == 2
    assert "must name one of them (en, bn)" in capsys.readouterr().err
