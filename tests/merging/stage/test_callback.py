"""Repair at the end of a training: weights change and nothing else, in any trainer, resumed or in several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.interference import tiny
from tests.merging import pairs
from tests.processes import in_two
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from crosstune.foundation.data import collate, encode
from crosstune.foundation.errors import (
    CheckpointError,
    DataError,
    MeasurementError,
    SettingsError,
    UnsupportedError,
)
from crosstune.foundation.records import Run
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.training.checkpoints import Stateful
from crosstune.interference import ForgettingLedger
from crosstune.merging import RepairAtStageEnd

QUICK = {"rows": 12, "length": 16, "folds": 2, "penalties": (0.0, 0.1), "evaluations": 6}


def tasks() -> dict[str, Any]:
    return {"en": tiny.rows("en", 16), "bn": tiny.rows("bn", 16, start=500)}


def at_end(**options: Any) -> RepairAtStageEnd:
    return RepairAtStageEnd(tasks(), **(QUICK | options))


def knowing_english() -> Any:
    """A model that has English to forget."""
    model = tiny.llama()
    encoded = encode(tiny.rows("en", 64), tiny.tokenizer(), 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for number in range(24):
        rows = encoded[8 * (number % 8) :][:8]
        model(**collate(rows, 0)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def english() -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in knowing_english().state_dict().items()}


def fresh(english: dict[str, torch.Tensor], **options: Any) -> Any:
    model = tiny.llama(**options)
    model.load_state_dict(english)
    return model


class LastLook(TrainerCallback):
    """What there was just before the end, to compare with."""

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model = given["model"]
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.flags = [module.training for module in model.modules()]
        self.random = torch.get_rng_state()


def same(one: Any, other: Any) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_end_of_a_stock_training_is_repaired_and_nothing_but_weights_changes(
    english: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = fresh(english, dropout=0.2)
    model.model.norm.weight.requires_grad_(False)
    addresses = {name: p.data_ptr() for name, p in model.named_parameters()}
    run = Run.create(tmp_path / "run", "", kind="test")
    last, callback = LastLook(), RepairAtStageEnd(tasks(), run=run, **QUICK)
    ledger = ForgettingLedger({"en": tiny.rows("en", 8)}, every=4)
    ledger._blocks = type(ledger._blocks)(blocks=2, rows_per_block=2, length=16)
    trainer = tiny.trainer(
        model, tmp_path / "trained", [last, callback, ledger], max_steps=8, learning_rate=2e-2
    )
    trainer.train()

    outcome = callback.outcome
    assert outcome is not None
    assert outcome.changed
    losses = {row["task"]: row for row in outcome.losses.rows()}
    en, bn = losses["en"], losses["bn"]
    assert (en["role"], bn["role"]) == ("forgotten", "learned")
    # Over five seeds 0.4 to 2.1 nats of English are won back, and the sum falls by as much.
    assert max(en["before"], en["repaired"]) < en["after"]
    # The goal at a trade-off weight of 1: no worse in sum than what was trained, nor than going back.
    total = {at: en[at] + bn[at] for at in ("before", "after", "repaired")}
    assert total["repaired"] < min(total["before"], total["after"])
    assert outcome.words.startswith("Kept ")

    # The live weights are the point: before + w (after − before), by each tensor's own coefficient.
    kept = {row["parameter"]: row["coefficient"] for row in outcome.coefficients.rows()}
    for name, value in model.named_parameters():
        if name in kept:
            expected = torch.lerp(english[name], last.weights[name], kept[name])
            assert torch.equal(value, expected), name
    assert torch.equal(model.model.norm.weight, english["model.norm.weight"])
    assert addresses == {name: p.data_ptr() for name, p in model.named_parameters()}
    assert [module.training for module in model.modules()] == last.flags
    assert torch.equal(torch.get_rng_state(), last.random)
    assert all(p.grad is None for p in model.parameters())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    assert run.table("stage_repair").rows() == outcome.losses.rows()
    assert len(run.table("stage_repair_coefficients")) == len(outcome.coefficients) > 0
    # The ledger, which stands after it, accounts for the training and not for the repair.
    assert ledger.close().of("en").measured > 0


def test_nothing_forgotten_leaves_the_model_as_trained(
    english: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model, last = fresh(english), LastLook()
    callback = RepairAtStageEnd(
        {"a": tiny.rows("bn", 8, start=500), "b": tiny.rows("bn", 8, start=520)}, **QUICK
    )
    tiny.trainer(model, tmp_path, [last, callback], max_steps=4).train()
    assert same(last.weights, dict(model.named_parameters()))
    assert callback.outcome is not None
    assert not callback.outcome.changed
    assert callback.outcome.words.startswith("Nothing to repair: no task's loss rose")
    assert len(callback.outcome.coefficients) == 0


class PowerCutError(RuntimeError):
    """The plug is pulled."""


class PowerCut(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 5:
            raise PowerCutError


def stage(folder: Path, english: dict[str, torch.Tensor], callbacks: list[Any]) -> Any:
    model = fresh(english)
    encoded = encode(tiny.rows("bn", 40, start=500), tiny.tokenizer(), 16)
    train_stage(
        model,
        StageData(train=encoded, pad_id=0),
        TrainingSettings(learning_rate=2e-2, steps=16, batch_rows=4, length=16, checkpoint_every=3),
        output_folder=folder,
        callbacks=callbacks,
    )
    return model.state_dict()


def test_a_killed_stage_is_repaired_as_an_uninterrupted_one(
    english: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    whole, dying, resumed = (at_end(tokenizer=tiny.tokenizer()) for _ in range(3))
    assert isinstance(whole, Stateful)
    expected = stage(tmp_path / "whole", english, [whole])
    with pytest.raises(PowerCutError):
        stage(tmp_path / "cut", english, [dying, PowerCut()])
    assert same(stage(tmp_path / "cut", english, [resumed]), expected)
    assert whole.outcome is not None
    assert resumed.outcome is not None
    assert whole.outcome.changed  # wins 0.3 to 2.2 nats over eight seeds
    assert resumed.outcome.words == whole.outcome.words


def test_a_stock_trainer_resumes_too(english: dict[str, torch.Tensor], tmp_path: Path) -> None:
    saving = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole, resumed, lost = fresh(english), fresh(english), fresh(english)
    tiny.trainer(whole, tmp_path, [at_end()], **saving).train()
    checkpoint = tmp_path / "checkpoint-3"
    assert set(load_file(checkpoint / "crosstune/stage_repair/start.safetensors")) == set(english)
    with torch.no_grad():
        resumed.lm_head.weight.zero_()  # the start is in the checkpoint, not in the model
    again = tiny.trainer(resumed, tmp_path, [at_end()], **saving)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert same(whole.state_dict(), resumed.state_dict())
    (checkpoint / "crosstune/stage_repair/start.safetensors").unlink()
    with pytest.raises(CheckpointError, match="weights that the stage started from"):
        tiny.trainer(lost, tmp_path, [at_end()], **saving).train(
            resume_from_checkpoint=str(checkpoint)
        )


def begin(callback: RepairAtStageEnd, model: Any) -> None:
    callback.on_train_begin(
        TrainingArguments("unused", report_to=[], use_cpu=True),
        TrainerState(),
        TrainerControl(),
        model=model,
        processing_class=tiny.tokenizer(),
    )


def test_what_cannot_be_repaired_at_the_end_is_refused_at_the_beginning() -> None:
    used = pairs.adapted(pairs.base(), seed=1)
    with pytest.raises(UnsupportedError, match="fresh adapter"):
        begin(at_end(), used.train())
    for name, parameter in used.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    begin(at_end(), used)  # with an A that stays, B alone says what was learned
    with pytest.raises(UnsupportedError, match="fresh adapter"):
        begin(at_end(granularity="head"), used)
    with pytest.raises(DataError, match="at least two"):
        begin(RepairAtStageEnd({"en": tiny.rows("en", 8)}, **QUICK), tiny.llama())
    with pytest.raises(DataError, match="something to score in each of 2 folds"):
        begin(RepairAtStageEnd({n: rows[:1] for n, rows in tasks().items()}, **QUICK), tiny.llama())
    with pytest.raises(SettingsError, match=r"max_loss.*must name tasks \(en, bn\).*found ar"):
        begin(at_end(max_loss={"ar": 0.1}), tiny.llama())
    with pytest.raises(SettingsError, match="granularty"):
        at_end(granularty="layer")
    callback = at_end()
    with pytest.raises(MeasurementError, match="tokenizer"):
        callback.on_train_begin(None, TrainerState(), None, model=tiny.llama())  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["component", "head"])
def test_a_fresh_adapter_is_repaired_and_its_base_left(
    granularity: str, english: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    targets = ["q_proj", "v_proj", "o_proj", "down_proj"]
    model = pairs.adapted(fresh(english), seed=1, fresh=True, target_modules=targets)
    base = {n: p.clone() for n, p in model.named_parameters() if "lora" not in n}
    last, callback = LastLook(), at_end(max_loss={"bn": 0.3}, granularity=granularity)
    tiny.trainer(model, tmp_path, [last, callback], max_steps=8, learning_rate=3e-2).train()
    now = dict(model.named_parameters())
    assert callback.outcome is not None
    assert callback.outcome.changed
    assert callback.outcome.point.limits == {"bn": 0.3}
    assert same(base, now)
    moved = [name for name in now if not torch.equal(now[name], last.weights[name])]
    assert moved
    turned = (
        "lora_A" if granularity == "head" else "lora_B"
    )  # a head of the output is some of A's columns
    assert all((turned if "o_proj" in name else "lora_B") in name for name in moved)
    assert any("o_proj" in name for name in moved)


def work(number: int, folder: str) -> None:
    save_file(repaired_pair(), f"{folder}/{number}.safetensors")


def repaired_pair() -> dict[str, torch.Tensor]:
    """A model repaired through the callback alone; under several processes its wrapped self has gone backward."""
    model = knowing_english()
    callback = at_end()
    begin(callback, model)
    wrapped: Any = model
    if torch.distributed.is_initialized():
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
    batch = {"input_ids": pairs.IDS, "labels": pairs.IDS}
    wrapped(**batch).loss.backward()
    for parameter in model.parameters():
        parameter.data.add_(parameter.grad, alpha=-0.5)
    kept = {name: p.grad.clone() for name, p in model.named_parameters()}
    callback.on_train_end(None, TrainerState(), None, model=model)  # type: ignore[arg-type]
    assert callback.outcome is not None
    assert callback.outcome.evaluations > 5
    assert same(kept, {name: p.grad for name, p in model.named_parameters()})
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_two_processes_repair_as_one(tmp_path: Path) -> None:
    in_two(work, str(tmp_path))
    first, second = (load_file(tmp_path / f"{number}.safetensors") for number in range(2))
    assert same(first, second)
    one = repaired_pair()
    # Identical arithmetic: tensors too small to be split over threads.
    for name, value in one.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6)
