"""`crosstune run circuits` and `plan circuits`: whole runs from words, and mistakes that are named as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import small_circuits, small_study

from crosstune.cli.main import main
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.frame import procedure


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the small model lies."""
    return tmp_path_factory.mktemp("circuits")


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> str:
    """The smallest study as a file."""
    path = tmp_path / "circuits.yaml"
    chosen = small_circuits.settings(
        folder, output=str(tmp_path / "run"), measurement={"variants": ["signed"], "blocks": ["q"]}
    )
    path.write_text(to_yaml(chosen), encoding="utf-8")
    return str(path)


def test_a_study_runs_from_a_file_and_is_shown_and_listed(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedure.report, "draw", lambda run: None)
    assert main(["run", "circuits", "--config", file, "--measurement.layers=[1]"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("en:bn. ")
    assert "Head by head" not in said
    assert main(["show", str(tmp_path / "run"), "--draw=false", "--all"]) == 0
    said = capsys.readouterr().out
    assert "How en and bn meet in attention heads" in said
    assert "Head by head" in said
    assert main(["list", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "circuits, 1 cell, finished" in listed
    assert "Which attention heads do two tasks pull at together or against each other" in listed


def test_a_plan_says_gigabytes_and_seconds(
    file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["plan", "circuits", "--config", file]) == 0
    said = capsys.readouterr().out
    for what in ("whole study", "capturing", "scoring", "peak memory", "GiB"):
        assert what in said
    assert not (tmp_path / "run").exists()


def test_words_reach_the_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--ablate=true", "--measurement.fisher=pooled", "--measurement.variants=[signed]", "--pairs=[bn:en]"]  # fmt: skip
    assert main(["run", "circuits", "--print_config", *words]) == 0
    found = from_yaml(CircuitStudySettings, capsys.readouterr().out)
    assert (found.ablate, found.measurement.fisher, found.measurement.variants) == (
        True, "pooled", ("signed",),
    )  # fmt: skip
    assert found.task_pairs == (("bn", "en"),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs=[en:fr]"], "`pairs` must be two different tasks as A:B, of en, bn"),
        (["--measurement.variants=[sideways]"], "variants"),
        (["--measurement.rows=3"], "min_samples (10)"),
        (["--measurement.layers=[9]"], "`measurement.layers`"),
        (["--measurement.heads=[77]"], "`measurement.heads`"),
        (["--measurement.length=100000"], "`measurement.length`"),
        (["--conflict=nowhere"], "conflict"),
        (["--ablatte=true"], "Did you mean `--ablate`?"),
    ],
)
def test_a_mistake_is_named_as_it_was_written(
    words: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    is_of_model = "conflict" not in words[0]
    model = [f"--model={small_study.model(folder)}"] if is_of_model else []
    assert main(["run", "circuits", f"--output={tmp_path / 'run'}", *model, *words]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not list(tmp_path.glob("run/cells/*/scores"))
