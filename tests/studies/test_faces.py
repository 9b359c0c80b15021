"""`crosstune.run` and `crosstune.show`: settings in any form become the study's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import crosstune
from crosstune.foundation.records import Run
from crosstune.foundation.settings import to_yaml
from crosstune.studies import Study, faces
from crosstune.studies.conflict.settings import ConflictSettings


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What studies are started with, instead of starting them."""
    given: list[Any] = []
    monkeypatch.setattr(Study, "run", lambda self, settings, listener: given.append(settings))
    monkeypatch.setattr(Study, "plan", lambda self, settings: given.append(settings))
    return given


def test_settings_may_be_a_value_a_mapping_a_file_or_words(
    handed: list[Any], tmp_path: Path
) -> None:
    value = ConflictSettings(seeds=(3,))
    (tmp_path / "study.yaml").write_text(to_yaml(value), encoding="utf-8")
    crosstune.run("conflict", value)
    crosstune.run("conflict", {"seeds": [3]})
    crosstune.run("conflict", tmp_path / "study.yaml")
    crosstune.run("conflict", str(tmp_path / "study.yaml"), output=value.output)
    crosstune.run("conflict", seeds=(3,))
    faces.plan("conflict", {"seeds": [0]}, seeds=(3,))
    assert handed == [value] * 6


def test_options_are_not_lost_beside_a_value(handed: list[Any]) -> None:
    crosstune.run("conflict", ConflictSettings(seeds=(3,)), workers=2)
    assert handed == [ConflictSettings(seeds=(3,), workers=2)]


def test_show_says_what_the_run_found(finished: Run) -> None:
    said = crosstune.show(finished.folder)
    assert said == crosstune.show(str(finished.folder))
    assert "--all" in said
    whole = crosstune.show(finished.folder, all=True)
    assert "retention" in whole.lower()
    assert "1-en" in whole
