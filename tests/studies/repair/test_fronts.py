"""Fronts over seeds: means and intervals as the study's one rule makes them, and points that answer the same together."""

from __future__ import annotations

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Table
from crosstune.merging import tables
from crosstune.studies.frame.over_seeds import SEED, SeedMean
from crosstune.studies.repair import fronts


def changed(make, change, *seeds, **where) -> Table:
    """A table of all seeds, whose rows are changed seed by seed."""
    parts = []
    for seed in seeds:
        table = make(seed).where(**where)
        rows = [change(row, seed) for row in table.rows()]
        parts.append(Table(table.name, table.columns, rows).with_columns({SEED: seed}))
    return Table.concat(parts)


def test_a_point_is_the_mean_over_seeds_with_its_interval():
    here = {"method": "component", "label": "rate 1"}
    (row,) = fronts.front(told.over(told.points, 0, 7)).where(points="every point", **here).rows()
    seeds = told.over(told.points, 0, 7, **here).rows()
    for name in ("old", "new", "regained", "paid"):
        mean = SeedMean.of(seeds, name)
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (
            mean.value,
            mean.low,
            mean.high,
        )
    assert (row["seeds"], row["n"], row["n_unit"], row["kind"]) == (2, 40, "rows", "rate")


def test_one_seed_keeps_its_rows_interval():
    (row,) = fronts.fronts(told.over(told.hypervolume, 0)).where(method="component").rows()
    assert (row["value"], row["value_low"], row["value_high"]) == pytest.approx((0.7, 0.6, 0.8))
    assert (row["over_global"], row["points"], row["seeds"]) == (0.4, 3, 1)


def test_every_point_is_there_once_with_and_once_without_before():
    table = fronts.front(told.over(told.points, 0, 7))
    spans = {span: table.where(points=span) for span in (fronts.EVERY, fronts.NEAR_AFTER)}
    assert len(spans[fronts.EVERY]) == 3 * len(told.METHODS)
    assert len(spans[fronts.NEAR_AFTER]) == 2 * len(told.METHODS)
    assert "before" not in spans[fronts.NEAR_AFTER].column("kind")
    assert table.column("points")[0] == fronts.NEAR_AFTER


def test_a_replay_is_one_point_though_its_steps_differ_from_seed_to_seed():
    def at_step(row, step):
        return {**row, "label": row["label"].replace("step 9", f"step {step}")}

    table = fronts.front(changed(told.points, at_step, 9, 11, method="replay"))
    replayed = table.where(points=fronts.EVERY)
    assert replayed.column("label") == ["before", "replay, stop 0 at 0.001", "after"]
    assert set(replayed.column("seeds")) == {2}


def test_a_task_has_the_role_that_most_seeds_gave_it():
    def given(row, seed):
        return {**row, "role": "learned" if seed == 1 else "forgotten"}

    found = fronts.by_task(changed(told.tasks, given, 0, 1, 2, task="en"))
    assert set(found.column("role")) == {"forgotten"}
    assert found.where(method="global").column("point") == [0, 1, 2]


def test_a_task_is_forgotten_that_was_so_at_any_seed():
    def given(row, seed):
        return {**row, "role": "forgotten" if (row["task"], seed) == ("en", 1) else "learned"}

    assert fronts.forgotten(changed(told.tasks, given, 0, 1)) == ("en",)


def test_the_front_of_a_method_is_judged_on_the_validation_rows():
    losses = {"before": (1.0, 9.0), "rate 1": (2.0, 3.0), "rate 2": (2.5, 3.5), "after": (3.0, 2.0)}
    rows = (
        {"method": "layer", "label": label, "selection_old": old, "selection_new": new, "n": 9}
        for label, (old, new) in losses.items()
    )
    given = told.table(tables.POINTS, tables.POINTS_COLUMNS, rows).with_columns({SEED: 0})
    whole = fronts.front(given).where(points=fronts.EVERY)
    found = dict(zip(whole.column("label"), whole.column("front"), strict=True))
    assert found == {"before": "layer", "rate 1": "layer", "rate 2": "", "after": "layer"}


def test_answers_to_the_same_question_are_means_over_seeds():
    given = told.over(told.rivals, 0, 7, method="component", rival="global")
    rows = fronts.answers(given).rows()
    assert [row["question"] for row in rows] == ["lose ≤ 0.1", "rate 1"]
    for row in rows:
        assert row["more_regained"] == pytest.approx(0.4)
        assert row["regained"] == pytest.approx(1.4 + 0.035)
        assert row["regained_low"] < row["regained"] < row["regained_high"]
        assert row["seeds"] == 2


def test_the_line_near_after_ends_with_its_first_point_that_is_dearer_than_all_others():
    losses = {"rate 1": ("rate", 3.0), "keep 0.9": ("line", 2.5), "keep 0.2": ("line", 5.0)}
    losses |= {"keep 0.1": ("line", 7.0)}
    losses |= {"before": ("before", 9.0), "after": ("after", 2.0)}
    rows = (
        {"method": "global", "label": label, "kind": kind, "new": new, "n": 9}
        for label, (kind, new) in losses.items()
    )
    given = told.table(tables.POINTS, tables.POINTS_COLUMNS, rows).with_columns({SEED: 0})
    near = fronts.front(given).where(points=fronts.NEAR_AFTER)
    assert near.column("label") == ["rate 1", "keep 0.9", "keep 0.2", "after"]
