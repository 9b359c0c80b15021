"""The page draws only tables and columns that a study writes, and begins where the pick and the forgetting are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Page
from crosstune.merging.findings.sentences import DIVERGENCE
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
    drawn = (*written.pictures, *written.sections)
    assert [section.id for section in drawn if contents.obstacle(section)] == []


def test_the_first_screen_has_the_answer_the_front_and_what_was_kept(written):
    assert written.answer is not None
    assert "gave back 1.4" in written.answer.text
    assert written.answer not in written.statements
    front, kept = written.pictures
    assert (front.view, front.table, dict(front.where)) == (
        *("scatter", "repair_front"),
        {"points": "near after"},
    )
    assert kept.table == "repair_map"
    assert dict(kept.where) == {"method": "component", "label": "rate 1", "checkpoint": 1}
    assert not (front.choose or kept.choose)
    aside = {section.id for section in written.sections if section.aside}
    assert aside == {"agreement", "points", "cost"}


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


def rewritten(run: Run, name: str, change) -> None:
    for cell in run.cells():
        table = cell.table(name)
        cell.write_table(Table(name, table.columns, change(table.rows())))


def test_heads_have_a_map_where_a_method_tells_them_apart(tmp_path):
    def with_heads(rows):
        own = [row | {"method": "head"} for row in rows if row["component"] == "attn.o"]
        return [*rows, *(row | {"head": head} for row in own for head in (0, 1))]

    run = told.run_with(tmp_path / "run")
    rewritten(run, "repair_coefficients", with_heads)
    sections = {section.id: section for section in told.summed_up(run).sections}
    section = sections["coefficient-heads"]
    assert Contents.of(run).obstacle(section) == ""
    assert section.begin == {"method": "head", "label": "rate 1", "component": "attn.o"}
    assert (section.x, section.y) == ("head", "layer")


def test_what_was_not_searched_has_no_section(tmp_path):
    run = told.run_with(tmp_path / "run")
    for name in ("points", "tasks", "hypervolume", "coefficients"):
        rewritten(
            run,
            f"repair_{name}",
            lambda rows: [row for row in rows if row["method"] == "component"],
        )
    for cell in run.cells():
        for name in ("rollback", "repair_rivals"):
            (cell.folder / "tables" / f"{name}.parquet").unlink()
    ids = {section.id for section in told.summed_up(run).sections}
    compared = {"more-regained", "over-global", "over-replay", "rollback"}
    assert not ids & {*compared, *(f"coefficient-{name}" for name in ("rows", "heads"))}
    assert "coefficient-directions" not in ids
    assert {"front", "room", "coefficients", "ledger"} <= ids


def test_single_points_are_no_front(tmp_path):
    asked = replace(told.SETTINGS, repair=replace(told.SETTINGS.repair, exchange_rates=()))
    run = told.run_with(tmp_path / "run", asked)
    found = told.summed_up(run, asked)
    ids = {section.id for section in found.sections}
    assert "front" in ids
    assert not ids & {"room", "over-global", "over-replay"}
    assert not any("The front of" in one.text for one in found.statements)
    assert run.measurements() == []


def test_titles_and_subtitles_say_what_was_compared(run, written):
    assert written.title == "What learning bn cost en, and what comes back"
    assert "seeds 0, 7" in written.subtitle
    assert written.subtitle.startswith("The embedded model; 200 steps")
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
        ((None, None), "share no row. Intervals are paired jackknife over test rows"),
        (("doc", "doc"), "share no group. Intervals are paired jackknife over test rows or groups"),
        (("doc", None), "share no row and no group. Intervals"),
        ((), "share no group."),  # toy rows have groups
    ],
)
def test_the_page_says_no_more_of_groups_than_is_known(run, written, groups, said):
    asked = told.SETTINGS
    if groups:
        pairs = zip(asked.tasks, groups, strict=True)
        tasks = (replace(task, source="rows.jsonl", group=group) for task, group in pairs)
        asked = replace(asked, tasks=tuple(tasks))
    sections = page._sections(run, asked, verdicts.picked(run, asked))
    notes = [
        section.note for section in sections if section.id in ("front", "tasks", "more-regained")
    ]
    assert len(notes) == 3
    assert all(said in note for note in notes)


@pytest.mark.parametrize("target", ["text", "checkpoints"])
def test_what_chose_is_said_to_be_a_divergence_where_it_was(tmp_path, target):
    repair = replace(told.SETTINGS.repair, max_loss={"bn": 0.02}, learned=("bn",), target=target)
    asked = replace(told.SETTINGS, repair=repair)
    found = told.summed_up(told.run_with(tmp_path / "run", asked), asked)
    notes = {section.id for section in found.sections if DIVERGENCE in section.note}
    said = [f"{one.text} {one.detail}" for one in found.statements]
    if target == "text":
        read = [*said, *(f"{one.lead} {one.note}" for one in found.sections)]
        assert [text for text in read if "diverge" in text] == []
        assert any(text.startswith("Limit of 0.02 nats of bn") for text in said)
        return
    assert notes == {"front", "tasks", "more-regained", "ledger", "method"}
    assert not any(text.startswith(("At a cost", "Limit of")) for text in said)
    assert sum(text.startswith("At a divergence from the checkpoint") for text in said) == 1
    (limit,) = (one for one in found.statements if one.text.startswith("Asked that bn"))
    assert limit.tone == "info"
    assert "kept" not in limit.text
    assert found.answer is not None
    assert f"by {DIVERGENCE}" in found.answer.detail
