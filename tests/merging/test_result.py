"""A repair answers questions, new ones too, reports every model once, and saves what it picked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.errors import MeasurementError, SettingsError
from crosstune.foundation.models import load_model
from crosstune.merging import repair
from crosstune.merging import result as outcome
from crosstune.merging import search as harness
from crosstune.merging.result import Repair
from crosstune.merging.scoring import score_at

SETTINGS = replace(
    tuned.SMALL, max_loss={"bn": 0.2}, replay=True, replay_rates=(1e-3,), penalties=(0.0,)
)


@pytest.fixture(scope="module")
def kept() -> Repair:
    return repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), settings=SETTINGS)


@pytest.fixture
def found(kept: Repair) -> Repair:
    """The same repair with lists of its own, so that no test sees another's questions."""
    return replace(kept, points=list(kept.points), scores=list(kept.scores))


def keyed(found: Repair, name: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by what they are about; a new point changes numbers of points, and may push others off the front."""
    key = ("method", "label", "task", "where", "parameter", "rows", "direction", "checkpoint")
    rows = tuned.cells(found, leave_out=("seconds", "point", "on_front"))[name]
    return {tuple(row.get(part) for part in key) + ((at,) if name == "repair_cost" else ()): row
            for at, row in enumerate(rows)}  # fmt: skip


def test_a_question_of_the_settings_is_answered_by_an_existing_point(found: Repair) -> None:
    count = len(found.points)
    assert found.pick(rate=2.0).point.label == "rate 2"
    assert found.pick(max_loss={"bn": 0.2}).point.label == "asked: bn ≤ 0.2"
    assert found.pick().point is found.pick(max_loss={"bn": 0.2}).point
    assert found.pick(rate=0.5, method="global").point.method == "global"
    assert len(found.points) == count


@pytest.mark.parametrize("question", [{"max_loss": {"bn": 0.4}}, {"rate": 5.0}], ids=str)
def test_a_new_question_adds_one_point_and_changes_nothing_else(
    found: Repair, question: dict[str, Any]
) -> None:
    names = [name for name in found.tables if name != "repair_rivals"]
    before = {name: keyed(found, name) for name in names}
    count = len(found.points)
    pick = found.pick(**question)
    assert len(found.points) == len(found.scores) == count + 1
    assert found.pick(**question).point is pick.point and len(found.points) == count + 1
    for name in names:
        after = keyed(found, name)
        new = {key: row for key, row in after.items() if key not in before[name]}
        assert {key: row for key, row in after.items() if key in before[name]} == before[name], name
        assert {row["label"] for row in new.values()} <= {repr(pick.point.label)}
        assert len(new) == {"repair_points": 1, "repair_tasks": 2}.get(name, len(new))
    assert pick.point.label in found.front.column("label")


def test_a_limit_is_kept_on_the_rows_that_chose(found: Repair) -> None:
    (after,) = (p for p in found.points if p.kind == "after")
    pick = found.pick(max_loss={"bn": 0.4})
    assert pick.point.selection["bn"] <= after.selection["bn"] + 0.4
    assert pick.point.selection["en"] < after.selection["en"]
    assert "Asked to lose at most 0.4 nats of bn" in str(pick)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "both": ({"max_loss": {"bn": 0.1}, "rate": 1.0}, SettingsError, "rate"),
    "an unknown task": ({"max_loss": {"ar": 0.1}}, SettingsError, "max_loss"),
    "what was not searched": ({"method": "tensor"}, SettingsError, "method"),
    "a rate of nothing": ({"rate": 0.0}, SettingsError, "rate"),
    "a rate without end": ({"rate": float("inf")}, SettingsError, "rate"),
    "what cannot be kept": ({"max_loss": {"bn": -50.0}}, MeasurementError, "max_loss"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_question_without_an_answer_is_refused(found: Repair, case: str) -> None:
    question, kind, argument = REFUSED[case]
    count = len(found.points)
    with pytest.raises(kind) as refused:
        found.pick(**question)
    error: Any = refused.value
    assert error.argument == argument and error.law and error.remedy
    assert error.found is not None
    assert len(found.points) == len(found.scores) == count


def test_reported_rows_are_scored_once_for_every_different_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored: list[bytes] = []

    def counted(box: Any, values: torch.Tensor, rows: Any, settings: Any) -> Any:
        result = score_at(box, values, rows, settings)
        weights = [p.detach().numpy().tobytes() for p in box.ends.model.parameters()]
        scored.append(b"".join(weights))
        return result

    monkeypatch.setattr(harness, "score_at", counted)
    monkeypatch.setattr(outcome, "score_at", counted)
    settings = replace(SETTINGS, replay=False, exchange_rates=(0.5, 2.0), budgets=(0.2, 1e6, 2e6))
    found = repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), settings=settings)
    again = found.pick(
        max_loss={"bn": 0.2 + 1e-12}
    )  # another question, most likely the same answer
    assert again.point.label
    assert len(scored) == len(set(scored)) < len(found.points)


def test_what_is_saved_has_the_losses_that_were_reported(found: Repair, tmp_path: Path) -> None:
    pick = found.pick()
    folder = found.save(tmp_path / "kept", pick)
    values = pick.point.coefficients
    assert values is not None and 0.0 < float(values.mean()) < 1.0
    assert torch.equal(load_model(folder).lm_head.weight, found.place(pick).lm_head.weight)
    manifest = json.loads((folder / "repair.json").read_text(encoding="utf-8"))
    assert manifest["asked"] == "asked: bn ≤ 0.2" and manifest["method"] == "component"
    assert len(manifest["coefficients"]) == len(values[0])
    assert [c["coefficient"] for c in manifest["coefficients"]] == values[0].tolist()
    assert set(manifest["rows"]) == {"selection", "reported"}
    assert {row["task"] for row in manifest["trade"]} == {"en", "bn"}
    assert pick.statements[0].text.split(":")[0] in (folder / "README.md").read_text("utf-8")


def test_a_fine_tune_cannot_be_saved_as_a_repair(found: Repair, tmp_path: Path) -> None:
    at = next(at for at, point in enumerate(found.points) if point.kind == "replay")
    with pytest.raises(MeasurementError, match="between the checkpoints"):
        found.save(tmp_path / "kept", found._picked(at))
    assert not (tmp_path / "kept").exists()


def test_the_front_is_of_the_finest_that_was_asked_for(found: Repair) -> None:
    assert found.granularity == "component"
    assert set(found.front.column("method")) == {"component"}
    assert found.front.column("kind") == ["before", "rate", "rate", "budget", "asked", "after"]
    assert set(found.tables["repair_points"].column("method")) == {"component", "global", "replay"}


def test_statements_tell_the_trade_first_and_are_few(found: Repair) -> None:
    texts = [one.text for one in found.statements]
    assert texts[0] == found.pick().statements[0].text
    assert any("the loss of en rose" in text for text in texts) and len(texts) <= 8


def test_prompts_are_gone_on_with_by_all_three(found: Repair) -> None:
    table = found.generations({"en": ["the cat", "a dog"], "bn": ["ek"]}, new_tokens=3)
    assert table.column("task") == ["en", "en", "bn"]
    assert any(row["before"] != row["after"] for row in table.rows())
    placed = found.place().lm_head.weight.clone()
    found.generations({"en": ["the"]}, new_tokens=1)
    assert torch.equal(found.ends.model.lm_head.weight, placed)


def test_the_cost_of_every_method_is_told(found: Repair) -> None:
    rows = {row["method"]: row for row in found.tables["repair_cost"].rows()}
    assert set(rows) == {"global", "component", "replay"}
    assert all(row["tokens"] > 0 and row["seconds"] > 0 for row in rows.values())
    assert rows["component"]["looks"] > 0 == rows["replay"]["looks"]
