"""Rows of a repair study: what is learned, what chooses and what reports share no meaning; models are found by folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.studies import small_repair

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import CrosstuneError, DataError
from crosstune.foundation.models import save_model
from crosstune.foundation.training.settings import LoraSettings
from crosstune.foundation.worlds import embedded_world
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepare")


def prepared(settings: RepairStudySettings) -> Repair:
    study = Repair(settings)
    study.prepare()
    return study


@pytest.fixture(scope="module")
def study(folder):
    return prepared(small_repair.settings(folder))


def groups(rows):
    return {row.group for row in rows}


def test_three_sides_share_no_meaning_in_any_language(study):
    learned = groups(study.learn)
    chooses = groups(row for task in study.keep.values() for row in task.train)
    reports = groups(row for task in study.keep.values() for row in task.test)
    assert learned and chooses and reports
    assert not learned & chooses and not learned & reports and not chooses & reports


def test_only_the_task_that_is_named_is_learned(folder, study):
    other = prepared(small_repair.settings(folder, learn="en"))
    assert groups(other.learn) == groups(study.learn)
    assert {row.text for row in other.learn}.isdisjoint({row.text for row in study.learn})


def test_a_look_during_the_fine_tune_sees_only_rows_that_choose(study):
    data = study.stage_data()
    for name, task in study.keep.items():
        assert {row.row_id for row in data.held_out[name]} == {row.id for row in task.train}


def test_all_rows_of_two_given_models_choose_or_report(folder):
    pair = small_repair.settings(folder, after="other", before=str(embedded_world().folder))
    study = prepared(pair)
    assert study.learn == ()
    for task in study.keep.values():
        assert len(task.train) + len(task.test) == 80
    more = replace(pair, repair=replace(pair.repair, selection_share=0.9))
    assert len(prepared(more).keep["en"].train) > len(study.keep["en"].train)


def test_a_split_that_the_user_made_is_kept(folder, tmp_path):
    def file(name, numbers):
        path = tmp_path / f"{name}.jsonl"
        lines = [json.dumps({"text": f"{name} sentence {at}"}) for at in numbers]
        path.write_text("\n".join(lines), encoding="utf-8")
        return str(path)

    tasks = tuple(
        TaskSettings(
            name=name,
            source=file(f"{name}-choose", range(5)),
            test_source=file(f"{name}-report", range(7)),
        )
        for name in ("en", "bn")
    )
    pair = small_repair.settings(folder, after="b", before=str(embedded_world().folder))
    keep = prepared(replace(pair, tasks=tasks)).keep
    assert [(len(task.train), len(task.test)) for task in keep.values()] == [(5, 7)] * 2


def test_few_rows_are_told(folder):
    settings = small_repair.settings(folder, repair={"rows": 64, "reported_rows": 200})
    warnings = Repair(settings).prepare()
    assert any("rows that choose, fewer than repair.rows (64)" in said for said in warnings)
    assert any("its intervals are wide" in said for said in warnings)


def test_an_adapter_is_trained_on_over_its_base(folder, study, tmp_path):
    adapter = study.start.load(LoraSettings(rank=2))
    save_model(adapter, study.start.tokenizer, tmp_path / "adapter")
    on = prepared(small_repair.settings(folder, before=str(tmp_path / "adapter")))
    assert on.start.base == study.start.place
    names = {n for n, p in on.start.load().named_parameters() if p.requires_grad}
    assert names == {n for n, p in adapter.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"training": {"length": 5000}}, "training.length"),
        ({"repair": {"length": 5000}}, "repair.length"),
        ({"training": {"batch_rows": 500}}, "training.batch_rows"),
        ({"before": "./nowhere"}, "before"),
    ],
)
def test_the_impossible_is_refused_by_name(folder, changes, argument):
    with pytest.raises(CrosstuneError) as caught:
        Repair(small_repair.settings(folder, **changes)).prepare()
    assert caught.value.argument == argument


def test_rows_that_two_tasks_share_are_refused(folder):
    tasks = [{"name": name, "source": "toy:latin-svo", "rows": 80} for name in ("en", "bn")]
    with pytest.raises(DataError, match="share no row with another task"):
        Repair(small_repair.settings(folder, tasks=tasks)).prepare()


def warnings_of(folder, rows):
    """What a pair is warned of whose tasks hold these records; `rows` maps a name to records and a group field."""
    tasks = []
    for name, (records, group) in rows.items():
        path = folder / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        tasks.append(TaskSettings(name=name, source=str(path), group=group))
    pair = small_repair.settings(folder, after="b", before=str(embedded_world().folder))
    found = Repair(replace(pair, tasks=tuple(tasks))).prepare()
    return [said for said in found if "share" in said]


def parallel(name, count=30):
    return [
        {"id": f"s-{at}", "doc": f"d-{at // 2}", "text": f"{name} sentence {at}"}
        for at in range(count)
    ]


def test_rows_that_may_be_translations_are_told_of(tmp_path):
    three = {"en": (parallel("en"), None), "bn": (parallel("bn", 20), None)}
    (said,) = warnings_of(
        tmp_path, {**three, "ar": ([{"text": f"ar {n}"} for n in range(9)], None)}
    )
    assert said.startswith("Rows of en and bn share 20 ids but no group.")
    assert "`--group id`" in said and "independent" in said


def test_one_task_without_groups_is_enough(tmp_path):
    (said,) = warnings_of(tmp_path, {"en": (parallel("en"), "doc"), "bn": (parallel("bn"), None)})
    assert "share 30 ids" in said


@pytest.mark.parametrize("group", ["id", "doc"])
def test_groups_answer_the_question(tmp_path, group):
    both = {name: (parallel(name), group) for name in ("en", "bn")}
    assert warnings_of(tmp_path, both) == []


def test_where_a_row_stands_is_no_id_of_its_own(tmp_path):
    plain = {name: ([{"text": f"{name} {at}"} for at in range(30)], None) for name in ("en", "bn")}
    assert warnings_of(tmp_path, plain) == []
