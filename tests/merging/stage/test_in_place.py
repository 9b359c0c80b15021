"""A live model repaired where it is: exact at its endpoints, rounded once, and as trained where the search fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs
from torch import Tensor

from crosstune.foundation.data import collate
from crosstune.foundation.errors import CheckpointError, DataError, MeasurementError
from crosstune.foundation.records import Table
from crosstune.merging.checkpoints.live import at_start
from crosstune.merging.method import Method
from crosstune.merging.points import Point
from crosstune.merging.session import Roles
from crosstune.merging.stage import in_place
from crosstune.merging.stage.in_place import (
    StageRepair,
    repair_in_place,
    repaired_words,
    stage_rows,
    stayed,
)
from crosstune.merging.stage.settings import StageRepairSettings

SETTINGS = StageRepairSettings(rows=6, length=16, folds=2, penalties=(0.0,), evaluations=3)
TASKS = {"en": tiny.rows("en", 6), "bn": tiny.rows("bn", 6, start=500)}


def trained(dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """A model that moved away from one that is better on English and worse on Bengali, and its start."""
    model = tiny.llama(**options).to(dtype)
    before = at_start(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    rows = stage_rows(TASKS, tiny.tokenizer(), SETTINGS)
    for _ in range(6):
        for name, sign in (("bn", 1.0), ("en", -0.3)):
            (sign * model(**collate(rows[name], 0)).loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, before


def repaired(model: Any, before: dict[str, Tensor], **changes: Any) -> Any:
    settings = StageRepairSettings(**(vars(SETTINGS) | changes))
    rows = stage_rows(TASKS, tiny.tokenizer(), settings)
    return repair_in_place(model, before, rows, tiny.tokenizer(), settings)


def state(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def forced(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Let every search end at one coefficient for all."""

    def answer(self: Method, limits: Any, rate: float) -> Point:
        values = torch.full(self.session.space.shape, value, dtype=torch.float64)
        return Point(self.axes.name, "rate", rate=rate, coefficients=values)

    monkeypatch.setattr(Method, "answer", answer)
    monkeypatch.setattr(in_place, "integrate", lambda *_, **__: None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_ends_are_met_exactly_and_between_them_it_is_rounded_once(
    dtype: torch.dtype, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, before = trained(dtype, tied=tied)
    after = state(model)
    forced(monkeypatch, 1.0)
    assert repaired(model, before).words.startswith("The model stays as trained")
    assert all(torch.equal(value, after[name]) for name, value in state(model).items())
    forced(monkeypatch, 0.3)
    outcome = repaired(model, before)
    for name, value in state(model).items():
        wide = torch.lerp(before[name].float(), after[name].float(), 0.3)
        assert torch.equal(value, wide.to(dtype)), name
    assert model.lm_head.weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert outcome.changed
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(after[name])
    forced(monkeypatch, 0.0)
    repaired(model, before)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_what_the_outcome_says_is_what_the_live_model_scores() -> None:
    model, before = trained()
    outcome = repaired(model, before)
    assert outcome.changed
    again = repaired(model, state(model))  # nothing moved since: both ends are the model as it is
    assert again.words == "Nothing to repair: the stage changed no parameter."
    assert again.repaired == pytest.approx(outcome.repaired, abs=1e-12)  # identical arithmetic


def test_gradient_checkpointing_and_accumulated_gradients_are_left_as_they_are() -> None:
    plain, before = trained()
    watched, _ = trained()
    watched.activation_checkpointing_enable({"use_reentrant": False})
    watched.train()
    watched(input_ids=pairs.IDS, labels=pairs.IDS).loss.backward()
    kept = {name: (p.grad, p.grad.clone()) for name, p in watched.named_parameters()}
    one, other = (repaired(model, before) for model in (plain, watched))
    assert one.changed
    assert one.words == other.words
    assert all(torch.equal(v, dict(watched.named_parameters())[n]) for n, v in state(plain).items())
    for name, parameter in watched.named_parameters():
        assert parameter.grad is kept[name][0]
        assert torch.equal(parameter.grad, kept[name][1])
        assert parameter.requires_grad
    assert watched.training


def test_a_search_that_fails_leaves_the_model_as_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    model, before = trained()
    after = state(model)

    def fail(session: Any, steps: int) -> None:
        session.evaluator(torch.zeros(session.space.shape, dtype=torch.float64).numpy())
        raise MeasurementError("keep", law="must be finite", found="NaN", remedy="None.")

    monkeypatch.setattr(in_place, "integrate", fail)
    with pytest.raises(MeasurementError):
        repaired(model, before)
    assert all(torch.equal(value, after[name]) for name, value in state(model).items())


def test_the_start_of_another_model_and_too_few_rows_are_refused() -> None:
    model, before = trained()
    del before["lm_head.weight"]
    with pytest.raises(CheckpointError, match="lm_head.weight is missing"):
        repaired(model, before)
    with pytest.raises(DataError) as caught:
        stage_rows({name: rows[:1] for name, rows in TASKS.items()}, tiny.tokenizer(), SETTINGS)
    assert caught.value.argument == "tasks"


def roles(learned: tuple[str, ...], forgotten: tuple[str, ...]) -> Roles:
    before = {"en": 1.0, "bn": 9.0, "ar": 5.0}
    moves = {**dict.fromkeys(learned, -0.5), **dict.fromkeys(forgotten, 0.5)}
    after = {task: nats + moves.get(task, 0.0) for task, nats in before.items()}
    return Roles(("en", "bn", "ar"), learned, forgotten, before, after)


def test_every_task_has_its_role_and_its_three_losses() -> None:
    found = roles(("bn",), ("en",))
    point, table = (
        Point("component", "rate", rate=1.0),
        Table("t", in_place.STAGE_COEFFICIENTS_COLUMNS),
    )
    outcome = StageRepair("2-bn", point, found, dict(found.before), table, "words", 9, 0.5)
    assert outcome.changed
    rows = outcome.losses.rows()
    assert [row["role"] for row in rows] == ["forgotten", "learned", "neither"]
    assert rows[0] == {
        "stage": "2-bn", "task": "en", "role": "forgotten", "before": 1.0, "after": 1.5,
        "repaired": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("learned", "forgotten", "moved", "words"),
    [
        (("bn",), ("en",), False, "the stage changed no parameter"),
        (("bn",), (), True, r"no task's loss rose on validation rows (en +0, bn -0.5, ar +0)"),
        ((), ("en",), True, "Nothing to keep"),
        (("bn",), ("en", "ar"), True, "no better trade-off was found for en, ar"),
    ],
)
def test_why_a_model_stays_is_said(
    learned: tuple[str, ...], forgotten: tuple[str, ...], moved: bool, words: str
) -> None:
    assert words in stayed(roles(learned, forgotten), moved)


def test_a_repair_gives_the_range_it_kept_and_every_loss() -> None:
    point = Point("layer", "rate", rate=2.0, coefficients=torch.tensor([[0.25, 1.0]]))
    found = roles(("bn",), ("en",))
    words = repaired_words(point, found, {"en": 1.1, "bn": 8.6, "ar": 5.0})
    assert words.startswith("Kept 0.25–1.00 of the changes (layer, rate 2).")
    assert "en 1 → 1.5 → 1.1, bn 9 → 8.5 → 8.6" in words
