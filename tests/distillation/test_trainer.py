"""A whole distillation: all terms on one clock, books that close, and what cannot be distilled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distillation.pair import TERMS, across, models, texts, trainer
from transformers import TrainerCallback

from crosstune.distillation.trainer import DistillationTrainer
from crosstune.foundation.data import Row, Task
from crosstune.foundation.errors import CheckpointError, DataError, ModelError, SettingsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_all_terms_are_booked_and_every_check_passes(folder: Path, tmp_path: Path) -> None:
    made = trainer(folder, tmp_path / "run", debug_every=2)
    before = copy.deepcopy(made.teacher.state_dict())
    result = made.run()
    rows = result.ledger.rows()
    trained = {(row["step"], row["term"]) for row in rows if row["side"] == "train"}
    entries = {entry.name for entry in made.stage.terms.entries}
    assert {name.split(".")[0] for name in entries} == {*TERMS}
    assert trained == {(step, entry) for step in (1, 2, 3) for entry in entries}
    assert {row["side"] for row in rows} == {"train", "parity", "others"}
    checks = {check.name: check for check in made.findings()}
    assert [name for name, check in checks.items() if check.outcome == "failed"] == []
    assert (
        "20 ratios are 1"
        in checks["the same rows cost the same in training and evaluation"].evidence
    )
    assert all(
        torch.equal(value, before[name]) for name, value in made.teacher.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in made.teacher.parameters())
    told = made.ledger_at(-1)
    assert "step 3 of 3" in told and "contrastive" in told
    assert float(told.rsplit("residual ", 1)[1].split()[0]) < 1e-6
    with pytest.raises(SettingsError, match="`step` must be a step that was taken: 1 to 3"):
        made.ledger_at(4)
    pulls = {(row["step"], row["term"], row["other"]): row for row in made.pulls().rows()}
    assert len(pulls) == 2 * 10 * 10
    assert pulls[2, "kd", "ce"]["cosine"] == pytest.approx(pulls[2, "ce", "kd"]["cosine"])
    assert all(row["cosine"] == pytest.approx(1) for key, row in pulls.items() if key[1] == key[2])


def test_a_task_brings_what_is_held_out(folder: Path, tmp_path: Path) -> None:
    train, test = (
        tuple(Row(f"{at}-{n}", text) for n, text in enumerate(texts(12, seed=at))) for at in (3, 4)
    )
    made = DistillationTrainer(
        *models(folder), Task("stories", train, test), output=str(tmp_path), training={"length": 48}
    )
    assert (len(made.data.train), [*made.data.held_out]) == (12, ["stories"])


class PowerCut(TrainerCallback):  # type: ignore[misc]
    """Stops everything before the third step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_killed_it_goes_on_to_the_same_bits_and_books(folder: Path, tmp_path: Path) -> None:
    def made(place: str, **more: Any) -> DistillationTrainer:
        training = {"checkpoint_every": 1, "steps": 4, **more}
        return trainer(folder, tmp_path / place, curriculum="three-phase", training=training)

    whole = made("whole")
    uninterrupted = whole.run()
    with pytest.raises(KeyboardInterrupt):
        made("cut").run(PowerCut())
    again = made("cut")
    result = again.run()
    assert result.resumed_from == 2
    assert result.ledger.rows() == uninterrupted.ledger.rows()
    for one, other in zip(again.student.parameters(), whole.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.progress.rows == whole.progress.rows
    assert [*map(str, again.findings())] == [*map(str, whole.findings())]
    with pytest.raises(CheckpointError):
        made("cut", steps=5).run()
    another = made("cut")
    another.teacher.get_input_embeddings().weight.data[0] += 1.0
    with pytest.raises(CheckpointError, match="second_model"):
        DistillationTrainer(
            another.student,
            another.teacher,
            another.tokenizer,
            another.data.train,
            held_out={"others": another.data.held_out["others"]},
            settings=another.settings,
        ).run()


def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path) -> None:
    student, teacher, tokenizer = models(folder)
    given: dict[str, Any] = {"output": str(tmp_path), "training": {"length": 48}}
    with pytest.raises(SettingsError, match="second_model` must not share parameters"):
        DistillationTrainer(teacher, teacher, tokenizer, texts(12), **given)
    packed = {"length": 48, "packing": True}
    with pytest.raises(SettingsError, match="`packing` must be off"):
        DistillationTrainer(student, teacher, tokenizer, texts(12), output="x", training=packed)
    with pytest.raises(ModelError, match="`teacher` must be a model; found 'here'"):
        DistillationTrainer(student, "here", tokenizer, texts(12), **given)
    frozen = copy.deepcopy(student).requires_grad_(False)
    with pytest.raises(ModelError, match="`student` must have weights that learn; found none"):
        DistillationTrainer(frozen, teacher, tokenizer, texts(12), **given)
    whole = trainer(folder, tmp_path, terms=("hidden", "attention"), layers=((1, 2), (2, 0)))
    hidden, attention = whole.stage.terms.members
    assert (hidden.sites, attention.layers) == ({1: 2, 2: 0}, {0: 1})
    with pytest.raises(SettingsError, match="`held_out` must be in a StageData"):
        DistillationTrainer(student, teacher, tokenizer, whole.data, held_out={"a": texts(4)})
    with pytest.raises(SettingsError, match="Did you mean `temperature`"):
        DistillationTrainer(student, teacher, tokenizer, texts(12), temprature=2.0, **given)
    student.resize_token_embeddings(len(tokenizer) - 8)
    with pytest.raises(ModelError, match="hold their tokenizers' 512 and 512 tokens; found 504"):
        DistillationTrainer(student, teacher, tokenizer, texts(12), **given)
    student, teacher, tokenizer = models(folder)
    teacher.model.layers[0].register_forward_hook(lambda m, i, o: o + torch.rand(()))
    with pytest.raises(ModelError, match="`teacher` must say the same twice"):
        DistillationTrainer(student, teacher, tokenizer, texts(12), **given)


ACROSS = {"terms": ("spans", "hidden"), "alphas": {"hidden": 1e-3}, "teacher_tokenizer": True}


def test_a_teacher_reads_its_own_tokens_and_what_was_killed_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(place: str) -> DistillationTrainer:
        return trainer(folder, tmp_path / place, training={"checkpoint_every": 1}, **ACROSS)

    whole = made("whole")
    hidden = whole.stage.terms.members[1]
    assert all(max(row.input_ids) < 300 for row in hidden.pilot.rows)  # the teacher's tokens
    result = whole.run()
    assert "100.0% of the scored bytes lie in spans" in capsys.readouterr().err
    assert {row["term"] for row in result.ledger.rows()} == {"spans", "hidden"}
    assert [check for check in whole.findings() if check.outcome == "failed"] == []
    with pytest.raises(KeyboardInterrupt):
        made("cut").run(PowerCut())
    assert made("cut").run().ledger.rows() == result.ledger.rows()


def test_what_another_tokenizer_cannot_have_is_refused(folder: Path, tmp_path: Path) -> None:
    student, teacher, own, other = across(folder)
    models, given = (student, teacher, own), {"output": str(tmp_path)}
    with pytest.raises(ModelError, match="tokenizers' 512 and 512 tokens.*or name the teacher's"):
        DistillationTrainer(*models, texts(12), **given)
    given["teacher_tokenizer"] = other
    with pytest.raises(SettingsError, match="found attention, kd. Learn spans in place of kd"):
        DistillationTrainer(*models, texts(12), **given)
    given["terms"] = ("spans",)
    encoded = trainer(folder, tmp_path).data
    for rows in (encoded, encoded.train):
        with pytest.raises(DataError, match="`rows.* must be"):
            DistillationTrainer(*models, rows, **given)
    with pytest.raises(SettingsError, match="`temperature` must be 1 where spans are a term"):
        DistillationTrainer(*models, texts(12), temperature=2.0, **given)
