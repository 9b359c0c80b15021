"""The page draws only tables and columns that a study writes, and begins where the pick and the forgetting are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Run
from crosstune.foundation.records.page import Page
from crosstune.report.folder import Contents
from crosstune.studies.repair import page, verdicts


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return told.run_with(tmp_path_factory.mktemp("told") / "run")


@pytest.fixture(scope="module")
def written(run) -> Page:
    return told.summed_up(run)


def test_every_section_can_be_drawn(run, written):
    contents = Contents.of(run)
    assert len(written.sections) >= 12
    assert [contents.obstacle(section) for section in written.sections] == [""] * len(
        written.sections
    )


def test_figures_begin_at_the_pick_and_at_what_was_forgotten(written):
    begins = {section.id: dict(section.begin) for section in written.sections}
    assert begins["tasks"] == {"task": "en", "method": "component"}
    assert begins["coefficients"] == {"method": "component", "label": "rate 1"}
    assert begins["ledger"] == {"account": "along the training", "task": "en"}
    assert begins["rollback"] == {"task": "en"}


def test_the_maps_of_reasons_stand_right_after_the_coefficients(written):
    ids = [section.id for section in written.sections]
    at = ids.index("coefficients")
    assert ids[at + 3 : at + 5] == ["ledger", "rollback"]
    assert [section.view for section in written.sections[at : at + 5]] == ["heatmap"] * 5


def test_heads_have_a_map_where_a_method_tells_them_apart(tmp_path):
    run = told.run_with(tmp_path / "run")
    for cell in run.cells():
        table = cell.table("repair_coefficients")
        rows = [row for row in table.rows() if row["component"] == "attn.o"]
        heads = [row | {"method": "head", "head": head} for row in rows for head in (0, 1)]
        cell.write_table(type(table)(table.name, table.columns, [*table.rows(), *heads]))
    written = told.summed_up(run)
    (section,) = (one for one in written.sections if one.id == "coefficient-heads")
    assert Contents.of(run).obstacle(section) == ""
    assert section.begin == {"method": "head", "label": "rate 1", "component": "attn.o"}
    assert (section.x, section.y) == ("head", "layer")


TOLD = ("repair_points", "repair_tasks", "repair_hypervolume", "repair_coefficients")


def test_what_was_not_searched_has_no_section(tmp_path):
    run = told.run_with(tmp_path / "run")
    for cell in run.cells():
        for name in TOLD:
            table = cell.table(name)
            kept = [row for row in table.rows() if row["method"] == "component"]
            cell.write_table(type(table)(name, table.columns, kept))
        for name in ("rollback", "repair_rivals"):
            (cell.folder / "tables" / f"{name}.parquet").unlink()
    ids = {section.id for section in told.summed_up(run).sections}
    gone = {
        "more-regained",
        "more-paid",
        "over-global",
        "over-replay",
        "coefficient-rows",
        "coefficient-heads",
        "coefficient-directions",
        "rollback",
    }
    assert not ids & gone
    assert {"front", "room", "coefficients", "ledger"} <= ids


def test_titles_and_subtitles_say_what_was_compared(written):
    assert written.title == "What learning bn cost en, and what comes back"
    assert "seeds 0, 7" in written.subtitle
    assert written.subtitle.startswith("The embedded model; 200 steps")


def test_two_given_models_are_named(run, written):
    pair = replace(
        told.SETTINGS, seeds=(0,), before="hub/base", after="runs/tuned/", between=("m",)
    )
    assert page._title(pair) == "What tuned lost against base, and what comes back"
    assert "1 checkpoints between" in page._subtitle(run, pair)


def test_caveats_stand_on_the_page(written):
    method = written.sections[-1]
    assert method.view == "text"
    for word in ("scored once", "w = 1", "not yet an ability", "without correction"):
        assert word in method.lead


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ((None, None), "share no row. Intervals are paired jackknife over reported rows"),
        (
            ("doc", "doc"),
            "share no group. Intervals are paired jackknife over reported rows or groups",
        ),
        (("doc", None), "share no row and no group. Intervals"),
    ],
)
def test_the_page_says_no_more_of_groups_than_is_known(run, written, groups, said):
    tasks = tuple(
        replace(task, source="rows.jsonl", group=group)
        for task, group in zip(told.SETTINGS.tasks, groups, strict=True)
    )
    pick = verdicts.picked(run, told.SETTINGS)
    sections = list(page._sections(run, replace(told.SETTINGS, tasks=tasks), pick))
    notes = [section.note for section in sections if section.id in ("front", "tasks", "more-paid")]
    assert len(notes) == 3
    assert all(said in note for note in notes)


def test_toy_rows_have_groups(written):
    (front,) = (section for section in written.sections if section.id == "front")
    assert "share no group." in front.note
