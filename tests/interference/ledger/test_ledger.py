"""The ledger as a callback: segments, memory, resuming, refusals, and what it writes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import driven, tiny
from transformers import TrainerCallback

from crosstune.foundation.data import Task
from crosstune.foundation.errors import CheckpointError, LedgerError, MeasurementError
from crosstune.foundation.records import Run
from crosstune.interference import BlockSettings, ForgettingLedger


def steps_of(ledger: ForgettingLedger, task: str = "en") -> list[tuple[int, int]]:
    return [(s.start_step, s.stop_step) for s in ledger.close().of(task).segments]


def numbers(ledger: ForgettingLedger) -> list[Any]:
    """Every figure of an account but its cost."""
    segments = ledger.segments().rows()
    kept = [
        {k: v for k, v in row.items() if k not in {"seconds", "evaluations"}} for row in segments
    ]
    return [kept, ledger.path().rows(), ledger.sites().rows()]


def test_the_last_segment_may_be_short() -> None:
    ledger = driven.followed(tiny.llama(), driven.ledger(every=5))
    assert steps_of(ledger) == [(0, 5), (5, 10), (10, 12)]
    segments = ledger.close().of("en").segments
    for one, following in itertools.pairwise(segments):
        assert following.loss_start == pytest.approx(one.loss_stop, abs=1e-12)  # the same float64


@pytest.mark.parametrize("make", [tiny.llama, tiny.lora])
def test_kept_and_recomputed_gradients_give_equal_bits(make: Any) -> None:
    kept = driven.followed(make(), driven.ledger())
    again = driven.followed(make(), driven.ledger(keep_bytes=0))
    assert numbers(kept) == numbers(again)
    assert kept.close().of("en").evaluations < again.close().of("en").evaluations


def test_the_copy_may_live_beside_the_model() -> None:
    on_cpu = driven.followed(tiny.llama(), driven.ledger())
    beside = driven.followed(tiny.llama(), driven.ledger(copy_device="model"))
    assert numbers(on_cpu) == numbers(beside)


def test_a_task_has_an_account_for_train_and_one_for_test_rows() -> None:
    rows = tiny.rows("en", 48)
    ledger = ForgettingLedger(
        {"en": Task("en", tuple(rows[:24]), tuple(rows[24:]))},
        6,
        blocks=driven.BLOCKS,
        tokenizer=tiny.tokenizer(),
    )
    account = driven.followed(tiny.llama(), ledger).close()
    train, test = account.of("en", "train"), account.of("en", "test")
    assert train.measured != test.measured
    assert {(row["task"], row["side"]) for row in ledger.sites().rows()} == {
        ("en", "train"),
        ("en", "test"),
    }
    with pytest.raises(KeyError):
        account.of("en", "held out")


def saved(folder: Path, step: int = 7) -> driven.Training:
    training = driven.Training(tiny.llama(), driven.ledger()).begin().go_to(step)
    training.callback.save_state(folder)
    return training


def test_a_checkpoint_inside_a_segment_holds_the_weights_at_its_start(tmp_path: Path) -> None:
    inside, between = tmp_path / "inside", tmp_path / "between"
    for folder in (inside, between):
        folder.mkdir()
    saved(inside, 7)
    saved(between, 10)
    sizes = [(folder / "forgetting.safetensors").stat().st_size for folder in (inside, between)]
    numbers_of_model = sum(p.numel() for p in tiny.llama().parameters())
    assert sizes[0] - sizes[1] > 3 * numbers_of_model  # float32 weights, less one more segment


def test_a_checkpoint_of_other_settings_or_another_step_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    other = driven.Training(tiny.llama(), driven.ledger(every=4))
    other.state.global_step = 7
    other.callback.load_state(tmp_path)
    with pytest.raises(CheckpointError, match="another every in the checkpoint"):
        other.begin()
    early = driven.Training(tiny.llama(), driven.ledger())
    early.callback.load_state(tmp_path)
    with pytest.raises(CheckpointError, match=r"step of its checkpoint \(7\).*training at step 0"):
        early.begin()


def test_early_stopping_closes_the_account_before_weights_are_put_back(tmp_path: Path) -> None:
    class StopAtSeven(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            control.should_training_stop = state.global_step >= 7

    class Spoil(TrainerCallback):
        """As restoring the best weights does, between the epoch's end and the training's."""

        def on_epoch_end(
            self, args: Any, state: Any, control: Any, model: Any, **given: Any
        ) -> None:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()

    accounts = []
    for spoilers in ([], [Spoil()]):
        ledger = driven.ledger(every=5, track=False)
        callbacks = [StopAtSeven(), ledger, *spoilers]
        tiny.trainer(tiny.llama(), tmp_path, callbacks, logging_steps=1).train()
        accounts.append(ledger)
    assert steps_of(accounts[0]) == [(0, 5), (5, 7)]
    assert numbers(accounts[0]) == numbers(accounts[1])


def test_the_stock_trainer_hands_over_its_tokenizer_and_gets_scalars_in_its_log(
    tmp_path: Path,
) -> None:
    ledger = ForgettingLedger({"en": tiny.rows("en", 40)}, every=4, blocks=driven.BLOCKS)
    trainer = tiny.trainer(tiny.llama(), tmp_path, [ledger])
    trainer.train()
    logged = [e for e in trainer.state.log_history if "forgetting/en/train" in e]
    assert [entry["step"] for entry in logged] == [4, 8, 12]
    measured = ledger.close().of("en").measured
    assert logged[-1]["forgetting/en/train"] == pytest.approx(measured, abs=1e-9)


@pytest.mark.parametrize("by_head", [False, True])
def test_the_run_folder_holds_the_same_tables(by_head: bool, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "{}", kind="test")
    ledger = driven.followed(tiny.llama(), driven.ledger(run=run, stage="bn", by_head=by_head))
    assert run.has_table("forgetting_heads") == by_head
    for name in ("path", "segments", "totals", "sites", *(["heads"] if by_head else [])):
        assert run.table(f"forgetting_{name}").rows() == getattr(ledger, name)().rows()
    assert {row["stage"] for row in ledger.sites().rows()} == {"bn"}
    assert [event["step"] for event in run.events("forgetting/bn")] == [5, 10, 12]


def test_an_account_that_does_not_close_is_an_error_with_its_segment() -> None:
    ledger = driven.ledger(max_panels=1, absolute=0.0, relative=0.0)
    pattern = r"en \(train rows\), steps 0 to 5.*must close within 0 nats.*residual of .* 1 Simpson"
    with pytest.raises(LedgerError, match=pattern):
        driven.followed(tiny.llama(), ledger)


def test_a_diverged_training_is_named() -> None:
    training = driven.Training(tiny.llama(), driven.ledger()).begin().go_to(3)
    with torch.no_grad():
        training.model.lm_head.weight[0, 0] = float("nan")
    with pytest.raises(MeasurementError, match="NaN or infinity in block 0.*diverged"):
        training.go_to(5)


def test_one_ledger_keeps_one_training() -> None:
    ledger = driven.followed(tiny.llama(), driven.ledger())
    with pytest.raises(MeasurementError, match="must keep the account of one training"):
        driven.Training(tiny.llama(), ledger).begin()


def test_a_ledger_that_followed_nothing_has_no_account() -> None:
    with pytest.raises(MeasurementError, match="must have followed a training"):
        driven.ledger().close()


def test_rows_need_a_tokenizer() -> None:
    ledger = ForgettingLedger({"en": tiny.rows("en", 40)}, blocks=BlockSettings(4, 3, 16))
    with pytest.raises(MeasurementError, match="tokenizer=\\.\\.\\."):
        driven.Training(tiny.llama(), ledger).begin()


def test_a_ledger_that_begins_late_says_so() -> None:
    training = driven.Training(tiny.llama(), driven.ledger())
    training.state.global_step = 3
    with pytest.warns(UserWarning, match="begins at step 3"):
        training.begin()
