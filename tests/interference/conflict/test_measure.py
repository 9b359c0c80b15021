"""measure_conflict: a labelled row per pair and site, from a model in memory or from stored checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny

from crosstune.foundation.data import Row
from crosstune.foundation.errors import (
    DataError,
    ModelError,
    SettingsError,
    UnsupportedError,
)
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.interference import measure_conflict

SMALL = {"blocks": 8, "rows_per_block": 2, "length": 16}


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
            assert "at one state" in row["verdict"]
        else:
            assert math.isnan(row["corrected"])
            assert row["verdict"] == "below noise floor"
    assert {row["resolved"] for row in table.rows()} == {True, False}


def test_few_blocks_give_points_without_intervals() -> None:
    table = measure_conflict(tiny.sure(), tiny.tokenizer(), tasks(), **{**SMALL, "blocks": 4})
    row = next(row for row in table.rows() if row["component"] == "head")
    assert not math.isnan(row["corrected"])
    assert math.isnan(row["low"]) and math.isnan(row["inner_high"])
    assert row["verdict"] == "too few blocks for an interval"


def test_lora_factors_stand_apart_and_zeros_are_undefined() -> None:
    model = tiny.lora()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()  # as at the first step of every LoRA training
    table = measure_conflict(model, tiny.tokenizer(), tasks(), **SMALL)
    assert {row["factor"] for row in table.rows()} == {"A", "B"}
    for row in table.rows():
        assert row["note"].startswith("gauge-dependent")
        is_undefined = row["verdict"].startswith("undefined")
        assert is_undefined == (row["factor"] == "A")
        assert math.isnan(row["corrected"]) or row["factor"] == "B"


def test_the_model_is_left_as_it_was() -> None:
    model = tiny.llama(dropout=0.3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    measure_conflict(model, tiny.tokenizer(), tasks(), **SMALL)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_checkpoints_add_the_axes_of_step(tmp_path: Path) -> None:
    folders = [tmp_path / "checkpoint-10", tmp_path / "checkpoint-20"]
    for seed, folder in enumerate(folders):
        save_model(tiny.llama(seed=seed), tiny.tokenizer(), folder)
    table = measure_conflict([str(folder) for folder in folders], None, tasks(), **SMALL)
    assert sorted(set(table.column("step"))) == [10, 20]
    assert set(table.column("checkpoint")) == {"checkpoint-10", "checkpoint-20"}
    alone = measure_conflict(load_model(folders[1]), tiny.tokenizer(), tasks(), **SMALL)
    stored = table.where(step=20)
    assert stored.column("inner") == pytest.approx(alone.column("inner"))  # identical arithmetic


def test_blocks_are_chosen_once_for_all_checkpoints(tmp_path: Path) -> None:
    folders = [tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"]
    for seed, folder in enumerate(folders):
        save_model(tiny.llama(seed=seed), tiny.tokenizer(), folder)
    options = {**SMALL, "blocks": "auto", "max_blocks": 10, "interval_width": 0.01}
    table = measure_conflict(folders, None, tasks(), **options)
    assert set(table.column("blocks")) == {10}


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
        ({"model": []}, ModelError, "checkpoint"),
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
