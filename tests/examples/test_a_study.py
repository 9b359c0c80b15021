"""The example that is copied: it runs by the command line, goes on where it was killed, and its table keeps its law."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.studies import small_study

from crosstune.cli.main import main
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.studies import Progress, find_study

STUDY = str(Path(__file__).parents[2] / "examples" / "a_study.py")
SMALL = """
training: {steps: 4, batch_rows: 4, length: 16, learning_rate: 3e-3, checkpoint_every: 2}
tasks:
  - {name: en, source: "toy:latin-svo", rows: 40}
  - {name: bn, source: "toy:bengali-sov-0.3", rows: 40}
"""


class Killed(Exception):
    """What the listener dies of."""


def die(progress: Progress) -> None:
    if (progress.cell, progress.done) == ("seed-1", 3):
        raise Killed


def study(output: Path) -> tuple[Any, Any]:
    """How it is run, with which settings."""
    found = find_study(STUDY)
    settings = from_yaml(found.settings_class(), SMALL, {"output": str(output), "seeds": (0, 1)})
    return found.run, settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A study that was killed, and went on by the command line."""
    folder = tmp_path_factory.mktemp("a-study")
    run, settings = study(folder / "run")
    with pytest.raises(Killed):
        run(settings, die)
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    words = [
        "--config",
        str(folder / "small.yaml"),
        "--output",
        settings.output,
        "--seeds",
        "[0, 1]",
    ]
    assert main(["run", STUDY, *words]) == 0
    return Run.open(folder / "run")


def test_what_changed_is_after_less_before(finished: Run) -> None:
    table = finished.table("cost")
    assert table.column("seed") == [0, 1]
    for row in table.rows():
        assert row["change"] == row["after"] - row["before"]
        assert row["change"] > 0.01, "English was forgotten"
    assert len(set(table.column("before"))) == 1
    assert len(set(table.column("after"))) == 2


def test_what_was_killed_goes_on_to_the_same_bits(finished: Run, tmp_path: Path) -> None:
    done, cut_off = finished.cells()
    assert {event["attempt"] for event in done.all_events()} == {1}
    assert {event["attempt"] for event in cut_off.events("done")} == {2}
    run, settings = study(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosstune.report.draw", lambda run: None)
        whole = run(settings, lambda progress: None)
    assert small_study.differences(small_study.figures(whole), small_study.figures(finished)) == []


def test_the_report_says_it(finished: Run) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "Learning bn changed the loss of en by" in page


def test_it_is_planned_and_bad_settings_are_refused_though_it_says_nothing_of_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    words = [STUDY, "--config", str(tmp_path / "small.yaml"), "--output", str(tmp_path / "run")]
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "whole study" in said and "training" in said and not (tmp_path / "run").exists()
    alone = '[{"name": "en", "source": "toy:latin-svo"}]'
    assert main(["run", *words, "--tasks", alone]) == 2
    assert "`tasks` must be at least two" in capsys.readouterr().err
