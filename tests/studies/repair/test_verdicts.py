"""The sentences of a repair study: the trade first, and what is said of seeds, rivals and reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Run, Table
from crosstune.merging import tables
from crosstune.merging.settings import RepairSettings
from crosstune.studies.repair import why
from crosstune.studies.repair.verdicts import Pick, picked, statements


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = told.run_with(tmp_path_factory.mktemp("told") / "run")
    told.summed_up(run)
    return run


def test_the_trade_stands_first_and_cautions_next(run):
    trade, caution, *_ = statements(run, told.SETTINGS)
    assert trade.tone == "shown"
    assert "gave back 1.4" in trade.text
    assert "2.00 nats of en" in trade.text
    assert "at every seed anew" in trade.detail
    assert "Means over 2 fine-tunes" in trade.detail
    assert "cells/seed-0/repaired, cells/seed-7/repaired" in statements(run, told.SETTINGS)[-1].text
    assert (caution.text, caution.tone) == ("Task en has few rows.", "warning")


def test_the_pick_is_what_the_cells_saved(run):
    assert picked(run, told.SETTINGS) == Pick("component", "rate 1", 1, "rate")


def test_the_picked_method_meets_both_rivals_and_the_others_one(run):
    said = [found.text for found in statements(run, told.SETTINGS) if "The front" in found.text]
    assert len(said) == 4
    assert "a component beats one global coefficient" in said[0]
    assert "a component beats a replay fine-tune" in said[1]
    assert all("global" in text for text in said[2:])


def test_the_pick_is_compared_at_the_same_question(run):
    said = [found.text for found in statements(run, told.SETTINGS)]
    budget, rate = (
        at for at, text in enumerate(said) if text.startswith(("At a cost", "Where one"))
    )
    assert budget < rate < next(at for at, text in enumerate(said) if "The front" in text)


def test_one_fine_tune_says_that_its_intervals_hold_no_seeds(tmp_path):
    alone = replace(told.SETTINGS, seeds=(0,))
    run = told.run_with(tmp_path / "run", alone)
    told.summed_up(run, alone)
    found = statements(run, alone)
    assert "One fine-tune: the intervals hold rows, not seeds." in found[0].detail


def test_two_given_models_say_nothing_of_seeds(tmp_path):
    pair = replace(told.SETTINGS, seeds=(0,), before="a", after="b")
    run = told.run_with(tmp_path / "run", pair)
    told.summed_up(run, pair)
    assert not any("fine-tunes;" in found.detail for found in statements(run, pair))


def test_a_limit_that_was_asked_for_is_checked_on_reported_rows(run):
    asked = RepairSettings(max_loss={"bn": 0.02})
    said = [found.text for found in statements(run, replace(told.SETTINGS, repair=asked))]
    assert any(text.startswith("Asked to lose at most 0.02 nats of bn") for text in said)


def test_reasons_are_said_with_their_interval(run):
    columns = why.AGREEMENT

    def correlated(rho, low, high):
        place = {"method": "component", "label": "rate 1", "account": "rollback", "sites": 20}
        row = told.cells(columns, **place, rank_correlation=rho, low=low, high=high)
        run.write_table(Table("repair_why", columns, [row]))
        return statements(run, told.SETTINGS)[-2]

    before = run.table("repair_why")
    try:
        assert correlated(0.8, 0.5, 0.9).text.startswith("Most was taken back where rollback")
        assert correlated(-0.8, -0.9, -0.5).text.startswith("Least was taken back")
        assert correlated(0.1, -0.3, 0.5).tone == "not_shown"
    finally:
        run.write_table(before)


def test_nothing_to_repair_is_said_in_the_words_of_the_cell(tmp_path):
    alone = replace(told.SETTINGS, seeds=(0,))
    run = Run.create(tmp_path / "run", "", kind="repair")
    cell = run.cell("seed-0", "")
    cell.write_table(told.points(0).where(method="global"))
    cell.write_table(told.tasks(0).where(method="global"))
    cell.event("statement", text="Nothing to repair.", tone="shown", detail="No bit differs.")
    cell.finish()
    told.summed_up(run, alone)
    assert picked(run, alone) is None
    (only,) = statements(run, alone)
    assert (only.text, only.tone) == ("Nothing to repair.", "shown")
    assert not run.has_table("repair_map")
    assert tables.COEFFICIENTS not in run.tables()
