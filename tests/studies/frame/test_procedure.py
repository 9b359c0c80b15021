"""A study runs its missing cells, sums up all of them, and draws its page; what failed leaves the others' results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.studies import small_study
from tests.studies.frame.tiny_study import Tiny, TinySettings

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.records import Run
from crosstune.foundation.records.page import PAGE_FILE
from crosstune.foundation.storage import read_json
from crosstune.studies.frame import procedure
from crosstune.studies.frame.opening import settings_of
from crosstune.studies.frame.plan import Progress


@pytest.fixture
def chosen(tmp_path: Path) -> TinySettings:
    return TinySettings(output=str(tmp_path / "run"), seeds=(4, 0))


def run(settings: TinySettings, told: list[Progress] | None = None) -> Run:
    return small_study.undrawn(Tiny(settings), [].append if told is None else told.append)


def counts(run: Run) -> dict[int, list[int]]:
    rows = run.table("counts").rows()
    return {seed: [row["count"] for row in rows if row["seed"] == seed] for seed in (4, 0, 7)}


def test_every_cell_is_run_and_summed_up_and_the_page_drawn_of_a_finished_run(
    chosen: TinySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bool] = []
    monkeypatch.setattr(procedure.report, "draw", lambda run: drawn.append(run.finished))
    told: list[Progress] = []
    found = Tiny(chosen).run(told.append)
    assert drawn == [True]  # before, it would open with a warning that it is not
    assert told[:3] == [
        Progress("seed-4", "waiting", 0, 3),
        Progress("seed-0", "waiting", 0, 3),
        Progress("seed-4", "part 0", 0, 3),
    ]
    assert told[-1] == Progress("seed-0", "part 2", 2, 3)
    assert counts(found) == {4: [15, 25, 35], 0: [11, 21, 31], 7: []}
    assert found.table("first").column("count") == [1]
    assert [(one.name, one.value, one.n) for one in found.measurements()] == [("best", 35.0, 2)]
    page = read_json(found.folder / PAGE_FILE)
    assert page["title"] == "Counting"
    assert [one["text"] for one in page["statements"]] == ["This is only a test."]


def test_a_finished_study_is_only_summed_up_again(chosen: TinySettings) -> None:
    before = small_study.figures(run(chosen))
    told: list[Progress] = []
    again = run(chosen, told)
    assert told == [Progress(name, "finished", 3, 3, earlier=3) for name in ("seed-4", "seed-0")]
    assert again.finished
    assert small_study.figures(again) == before
    # The warning of both calls is shown once.
    assert [one.text for one in procedure.warnings_of(again)] == ["This is only a test."]


def test_a_seed_is_added_and_the_others_are_not_run_again(chosen: TinySettings) -> None:
    run(chosen)
    told: list[Progress] = []
    grown = run(replace(chosen, seeds=(7,)), told)
    assert {one.cell for one in told} == {"seed-7"}
    assert settings_of(grown, TinySettings).seeds == (4, 0, 7)
    assert counts(grown) == {4: [15, 25, 35], 0: [11, 21, 31], 7: [18, 28, 38]}


def test_a_cell_that_failed_leaves_the_results_of_the_others(chosen: TinySettings) -> None:
    with pytest.raises(ValueError, match="seed 0 was told to fail"):
        run(replace(chosen, fails=(0,)))
    stopped = Run.open(Path(chosen.output))
    assert {cell.folder.name: cell.finished for cell in stopped.cells()} == {
        "seed-0": False,
        "seed-4": True,
    }
    assert not stopped.finished
    told: list[Progress] = []
    found = run(chosen, told)
    assert [(one.cell, one.doing) for one in told] == [
        ("seed-4", "finished"),
        ("seed-0", "waiting"),
        ("seed-0", "part 2"),
    ]
    assert counts(found) == {4: [15, 25, 35], 0: [11, 21, 31], 7: []}


def test_a_run_is_summed_up_without_the_cells_that_are_not_finished(chosen: TinySettings) -> None:
    with pytest.raises(ValueError, match="seed 0 was told to fail"):
        run(replace(chosen, fails=(0,)))
    opened = Run.resume(Path(chosen.output))
    Tiny(chosen).sum_up(opened)
    assert counts(opened) == {4: [15, 25, 35], 0: [], 7: []}


def test_workers_and_a_launcher_do_not_mix(
    chosen: TinySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procedure.ranks, "world_size", lambda: 2)
    with pytest.raises(SettingsError, match="`workers` must be 1"):
        run(replace(chosen, workers=2))
    assert not Path(chosen.output).exists()


def test_a_study_says_where_another_process_finds_it() -> None:
    assert Tiny.where() == "tests.studies.frame.tiny_study:Tiny"
