"""What a distillation says of itself while it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.distillation.pair import models, trainer

from crosstune.distillation.progress import ledger_lines
from crosstune.distillation.settings import DistillationSettings
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.training import NextToken, Terms, TrainingSettings
from crosstune.foundation.training.ledger import LossLedger


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_lines_say_step_phase_total_rate_and_what_was_learned(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CROSSTUNE_DEBUG", "1")
    made = trainer(folder, tmp_path, terms=("kd",), training={"steps": 2, "learning_rate": 3e-3})
    made.run()
    told = capsys.readouterr().err
    assert "step 1 of 2 · phase all · ledger total" in told
    assert "LR 1.500e-03" in told
    assert "step 2 · others" in told and "since the start" in told
    table = {row["step"]: row for row in made.progress.table().rows()}
    student = models(folder)[0]
    start = score_rows(student, made.data.held_out["others"], pad_id=made.data.pad_id)
    assert table[0]["bits"] == pytest.approx(start.bits_per_byte.value)
    assert table[0]["more"] == 0.0
    assert table[2]["more"] == pytest.approx(table[2]["bits"] - table[0]["bits"])
    assert table[2]["more_low"] < table[2]["more"] < table[2]["more_high"]


PULLS = [
    {"step": step, "term": one, "other": other, "norm": norm, "cosine": cosine}
    for step in (20, 40, 60)
    for one, other, norm, cosine in (
        ("kd", "kd", 2.0, 1.0),
        ("kd", "hidden", 2.0, -0.25),
        ("hidden", "hidden", 0.5, 1.0),
    )
]


def test_the_account_of_a_step_shows_expected_beside_actual_weight() -> None:
    settings = DistillationSettings(
        terms=("kd", "hidden"), curriculum="three-phase", training=TrainingSettings(steps=100)
    )
    row = {"step": 46, "side": "train", "term": "kd", "raw": 21.2, "weight": 0.7, "weighted": 14.84}
    ledger = LossLedger(Terms([replace(NextToken(), name=name) for name in ("kd", "hidden")]))
    ledger.rows = [row]
    stage: Any = SimpleNamespace(
        ledger=ledger, totals={(46, "train"): 14.84}, chances={"hidden": 1.5}, pulls=PULLS
    )
    told = ledger_lines(stage, settings, 46)
    head, titles, kd, hidden, end, pulls = told.splitlines()
    assert head == "step 46 of 100 (45%), phase features"
    assert titles.split() == [
        "term",
        "alpha",
        "ramp",
        "expected",
        "weight",
        "raw",
        "weighted",
        "share",
    ]
    assert kd.split() == ["kd", "0.7", "1", "0.7", "0.7", "21.2", "14.84", "100.0%"]
    assert hidden.split() == [
        "hidden",
        "0.1",
        "0.5",
        "0.05",
        "0",
        "nan",
        "0",
        "0.0%",
        "chance",
        "1.5",
    ]
    assert pulls == "gradients before step 41: kd 2, hidden 0.5; least cosine -0.25 (kd and hidden)"
    assert end == "sum 14.84, total 14.84, residual 0.0e+00"
