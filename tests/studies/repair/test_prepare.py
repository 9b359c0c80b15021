"""Rows of a repair study: what is learned, validated on and tested on shares no meaning; models are found by folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.studies import small_repair

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import CrosstuneError
from crosstune.foundation.models import save_model
from crosstune.foundation.training.settings import LoraSettings
from crosstune.foundation.worlds import embedded_world
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prepare")


@pytest.fixture(scope="module")
def study(folder):
    return prepared(small_repair.settings(folder))


@pytest.fixture(scope="module")
def pair(folder):
    """The settings of two given models; the one after is never opened here."""
    return small_repair.settings(folder, after="b", before=str(embedded_world().folder))


def prepared(settings: RepairStudySettings) -> Repair:
    study = Repair(settings)
    study.prepare()
    return study


def groups(rows):
    return {row.group for row in rows}


def test_three_sides_share_no_meaning_in_any_language(study):
    learned = groups(study.learn)
    validation = groups(row for task in study.keep.values() for row in task.train)
    tested = groups(row for task in study.keep.values() for row in task.test)
    assert learned and validation and tested
    assert not learned & validation and not learned & tested and not validation & tested


def test_only_the_task_that_is_named_is_learned(folder, study):
    other = prepared(small_repair.settings(folder, learn="en"))
    assert groups(other.learn) == groups(study.learn)
    assert {row.text for row in other.learn}.isdisjoint({row.text for row in study.learn})


def test_the_fine_tune_is_evaluated_on_validation_rows_alone(study):
    data = study.stage_data()
    for name, task in study.keep.items():
        assert {row.row_id for row in data.held_out[name]} == {row.id for row in task.train}


def test_all_rows_of_two_given_models_are_for_validation_or_test(pair, study):
    given = prepared(pair)
    assert given.learn == ()
    for task in given.keep.values():
        assert len(task.train) + len(task.test) == 80
    more = prepared(replace(pair, repair=replace(pair.repair, selection_share=0.9)))
    assert len(more.keep["en"].train) > len(given.keep["en"].train)


def lines(path, records) -> str:
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


def test_a_split_that_the_user_made_is_kept(pair, tmp_path):
    def file(name, rows):
        texts = [{"text": f"{name} sentence {at}"} for at in range(rows)]
        return lines(tmp_path / f"{name}.jsonl", texts)

    tasks = tuple(
        TaskSettings(name=name, source=file(f"{name}-own", 5), test_source=file(f"{name}-test", 7))
        for name in ("en", "bn")
    )
    keep = prepared(replace(pair, tasks=tasks)).keep
    assert [(len(task.train), len(task.test)) for task in keep.values()] == [(5, 7)] * 2


def test_few_rows_are_warned_of(folder):
    settings = small_repair.settings(folder, repair={"rows": 64, "reported_rows": 200})
    warnings = Repair(settings).prepare()
    assert any("validation rows, fewer than repair.rows (64)" in said for said in warnings)
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
    with pytest.raises(CrosstuneError, match="share no row with another task"):
        Repair(small_repair.settings(folder, tasks=tasks)).prepare()


@pytest.mark.parametrize(
    ("groups", "shared"),
    [((None, None), True), (("doc", None), True), (("id", "id"), False), (("doc", "doc"), False)],
)
def test_rows_that_may_be_translations_are_warned_of(pair, tmp_path, groups, shared):
    def rows(name, group):
        given = [{"id": f"s-{n}", "doc": f"d-{n // 2}", "text": f"{name} {n}"} for n in range(30)]
        source = lines(tmp_path / f"{name}.jsonl", given)
        return TaskSettings(name=name, source=source, group=group)

    def placed(name):  # where a row stands in its file is no id of its own
        source = lines(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(30)])
        return TaskSettings(name=name, source=source)

    both = map(rows, ("en", "bn"), groups)
    asked = replace(pair, tasks=(*both, placed("ar"), placed("fr")))
    found = [text for text in Repair(asked).prepare() if "share" in text]
    assert len(found) == shared
    said = "Rows of en and bn share 30 ids but no group."
    assert all(text.startswith(said) and "`--group id`" in text for text in found)
