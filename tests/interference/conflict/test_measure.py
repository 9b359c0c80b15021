"""measure_conflict: a row per pair and site; at one state without a verdict, over checkpoints or a burst with one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny
from transformers import TrainerControl, TrainerState, TrainingArguments

from crosstune.foundation.data import Row, collate, encode
from crosstune.foundation.errors import (
    DataError,
    ModelError,
    SettingsError,
    UnsupportedError,
)
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.interference import ConflictProbe, measure_conflict

SMALL = {"blocks": 8, "rows_per_block": 2, "length": 16}
BURST = {"burst": 8, "every": 2}


def tasks() -> dict[str, list[Row]]:
    return {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24, start=100)}


def test_one_row_for_each_pair_and_site_with_roles() -> None:
    table = measure_conflict(tiny.sure(), tiny.tokenizer(), tasks(), **SMALL)
    assert len(table) == 19  # embed, 2 × (q k v o gate up down norm), last norm, head
    roles = {column.name: (column.role, column.of) for column in table.columns}
    assert roles["layer"] == ("axis", "")
    assert roles["low"] == ("low", "corrected")
    assert roles["inner_high"] == ("high", "inner")
    assert roles["resolved"] == ("mask", "corrected")
    for row in table.rows():
        assert row["blocks"] == 8
        assert row["inner_low"] <= row["inner"] <= row["inner_high"]
        assert abs(row["naive"]) <= 1
        if row["resolved"]:
            assert row["low"] <= row["corrected"] <= row["high"]
            assert row["dissimilarity"] == 1 - row["corrected"]
            assert row["note"] == ""
        else:
            assert math.isnan(row["corrected"])
            assert row["note"] == "below noise floor"
    assert {row["resolved"] for row in table.rows()} == {True, False}


def test_one_state_gives_no_verdict_and_says_why() -> None:
    table = measure_conflict(tiny.sure(), tiny.tokenizer(), tasks(), **SMALL)
    printed = str(table)
    assert "At one state" in printed and "burst=" in printed
    for word in ("conflict", "verdict_", "agree |", "| verdict"):
        assert word not in printed.lower()


def test_few_blocks_give_points_without_intervals() -> None:
    table = measure_conflict(tiny.sure(), tiny.tokenizer(), tasks(), **{**SMALL, "blocks": 4})
    row = next(row for row in table.rows() if row["component"] == "head")
    assert not math.isnan(row["corrected"])
    assert math.isnan(row["low"]) and math.isnan(row["inner_high"])
    assert row["note"] == "too few blocks for an interval"


def test_lora_factors_stand_apart_and_zeros_are_undefined() -> None:
    model = tiny.lora()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()  # as at the first step of every LoRA training
    table = measure_conflict(model, tiny.tokenizer(), tasks(), **SMALL)
    assert {row["factor"] for row in table.rows()} == {"A", "B"}
    for row in table.rows():
        assert "gauge-dependent" in row["note"]
        is_undefined = row["note"].startswith("undefined")
        assert is_undefined == (row["factor"] == "A")
        assert math.isnan(row["corrected"]) or row["factor"] == "B"


@pytest.mark.parametrize("burst", [{}, BURST], ids=["one state", "burst"])
def test_the_model_is_left_as_it_was(burst: dict[str, Any]) -> None:
    model = tiny.llama(dropout=0.3).train()
    model.lm_head.weight.requires_grad_(False)
    model.model.norm.weight.grad = torch.ones(16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    measure_conflict(model, tiny.tokenizer(), tasks(), **burst, **SMALL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name != "lm_head.weight")
        assert (parameter.grad is not None) == (name == "model.norm.weight")


def by_hand(model: Any, rows: list[Row], probe: ConflictProbe, steps: int) -> Iterator[None]:
    """AdamW on all rows at every step, a probe looking on."""
    batch = collate(encode(rows, tiny.tokenizer(), 16), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    args = TrainingArguments("unused", report_to=[], use_cpu=True)
    state, control = TrainerState(max_steps=steps), TrainerControl()
    probe.on_train_begin(args, state, control, model=model)
    yield
    for step in range(1, steps):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state.global_step = step
        probe.on_step_end(args, state, control, model=model)
        yield


def test_a_burst_and_checkpoints_say_what_a_probe_says_of_the_same_states(tmp_path: Path) -> None:
    """A burst that learns all rows of a task at every step takes the path of a loop written here."""
    model, rows = tiny.llama(), tasks()
    learning = {"burst": 8, "every": 2, "learning": "bn", "batch_rows": 24, "learning_rate": 1e-3}
    burst = measure_conflict(model, tiny.tokenizer(), rows, **learning, **SMALL)
    probe = ConflictProbe(rows, every=2, window=4, tokenizer=tiny.tokenizer(), **SMALL)
    folders = []
    for step, _ in enumerate(by_hand(model, rows["bn"], probe, 8)):
        if probe.history.last_step == step:
            folders.append(tmp_path / f"checkpoint-{step}")
            save_model(model, tiny.tokenizer(), folders[-1])
    stored = measure_conflict([str(folder) for folder in folders], None, rows, **SMALL)
    window = probe.agreement_windows
    assert set(window.column("states")) == {4}
    for table in (burst, stored):
        assert table.column("verdict") == window.column("verdict")
        for name in ("inner", "inner_low", "inner_high", "sd_states_inner"):
            expected = window.column(name)
            size = max(map(abs, expected))
            assert table.column(name) == pytest.approx(expected, rel=1e-3, abs=1e-3 * size), name
    assert "4 of 8 states" in str(burst) and "rows a step of bn" in burst.note
    assert "4 checkpoints of one run, checkpoint-0 to" in stored.note


def test_a_burst_depends_on_its_seed_and_rows_alone() -> None:
    model = tiny.llama(dropout=0.3)
    one = measure_conflict(model, tiny.tokenizer(), tasks(), **BURST, **SMALL)
    torch.manual_seed(9)
    mirrored = {name: rows[::-1] for name, rows in tasks().items()}
    same = measure_conflict(model, tiny.tokenizer(), mirrored, **BURST, **SMALL)
    other = measure_conflict(model, tiny.tokenizer(), tasks(), seed=1, **BURST, **SMALL)
    assert same.column("inner") == pytest.approx(one.column("inner"), rel=1e-3)
    assert other.column("inner") != pytest.approx(one.column("inner"), rel=1e-3)
    assert one.column("verdict") == same.column("verdict")


def test_a_burst_gives_the_verdicts() -> None:
    table = measure_conflict(tiny.sure(), tiny.tokenizer(), tasks(), **BURST, **SMALL)
    verdicts = set(table.column("verdict"))
    # So few steps may lie within one oscillation, and every verdict says so.
    assert "below noise floor" in verdicts
    said = {verdict for verdict in verdicts if verdict.startswith("agreement")}
    assert len(said) == 1
    assert said.pop().endswith("steps may lie within one oscillation")
    assert set(table.column("states")) == {4}


def test_checkpoints_that_make_no_run_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / f"checkpoint-{step}" for step in range(4)]
    for folder in folders:
        save_model(tiny.llama(tied=folder.name[-1] == "3"), tiny.tokenizer(), folder)
    with pytest.raises(ModelError, match="checkpoint-3"):
        measure_conflict(folders, None, tasks(), **SMALL)
    for wrong, given in (([], {}), (folders[:3], {}), (folders[:1] * 4, BURST)):
        with pytest.raises(ModelError, match="at least 4 checkpoints of one run"):
            measure_conflict(wrong, None, tasks(), **given, **SMALL)


def nan_model() -> Any:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tasks": {"en": tiny.rows("en", 24)}}, DataError, "at least two"),
        ({"tasks": {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 3)}}, DataError, "bn"),
        ({"blocks": 1}, SettingsError, "at least 2"),
        ({"blocks": "many"}, SettingsError, "auto"),
        ({"block": 4}, SettingsError, "Did you mean `blocks`"),
        ({"components": ("attn.qq",)}, SettingsError, "attn.q"),
        ({"layers": (9,)}, SettingsError, "Choose among 0, 1"),
        ({"level": 95}, SettingsError, "between 0 and 1"),
        ({"tokenizer": None}, ModelError, "tokenizer"),
        ({"burst": 12}, SettingsError, "at least 16"),
        ({"learning": "de"}, SettingsError, "'en' or 'bn'"),
        ({"model": nan_model()}, ModelError, "lm_head"),
        ({"model": torch.nn.Linear(2, 2)}, ModelError, "model"),
    ],
    ids=str,
)
def test_bad_input_is_named(change: dict[str, Any], error: type, words: str) -> None:
    arguments = {"model": tiny.llama(), "tokenizer": tiny.tokenizer(), "tasks": tasks()} | SMALL
    arguments |= change
    model, tokenizer, some = (arguments.pop(name) for name in ("model", "tokenizer", "tasks"))
    with pytest.raises(error, match=words):
        measure_conflict(model, tokenizer, some, **arguments)


def test_quantised_and_reentrant_models_are_refused() -> None:
    quantised = tiny.llama()
    quantised.is_quantized = True
    reentrant = tiny.llama().train()
    reentrant.activation_checkpointing_enable({"use_reentrant": True})
    for model, word in ((quantised, "quantised"), (reentrant, "use_reentrant")):
        with pytest.raises(UnsupportedError, match=word):
            measure_conflict(model, tiny.tokenizer(), tasks(), **SMALL)


def test_real_languages_on_a_real_model(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    languages = {}
    for name in ("en", "bn"):
        lines = (shared / "data" / "languages" / f"{name}.jsonl").read_text("utf-8").splitlines()
        languages[name] = [json.loads(line)["text"] for line in lines[:64]]
    table = measure_conflict(model, tokenizer, languages, blocks=8, rows_per_block=2, length=64)
    assert len(table) == 1 + 5 * 8 + 1  # tied embedding, five layers, last norm
    resolved = [row for row in table.rows() if row["resolved"]]
    assert len(resolved) >= 20
    assert all(-1.5 <= row["corrected"] <= 1.5 for row in resolved)
