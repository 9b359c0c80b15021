"""Fronts over seeds: means and intervals as the study's one rule makes them, and points that answer the same together."""

from __future__ import annotations

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Table
from crosstune.merging import tables
from crosstune.studies.frame.over_seeds import mean_over_seeds
from crosstune.studies.repair import fronts
from crosstune.studies.repair.summary import SEED


def over(make, *seeds) -> Table:
    return Table.concat([make(seed).with_columns({SEED: seed}) for seed in seeds])


def test_a_point_is_the_mean_over_seeds_with_its_interval():
    (row,) = (
        fronts.front(over(told.points, 0, 7))
        .where(points=fronts.WITH_BEFORE, method="component", label="rate 1")
        .rows()
    )
    seeds = [
        next(r for r in told.points(s).rows() if (r["method"], r["point"]) == ("component", 1))
        for s in (0, 7)
    ]
    for name in ("old", "new", "regained", "paid"):
        ends = ([seed[f"{name}{end}"] for seed in seeds] for end in ("", "_low", "_high"))
        mean = mean_over_seeds(*ends)
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (
            mean.value,
            mean.low,
            mean.high,
        )
    assert (row["seeds"], row["n"], row["n_unit"], row["kind"]) == (2, 40, "rows", "rate")


def test_one_seed_keeps_its_rows_interval():
    (row,) = fronts.fronts(over(told.hypervolume, 0)).where(method="component").rows()
    assert (row["value"], row["value_low"], row["value_high"]) == pytest.approx((0.7, 0.6, 0.8))
    assert (row["over_global"], row["seeds"]) == (0.4, 1)


def test_every_point_is_there_once_with_and_once_without_before():
    table = fronts.front(over(told.points, 0, 7))
    spans = {span: table.where(points=span) for span in (fronts.WITH_BEFORE, fronts.WITHOUT_BEFORE)}
    assert len(spans[fronts.WITH_BEFORE]) == 3 * len(told.METHODS)
    assert len(spans[fronts.WITHOUT_BEFORE]) == 2 * len(told.METHODS)
    assert "before" not in spans[fronts.WITHOUT_BEFORE].column("kind")
    assert table.column("points")[0] == fronts.WITHOUT_BEFORE


def test_a_replay_is_one_point_though_its_steps_differ_from_seed_to_seed():
    def at_step(step):
        columns = tables.POINTS_COLUMNS
        replayed = told.points(0).where(method="replay").rows()
        rows = [
            {**row, "label": row["label"].replace("step 9", f"step {step}")} for row in replayed
        ]
        return Table(tables.POINTS, columns, rows).with_columns({SEED: step})

    table = fronts.front(Table.concat([at_step(9), at_step(11)]))
    replayed = table.where(points=fronts.WITH_BEFORE, method="replay")
    assert replayed.column("label") == ["before", "replay, stop 0 at 0.001", "after"]
    assert set(replayed.column("seeds")) == {2}


def test_a_task_has_the_role_that_most_seeds_gave_it():
    columns = tables.TASKS_COLUMNS
    parts = []
    for seed, role in ((0, "forgotten"), (1, "learned"), (2, "forgotten")):
        rows = [{**row, "role": role} for row in told.tasks(seed).where(task="en").rows()]
        parts.append(Table(tables.TASKS, columns, rows).with_columns({SEED: seed}))
    found = fronts.by_task(Table.concat(parts))
    assert set(found.column("role")) == {"forgotten"}
    assert found.where(method="global").column("point") == [0, 1, 2]


def test_the_front_of_a_method_is_judged_on_the_rows_that_choose():
    columns = tables.POINTS_COLUMNS
    losses = {"before": (1.0, 9.0), "rate 1": (2.0, 3.0), "rate 2": (2.5, 3.5), "after": (3.0, 2.0)}
    rows = [
        told.cells(columns, method="layer", label=label, selection_old=old, selection_new=new, n=9)
        for label, (old, new) in losses.items()
    ]
    table = fronts.front(Table(tables.POINTS, columns, rows).with_columns({SEED: 0}))
    whole = table.where(points=fronts.WITH_BEFORE)
    found = dict(zip(whole.column("label"), whole.column("front"), strict=True))
    assert found == {"before": "layer", "rate 1": "layer", "rate 2": "", "after": "layer"}


def test_answers_to_the_same_question_are_means_over_seeds():
    rows = fronts.answers(over(told.rivals, 0, 7)).where(method="component", rival="global").rows()
    assert [row["question"] for row in rows] == ["lose ≤ 0.1", "rate 1"]
    for row in rows:
        assert row["more_regained"] == pytest.approx(0.4)
        assert row["regained"] == pytest.approx(1.4 + 0.035)
        assert row["regained_low"] < row["regained"] < row["regained_high"]
        assert row["seeds"] == 2


def test_every_seeds_answer_of_a_rival_is_told():
    """A replay that stays at after for one seed only is not said to stay there."""
    columns = tables.RIVALS_COLUMNS
    parts = []
    for seed, answer in ((0, "after"), (1, "replay, step 9 at 0.001"), (2, "after")):
        rows = told.rivals(seed).where(method="component", rival="replay").rows()
        named = [{**row, "answer": answer} for row in rows]
        parts.append(Table(tables.RIVALS, columns, named).with_columns({SEED: seed}))
    found = fronts.answers(Table.concat(parts))
    assert set(found.column("answer")) == {"after; replay, step 9 at 0.001"}
