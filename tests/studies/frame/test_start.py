"""The model that a study starts from: whole or an adapter, fresh each time, and named by the user's word in errors."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.studies import small_study

from crosstune.foundation.data import Row
from crosstune.foundation.errors import CrosstuneError, ModelError
from crosstune.foundation.training import LoraSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame import start
from crosstune.studies.frame.start import StartModel


@pytest.fixture(scope="module")
def whole(study_folder: Path) -> StartModel:
    return StartModel(ConflictSettings(model=small_study.model(study_folder)), "model")


def test_every_copy_is_fresh(whole: StartModel) -> None:
    first, second = whole.load(), whole.load()
    weight = next(first.parameters())
    expected = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    assert torch.equal(next(second.parameters()), expected)
    assert whole.base == whole.place
    assert whole.config.max_position_embeddings == 256


def test_an_adapter_is_put_on_the_model_it_belongs_to(whole: StartModel, tmp_path: Path) -> None:
    whole.load(LoraSettings(rank=2), seed=3).save_pretrained(tmp_path / "adapter")
    opened = StartModel(whole.settings, "model", str(tmp_path / "adapter"))
    assert (opened.base, opened.place) == (whole.place, str(tmp_path / "adapter"))
    kept = {n: p for n, p in opened.load().named_parameters() if p.requires_grad}
    again = dict(whole.load(LoraSettings(rank=2), seed=3).named_parameters())
    other = dict(whole.load(LoraSettings(rank=2), seed=4).named_parameters())
    assert kept and all("lora" in name for name in kept)
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert not all(torch.equal(kept[name], other[name]) for name in kept)


def test_rows_are_encoded_for_a_training(whole: StartModel) -> None:
    rows = [Row(id=f"{at}", text="a row that is longer than that", group="") for at in range(2)]
    data = whole.stage_data(rows, {"held": rows[:1]}, 8)
    assert [row.row_id for row in data.train] == ["0", "1"]
    assert len(data.held_out["held"]) == 1
    assert data.pad_id == whole.pad_id
    assert data.tokenizer
    assert len(whole.stage_data(rows, {}, 8, windows=True).train) > 2


def test_a_model_that_is_not_there_is_named_by_its_setting() -> None:
    start = StartModel(ConflictSettings(), "model", "./nowhere")
    for what in ("config", "tokenizer"):
        with pytest.raises(CrosstuneError) as caught:
            getattr(start, what)
        assert caught.value.argument == "model"
    with pytest.raises(CrosstuneError) as caught:
        start.load()
    assert caught.value.argument == "model"


def test_the_first_process_alone_makes_the_embedded_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class World:
        folder = tmp_path / "model"

    monkeypatch.setattr(start, "embedded_world", lambda: calls.append("world") or World())
    monkeypatch.setattr(start.ranks, "wait_for_all", lambda: calls.append("wait"))
    for is_first, order in ((True, ["world", "wait"]), (False, ["wait", "world"])):
        calls.clear()
        monkeypatch.setattr(start.ranks, "is_first", lambda answer=is_first: answer)
        assert start.find_model(EMBEDDED) == str(World.folder)
        assert calls == order


def test_any_other_name_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "embedded_world", lambda: pytest.fail("not asked for"))
    assert start.find_model("gpt2") == "gpt2"


@pytest.mark.parametrize("there", [True, False])
def test_a_device_is_found_only_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert start.find_device("auto") == ("cuda" if there else "cpu")
    assert start.find_device("mps") == "mps"


def test_rows_longer_than_the_model_are_refused() -> None:
    config = SimpleNamespace(max_position_embeddings=16)
    start.check_length("repair.length", 16, config, windows="windows")
    start.check_length("repair.length", 99, SimpleNamespace(), windows="windows")
    with pytest.raises(
        ModelError, match=r"`repair.length` must not exceed .*\(16 tokens\)"
    ) as caught:
        start.check_length("repair.length", 17, config, windows="a.windows")
    assert "`a.windows: true`" in caught.value.remedy
