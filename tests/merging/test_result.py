"""A repair answers questions, new ones too, reports every model once, and saves what it picked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.errors import MeasurementError, SettingsError
from crosstune.foundation.models import load_model
from crosstune.merging import api as harness
from crosstune.merging import repair
from crosstune.merging import result as outcome
from crosstune.merging.api import repair_endpoints
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
    assert pick.point.validation["bn"] <= after.validation["bn"] + 0.4
    assert pick.point.validation["en"] < after.validation["en"]
    assert "Limit of 0.4 nats of bn: met on validation rows" in str(pick)


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


def test_test_rows_are_scored_once_for_every_different_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored: list[bytes] = []

    def counted(space: Any, *others: Any) -> Any:
        result = score_at(space, *others)
        weights = [p.detach().numpy().tobytes() for p in space.ends.model.parameters()]
        scored.append(b"".join(weights))
        return result

    monkeypatch.setattr(harness, "score_at", counted)
    monkeypatch.setattr(outcome, "score_at", counted)
    settings = replace(SETTINGS, replay=False, exchange_rates=(0.5, 2.0), budgets=(0.2, 1e6, 2e6))
    found = repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), settings=settings)
    again = found.pick(max_loss={"bn": 0.2 + 1e-12})  # another question, most likely one answer
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


def test_prompts_are_gone_on_with_by_all_three(found: Repair) -> None:
    table = found.generations({"en": ["the cat", "a dog"], "bn": ["ek"]}, new_tokens=3)
    assert table.column("task") == ["en", "en", "bn"]
    assert any(row["before"] != row["after"] for row in table.rows())
    placed = found.place().lm_head.weight.clone()
    found.generations({"en": ["the"]}, new_tokens=1)
    assert torch.equal(found.ends.model.lm_head.weight, placed)


def test_every_method_has_its_cost(found: Repair) -> None:
    rows = {row["method"]: row for row in found.tables["repair_cost"].rows()}
    assert set(rows) == {"straight line", "global", "component", "test rows", "replay"}
    assert all(row["tokens"] > 0 and row["seconds"] > 0 for row in rows.values())
    assert rows["component"]["looks"] > 0 == rows["replay"]["looks"] == rows["test rows"]["looks"]
    assert rows["straight line"]["looks"] == 21
    tokens = sum(row.scored_tokens for task in found.rows.test.values() for row in task)
    assert rows["test rows"]["tokens"] % tokens == 0
    assert rows["test rows"]["tokens"] >= 21 * tokens


def test_what_was_asked_is_picked_before_a_budget_of_the_same_limit(found: Repair) -> None:
    count = len(found.points)
    found.points.append(replace(found.pick().point, kind="budget", limits={}, budget=0.2))
    found.points.insert(2, found.points.pop())
    found.scores.insert(2, found.scores[2])
    assert found.pick().point.kind == "asked"
    assert len(found.points) == count + 1


def test_the_rival_is_drawn_on_test_rows_in_21_models_though_it_was_not_searched() -> None:
    """A sweep may be left out: then the smallest budget is picked."""
    found = searched(baselines=(), exchange_rates=(), budgets=(0.3, 0.1))
    line = found.tables["repair_points"].where(method="global")
    assert line.column("label") == [
        "before",
        *(f"keep {at / 20:g}" for at in range(1, 20)),
        "after",
    ]
    rivals = found.tables["repair_rivals"].where(rival="global")
    assert rivals.column("question") == ["lose ≤ 0.3", "lose ≤ 0.1"]
    count = len(found.points)
    assert found.pick().point.label == "lose ≤ 0.1"
    assert found.pick(max_loss={"bn": 0.3}).point.label == "lose ≤ 0.3"
    assert len(found.points) == count
    assert "keep 0.5" not in found.tables["repair_coefficients"].column("label")


@pytest.fixture(scope="module")
def by_head() -> Repair:
    settings = replace(
        tuned.SMALL,
        granularity=("component", "head"),
        exchange_rates=(1.0,),
        budgets=(),
        penalties=(0.0,),
    )
    return repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), settings=settings)


def test_a_manifest_has_heads_of_a_point_that_sets_them_apart(
    by_head: Repair, tmp_path: Path
) -> None:
    pick = by_head.pick()
    assert pick.point.method == "head"
    saved = json.loads((by_head.save(tmp_path / "kept", pick) / "repair.json").read_text())
    heads, table = saved["heads"], by_head.merge_weights(pick)
    assert heads["kept"] == by_head.head_masks(pick, heads["kept_from"]) == by_head.head_masks(pick)
    for row in table.rows():
        head = max(row["head"], row["kv_head"])
        weights = heads["merge_weights"][row["component"]][row["checkpoint"] - 1]
        assert weights[row["layer"]][head] == row["coefficient"]
    assert sum(len(layer) for of in heads["kept"].values() for layer in of) == len(table)
    listed = {row["where"]: row["coefficient"] for row in saved["coefficients"]}
    assert listed["L1 attn.o head 3"] == pytest.approx(heads["merge_weights"]["attn.o"][0][1][3])
    everything = by_head.head_masks(pick, threshold=0.0)
    assert all(one for of in everything.values() for layer in of for one in layer)


def test_a_manifest_of_components_has_no_heads(by_head: Repair) -> None:
    pick = by_head.pick(method="component")
    manifest: dict[str, Any] = by_head._manifest(pick)
    assert "heads" not in manifest
    assert {row["where"] for row in manifest["coefficients"]} >= {"L0 attn.q", "embed"}
    json.dumps(manifest, allow_nan=False)
    assert set(by_head.merge_weights(pick).where(component="attn.k").column("kv_head")) == {0, 1}


def test_a_manifest_of_an_endpoint_has_no_coefficients_and_no_penalty(by_head: Repair) -> None:
    end = replace(by_head.pick(), point=by_head.points[1])
    manifest = replace(by_head, found=None)._manifest(end)
    assert math.isnan(end.point.penalty)
    assert (manifest["coefficients"], manifest["penalty"]) == ([], None)


def searched(**options: Any) -> Repair:
    settings = replace(tuned.SMALL, evaluations=2, penalties=(0.0,), **options)
    return repair_endpoints(tuned.opened(*tuned.pair()), tuned.split(), settings)


@pytest.fixture(scope="module")
def compared() -> Repair:
    rates, budgets = (0.5, 8.0), (0.1, 0.05)
    granularity = ("layer", "component")
    return searched(granularity=granularity, replay=True, exchange_rates=rates, budgets=budgets)


def test_the_sentences_stand_in_their_order(compared: Repair) -> None:
    said = [statement.text for statement in compared.statements]
    openings = (
        ("The repair with", "Keeping", "The model after"),  # the pick at rate 1
        ("From before to after",),
        ("From before to after",),
        ("At a cost of at most 0.05 nats a learned task",),
        ("Where one nat of the old is worth 1 of the new",),
    )
    assert [text for text, of in zip(said, openings, strict=False) if not text.startswith(of)] == []
    assert all("front of one coefficient per" in text for text in said[5:])
    assert len(said) == 8
    assert [statement.text for statement in compared.statements] == said


def test_every_question_of_every_granularity_has_both_rivals(compared: Repair) -> None:
    rivals = compared.tables["repair_rivals"]
    assert {*rivals.where(rival="replay").column("method")} == {"global", "layer", "component"}
    for method in ("layer", "component"):
        asked = rivals.where(method=method, rival="global").column("question")
        assert {"rate 0.5", "rate 8", "lose ≤ 0.1", "lose ≤ 0.05"} <= {*asked}


def test_no_table_of_a_repair_holds_a_negative_zero(compared: Repair) -> None:
    for table in compared.tables.values():
        if table.name not in ("repair_line", "repair_coefficients"):
            values = [value for row in table.rows() for value in row.values()]
            zeros = [value for value in values if isinstance(value, float) and value == 0]
            assert all(math.copysign(1.0, zero) > 0 for zero in zeros), table.name


def test_a_replays_step_0_is_no_point_of_its_front(compared: Repair) -> None:
    steps = [point.step for point in compared.points if point.kind == "replay"]
    assert steps.count(0) == len(compared.settings.replay_rates)
    (points,) = compared.tables["repair_hypervolume"].where(method="replay").column("points")
    assert points == len(steps) - steps.count(0) + 2


def test_without_labels_a_divergence_is_said_to_have_chosen(tmp_path: Path) -> None:
    found = searched(
        target="checkpoints", learned=("bn",), exchange_rates=(1.0,), max_loss={"bn": 0.2}
    )
    said = [statement.text for statement in found.statements]
    openings = (
        "At a divergence from the checkpoint",
        "Where one nat of the old is worth 1 of the new, in div",
    )
    assert [sum(text.startswith(opening) for text in said) for opening in openings] == [1, 1]
    assert not any(text.startswith("At a cost") for text in said)
    trade_off, limit = found.pick().statements
    assert "by divergence from the checkpoint that knows the task" in trade_off.detail
    assert limit.text.startswith("Asked that bn diverge at most 0.2 nats further than the model")
    assert limit.tone == "info"
    manifest = json.loads((found.save(tmp_path / "kept") / "repair.json").read_text("utf-8"))
    assert manifest["chosen_by"] == "divergence from the checkpoint that knows the task"
