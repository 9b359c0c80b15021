"""The probe in real trainers: which states it sees, what it writes, and that a resume changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from datasets import Dataset
from safetensors.torch import load_file, save_file
from tests.interference import tiny
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from trl import SFTConfig, SFTTrainer

from crosstune.foundation.errors import (
    CheckpointError,
    DataError,
    MeasurementError,
    ModelError,
    SettingsError,
)
from crosstune.foundation.records import Run
from crosstune.interference import ConflictProbe

# Of the seeds the first whose probes begin at the beginning of their stretches: at steps 0, 3 and 6.
PROBE = {"every": 3, "burst": 2, "window": 2, "seed": 3}
PROBE |= {"blocks": 8, "rows_per_block": 1, "length": 16}
STEPS = {"max_steps": 7, "logging_steps": 100}


def tasks() -> dict[str, Any]:
    return {"en": tiny.rows("en", 8), "bn": tiny.rows("bn", 8, start=100)}


def trained(folder: Path, probe: ConflictProbe, model: Any = None, **arguments: Any) -> Any:
    trainer = tiny.trainer(model or tiny.llama(), folder, [probe], **(STEPS | arguments))
    trainer.train()
    return trainer


class FakeTracker(TrainerCallback):
    received: ClassVar[list[tuple[int, str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.received.extend(
            (state.global_step, key, value) for key, value in logs.items() if "conflict/" in key
        )


def test_states_windows_scalars_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "fake", FakeTracker)
    monkeypatch.setattr(FakeTracker, "received", [])
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    probe = ConflictProbe(tasks(), run=run, stage="bn", **PROBE)
    trainer = trained(tmp_path, probe, report_to=["fake"])
    assert [state.step for state in probe.history.states] == [0, 1, 3, 4, 6, 7]
    windows = probe.agreement_windows
    spans = sorted(set(zip(windows.column("start_step"), windows.column("stop_step"), strict=True)))
    assert spans == [(0, 4), (6, 7)]
    assert set(windows.column("states")) == {4, 2}
    assert set(windows.column("reference")) == {"current"}
    # What was written while training is what the history says at its end.
    for name in ("agreement_states", "agreement_windows", "peaks", "movement"):
        assert run.table(name).csv() == getattr(probe, name).csv(), name
    assert probe.movement.column("verdict") == ["too few"]
    # Each key arrived once at each probe, at the last state of its burst, also in the log history.
    arrived = [(step, key) for step, key, _ in FakeTracker.received]
    assert len(arrived) == len(set(arrived))
    assert {step for step, _ in arrived} == {1, 4, 7}
    logged = [
        entry for entry in trainer.state.log_history if "conflict/en-bn/resolved_share" in entry
    ]
    assert [entry["step"] for entry in logged] == [1, 4, 7]
    assert sum(len(entry) - 2 for entry in logged) == len(arrived)


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 6


@pytest.mark.parametrize("stopped", [False, True], ids=["at the last step", "before it"])
def test_a_burst_cut_short_is_told_and_not_judged(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "fake", FakeTracker)
    monkeypatch.setattr(FakeTracker, "received", [])
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    probe = ConflictProbe(tasks(), run=run, **PROBE)
    steps = STEPS | {"max_steps": 7 if stopped else 6, "report_to": ["fake"]}
    trainer = tiny.trainer(tiny.llama(), tmp_path, [probe, Stop()], **steps)
    trainer.train()
    assert sorted({step for step, _, _ in FakeTracker.received}) == [1, 4, 6]
    assert max(run.table("agreement_states").column("step")) == 6
    assert max(run.table("agreement_windows").column("stop_step")) == 4
    assert probe.movement.column("probes") == [2]


def test_sft_trainer_of_trl(tmp_path: Path) -> None:
    probe = ConflictProbe(tasks(), **PROBE)
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = "<s>"  # TRL ends every text with it
    trainer = SFTTrainer(
        model=tiny.llama(),
        args=SFTConfig(
            output_dir=str(tmp_path),
            max_steps=3,
            report_to=[],
            use_cpu=True,
            bf16=False,
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": False},
            disable_tqdm=True,
            save_strategy="no",
            max_length=16,
            per_device_train_batch_size=4,
        ),
        train_dataset=Dataset.from_dict(
            {"text": [row.text for row in tiny.rows("bn", 32, start=500)]}
        ),
        processing_class=tokenizer,
        callbacks=[probe],
    )
    trainer.train()
    assert [state.step for state in probe.history.states] == [0, 1, 3]
    assert len(probe.agreement_states) == 3 * 19


@pytest.mark.parametrize("reference", ["current", "frozen"])
def test_a_resumed_training_has_the_same_history(reference: str, tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = ConflictProbe(tasks(), reference=reference, **PROBE)
    trained(tmp_path, whole, **saving)
    resumed = ConflictProbe(tasks(), reference=reference, **PROBE)
    trainer = tiny.trainer(tiny.llama(seed=5), tmp_path, [resumed], **(STEPS | saving))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for name in ("agreement_states", "agreement_windows", "peaks", "movement"):
        assert getattr(whole, name).csv() == getattr(resumed, name).csv(), name


def test_a_frozen_reference_is_drawn_beside_the_current_one(tmp_path: Path) -> None:
    probe = ConflictProbe(tasks(), reference="frozen", **PROBE)
    trained(tmp_path, probe)
    states = probe.agreement_states
    first, last = states.where(step=0), states.where(step=7)
    for table, is_same in ((first, True), (last, False)):
        current, frozen = (table.where(reference=name) for name in ("current", "frozen"))
        assert len(current) == len(frozen) == 19
        assert (current.column("inner") == frozen.column("inner")) is is_same
        assert current.column("norm_b") == frozen.column("norm_b")
    assert last.where(reference="frozen").column("norm_a") == first.column("norm_a")[:19]


def test_another_probes_history_is_refused(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    trained(tmp_path, ConflictProbe(tasks(), **PROBE), **saving)
    other = ConflictProbe(tasks(), **(PROBE | {"seed": 1, "every": 2}))
    trainer = tiny.trainer(tiny.llama(), tmp_path, [other], **(STEPS | saving))
    with pytest.raises(CheckpointError, match="same settings"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


def test_a_checkpoint_without_history_is_said(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    tiny.trainer(tiny.llama(), tmp_path, [], **(STEPS | saving)).train()
    for reference in ("current", "frozen"):
        probe = ConflictProbe(tasks(), reference=reference, **PROBE)
        trainer = tiny.trainer(tiny.llama(), tmp_path, [probe], **(STEPS | saving))
        if reference == "frozen":
            with pytest.raises(CheckpointError, match="first gradients"):
                trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
        else:
            with pytest.warns(UserWarning, match="begins at step 4"):
                trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
            assert [state.step for state in probe.history.states] == [4, 6, 7]


def test_a_second_training_begins_anew(tmp_path: Path) -> None:
    probe = ConflictProbe(tasks(), **PROBE)
    trained(tmp_path / "one", probe, max_steps=1)
    trained(tmp_path / "two", probe, max_steps=3)
    assert [state.step for state in probe.history.states] == [0, 1, 3]


def test_a_half_written_history_is_refused(tmp_path: Path) -> None:
    probe = ConflictProbe(tasks(), **PROBE)
    trained(tmp_path, probe, max_steps=1)
    probe.save_state(tmp_path)
    tensors = load_file(tmp_path / "states.safetensors")
    save_file(dict(list(tensors.items())[:-1]), tmp_path / "states.safetensors")
    with pytest.raises(CheckpointError, match="states.safetensors"):
        ConflictProbe(tasks(), **PROBE).load_state(tmp_path)


def test_bad_settings_are_refused_when_the_probe_is_made() -> None:
    with pytest.raises(DataError, match="at least two"):
        ConflictProbe({"en": tiny.rows("en", 8)})
    with pytest.raises(SettingsError, match="Did you mean `every`"):
        ConflictProbe(tasks(), evry=10)
    with pytest.raises(SettingsError, match="'current' or 'frozen'"):
        ConflictProbe(tasks(), reference="stale")
    with pytest.raises(SettingsError, match="at least 1"):
        ConflictProbe(tasks(), every=0)


def test_without_a_tokenizer_there_are_no_rows(tmp_path: Path) -> None:
    trainer = tiny.trainer(tiny.llama(), tmp_path, [ConflictProbe(tasks(), **PROBE)], **STEPS)
    trainer.callback_handler.processing_class = None
    with pytest.raises(ModelError, match="tokenizer"):
        trainer.train()


def test_before_training_there_is_nothing_to_read() -> None:
    with pytest.raises(MeasurementError, match="no training yet"):
        _ = ConflictProbe(tasks()).agreement_states
