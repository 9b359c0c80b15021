"""The sentences of a repair study: the trade-off first, and what is said of seeds, rivals and reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Run, Table
from crosstune.merging import tables
from crosstune.merging.settings import RepairSettings
from crosstune.studies.repair import why
from crosstune.studies.repair.verdicts import picked, statements

ALONE = replace(told.SETTINGS, seeds=(0,))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = told.run_with(tmp_path_factory.mktemp("told") / "run")
    told.summed_up(run)
    return run


@pytest.fixture(scope="module")
def said(run) -> list[str]:
    return [found.text for found in statements(run, told.SETTINGS)]


def test_the_trade_off_stands_first_and_cautions_next(run, said):
    trade_off, caution, *_ = statements(run, told.SETTINGS)
    assert trade_off.tone == "shown"
    assert "gave back 1.4" in trade_off.text
    assert "2.00 nats of en" in trade_off.text
    assert "that is 0.40" in trade_off.text
    assert (
        "more than one global coefficient gives back at the same price; 40 test rows"
        in trade_off.text
    )
    assert "at every seed anew" in trade_off.detail
    assert "Means over 2 fine-tunes" in trade_off.detail
    assert "cells/seed-0/repaired, cells/seed-7/repaired" in said[-1]
    assert (caution.text, caution.tone) == ("Task en has few rows.", "warning")


def test_the_pick_is_what_the_cells_saved(run):
    pick = picked(run, told.SETTINGS)
    assert (pick.method, pick.kind, pick.label) == ("component", "rate", "rate 1")


def test_where_components_do_not_pay_the_answer_says_so(tmp_path):
    run = told.run_with(tmp_path / "run")
    no_gain = told.about("more_regained", 0.01, 0.05)
    for cell in run.cells():
        table = cell.table(tables.RIVALS)
        cell.write_table(Table(table.name, table.columns, [row | no_gain for row in table.rows()]))
    answer = told.summed_up(run).answer
    assert "; as far as is shown, one global coefficient does as well (0.01 [" in answer.text


def test_a_budget_that_was_picked_is_a_limit(tmp_path):
    run = told.run_with(tmp_path / "run", ALONE, "lose ≤ 0.1")
    (cell,) = run.cells()
    for name in (tables.POINTS, tables.TASKS, tables.COEFFICIENTS):
        table = cell.table(name)
        rows = table.rows()
        for row in rows:
            if row["label"] == "rate 1":
                row |= {"label": "lose ≤ 0.1"} | ({"kind": "budget"} if "kind" in row else {})
        cell.write_table(Table(name, table.columns, rows))
    page = told.summed_up(run, ALONE)
    assert picked(run, ALONE).budget == 0.1
    assert "(limit 0.1:" in page.answer.text


def test_the_picked_method_meets_both_rivals_and_the_others_one(said):
    fronts = [text for text in said if "The front" in text]
    assert len(fronts) == 4
    assert "per component beats one global coefficient" in fronts[0]
    assert "per component beats a replay fine-tune" in fronts[1]
    assert all("global" in text for text in fronts[2:])


def test_the_pick_is_compared_at_the_same_question(said):
    budget, rate = (
        at for at, text in enumerate(said) if text.startswith(("At a cost", "Where one"))
    )
    assert budget < rate < next(at for at, text in enumerate(said) if "The front" in text)


@pytest.mark.parametrize("pair", [{}, {"before": "a", "after": "b"}])
def test_intervals_of_one_fine_tune_hold_no_seeds_and_given_models_have_none(tmp_path, pair):
    asked = replace(ALONE, **pair)
    run = told.run_with(tmp_path / "run", asked)
    told.summed_up(run, asked)
    details = " ".join(found.detail for found in statements(run, asked))
    assert ("One fine-tune: the intervals hold rows, not seeds." in details) == (not pair)
    assert "fine-tunes;" not in details


def test_a_limit_that_was_asked_for_is_checked_on_test_rows(run):
    asked = replace(told.SETTINGS, repair=RepairSettings(max_loss={"bn": 0.02}))
    found = [one.text for one in statements(run, asked)]
    assert any(text.startswith("Limit of 0.02 nats of bn: met on valid") for text in found)


@pytest.mark.parametrize(
    ("rho", "low", "high", "tone", "text"),
    [
        (0.8, 0.5, 0.9, "shown", "Most was taken back where rollback"),
        (-0.8, -0.9, -0.5, "shown", "Least was taken back where rollback"),
        (0.1, -0.3, 0.5, "not_shown", "That more was taken back where rollback"),
    ],
)
def test_reasons_are_said_with_their_interval(run, rho, low, high, tone, text):
    place = {"method": "component", "label": "rate 1", "account": "rollback", "sites": 20}
    row = {**place, "rank_correlation": rho, "low": low, "high": high}
    run.write_table(told.table("repair_why", why.AGREEMENT, iter([row])))
    found = statements(run, told.SETTINGS)[-2]
    assert found.tone == tone
    assert found.text.startswith(text)
    assert found.text.endswith(f"[{low:.2f}, {high:.2f}] over 20 components.".replace("-", "−"))


def test_nothing_to_repair_is_said_in_the_words_of_the_cell(tmp_path):
    run = Run.create(tmp_path / "run", "", kind="repair")
    cell = run.cell("seed-0", "")
    cell.write_table(told.points(0).where(method="global"))
    cell.write_table(told.tasks(0).where(method="global"))
    cell.event("statement", text="Nothing to repair.", tone="shown", detail="No bit differs.")
    cell.finish()
    told.summed_up(run, ALONE)
    assert picked(run, ALONE) is None
    (only,) = statements(run, ALONE)
    assert (only.text, only.tone) == ("Nothing to repair.", "shown")
    assert not run.has_table("repair_map")
    assert tables.COEFFICIENTS not in run.tables()
