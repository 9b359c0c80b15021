"""The page draws only tables and columns that a study writes, and begins where most was forgotten."""

from __future__ import annotations

from dataclasses import replace

from tests.studies.conflict.told import TABLES, closing, run_with

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Page
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.conflict import accounts, page, tables
from crosstune.studies.conflict.agreement import _AT_ONE_STATE
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.summary import SEED

SETTINGS = ConflictSettings(training=TrainingSettings(evaluate_every=10))
WRITTEN = {
    **TABLES,
    "forgetting": accounts.FORGETTING.columns,
    "forgetting_course": accounts.COURSE.columns,
    "rollback_means": accounts.ROLLBACK.columns,
    "agreement_at_one_state": _AT_ONE_STATE,
    "evaluation": (SEED, *tables.EVALUATION),
    "learning": (SEED, *tables.LEARNING),
    "cost": (SEED, *tables.COST),
}


def written(folder, settings=SETTINGS, **rows) -> Page:
    run = run_with(folder / "run", **rows)
    return page.page(run, settings)


def test_every_section_names_a_table_and_columns_that_exist(tmp_path):
    sections = written(tmp_path).sections
    assert len(sections) > 10
    for section in sections:
        names = {column.name for column in WRITTEN[section.table]}
        assert set(section.columns()) <= names, section.id
        if section.thin is not None:
            thin = {column.name for column in WRITTEN[section.thin]}
            assert set(section.columns()) <= thin | {"where"}, section.id


def test_heads_are_drawn_where_they_were_booked(tmp_path):
    run = run_with(tmp_path / "run")
    run.write_table(Table("forgetting_head_means", accounts.HEADS.columns, []))
    sections = {one.id: one for one in page.page(run, SETTINGS).sections}
    columns = {column.name for column in accounts.HEADS.columns}
    assert set(sections["forgetting-heads"].columns()) <= columns
    assert sections["forgetting-heads"].begin["stage"] == "2-bn"


def test_figures_begin_at_the_largest_rise_of_a_held_out_loss(tmp_path):
    rows = [
        closing("en", 0.5, 0.4, 0.6),
        closing("bn", 2.0, 1.9, 2.1, stage="3-ar"),
        closing("bn", 9.0, 8.0, 10.0, stage="3-ar", side="train"),
    ]
    ledger = written(tmp_path, closing=rows).sections[0]
    assert ledger.id == "forgetting"
    assert ledger.begin == {"stage": "3-ar", "task": "bn", "side": "test"}


def test_the_first_screen_has_the_changes_and_the_three_largest_components_of_the_worst_loss(
    tmp_path,
):
    rows = [closing("en", 0.5, 0.4, 0.6), closing("bn", -9.0, -9.1, -8.9)]
    changes, largest = written(tmp_path, closing=rows).pictures
    assert (changes.table, changes.x, changes.y) == ("closing", "task", "stage")
    assert largest.where == {"stage": "2-bn", "task": "en", "side": "test"}
    assert (largest.order, largest.most) == ("size", 3)


def test_gradients_begin_at_the_pair_that_meets_where_most_was_lost(tmp_path):
    rows = [closing("en", 0.5, 0.4, 0.6), closing("en", 0.9, 0.8, 1.0, stage="3-ar")]
    sections = {section.id: section for section in written(tmp_path, closing=rows).sections}
    assert sections["agreement"].begin == {"stage": "3-ar", "pair": "en – ar"}
    assert sections["learning"].begin == {"stage": "3-ar"}


def test_residuals_and_costs_stand_aside(tmp_path):
    aside = {section.id for section in written(tmp_path).sections if section.aside}
    assert aside >= {"closing", "cost", "references", "training-loss"}


def test_what_was_not_asked_for_has_no_section(tmp_path):
    bare = replace(SETTINGS, probe=None, rollback="none", training=TrainingSettings())
    ids = {section.id for section in written(tmp_path, bare).sections}
    assert not ids & {"rollback", "agreement", "agreement-time", "peaks", "movement", "learning"}


def test_uniform_and_unigram_lines_stand_in_the_loss_figures(tmp_path):
    sections = {section.id: section for section in written(tmp_path).sections}
    assert [label for label, _ in sections["learning"].lines] == [
        "uniform",
        "unigram en",
        "unigram bn",
        "unigram ar",
    ]
    assert sections["training-loss"].lines[0][0] == "uniform"


def test_the_subtitle_says_what_a_seed_changes(tmp_path):
    assert "A seed changes the order of training rows" in written(tmp_path).subtitle
