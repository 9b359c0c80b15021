"""Where a study's model is and lives: the embedded one is made by one process, and too long rows are refused by name."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from crosstune.foundation.errors import ModelError
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame import models


def test_the_first_process_alone_makes_the_embedded_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class World:
        folder = tmp_path / "model"

    monkeypatch.setattr(models, "embedded_world", lambda: calls.append("world") or World())
    monkeypatch.setattr(models.ranks, "wait_for_all", lambda: calls.append("wait"))
    for is_first, order in ((True, ["world", "wait"]), (False, ["wait", "world"])):
        calls.clear()
        monkeypatch.setattr(models.ranks, "is_first", lambda answer=is_first: answer)
        assert models.find_model(EMBEDDED) == str(World.folder)
        assert calls == order


def test_any_other_name_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "embedded_world", lambda: pytest.fail("not asked for"))
    assert models.find_model("gpt2") == "gpt2"


@pytest.mark.parametrize("there", [True, False])
def test_a_device_is_found_only_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert models.find_device("auto") == ("cuda" if there else "cpu")
    assert models.find_device("mps") == "mps"


def test_rows_longer_than_the_model_are_refused() -> None:
    config = SimpleNamespace(max_position_embeddings=16)
    models.check_length("repair.length", 16, config, windows="windows")
    models.check_length("repair.length", 99, SimpleNamespace(), windows="windows")
    with pytest.raises(
        ModelError, match=r"`repair.length` must not exceed .*\(16 tokens\)"
    ) as caught:
        models.check_length("repair.length", 17, config, windows="a.windows")
    assert "`a.windows: true`" in caught.value.remedy
