"""The flow: seeds are added to a finished run, other settings refused, and the page is drawn at the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from crosstune.studies.foretell import flow, judging
from crosstune.studies.foretell.settings import ForetellSettings
from tests.studies import small_foretell, small_study

from crosstune.foundation.records import Run
from crosstune.studies.frame.opening import settings_of


def test_a_finished_study_is_only_judged_again(foretold: Run, tmp_path: Path) -> None:
    shutil.copytree(foretold.folder, tmp_path / "run")
    settings = small_foretell.settings(tmp_path, seeds=[0, 7])
    told = []
    run = small_foretell.run_cells(settings, told.append)
    assert {(one.cell, one.doing) for one in told} == {
        ("seed-0", "finished"),
        ("seed-7", "finished"),
    }
    again, before = (one.table(judging.HEADS).rows() for one in (run, foretold))
    assert small_study.differences({"rows": again}, {"rows": before}) == []


def test_more_permutations_are_no_other_study(foretold: Run, tmp_path: Path) -> None:
    shutil.copytree(foretold.folder, tmp_path / "run")
    settings = small_foretell.settings(tmp_path, seeds=[0, 7], permutations=299)
    run = small_foretell.run_cells(settings)
    assert settings_of(run, ForetellSettings).permutations == 299
    assert min(run.table(judging.HEADS).column("p")) >= 1 / 300


def test_the_page_is_drawn_of_a_finished_run(
    foretold: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(foretold.folder, tmp_path / "run")
    drawn = []
    monkeypatch.setattr(flow.report, "draw", lambda run: drawn.append(run.finished))
    flow.run(small_foretell.settings(tmp_path, seeds=[0, 7]), lambda progress: None)
    assert drawn == [True]
