"""What a user can get wrong between two models ends with exit code 2, the difference, and no repaired model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tests.studies import small_repair

from crosstune.cli.main import main
from crosstune.foundation.models import load_model
from crosstune.foundation.worlds import embedded_world, random_model

Spoil = Callable[[Path], None]
ROWS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that belong together, `before` and `after`, and rows of two tasks."""
    place = tmp_path_factory.mktemp("pair")
    shutil.copytree(embedded_world().folder, place / "before")
    shutil.copytree(place / "before", place / "after")
    tensors(lambda weights: [value.mul_(1.01) for value in weights.values()])(place / "after")
    for name in ("en", "bn"):
        rows(name, [f"{name} has sentence number {at}" for at in range(ROWS)])(place)
    return place


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    """The weights of a folder after a change."""

    def spoil(place: Path) -> None:
        weights = load_file(place / "model.safetensors")
        change(weights)
        save_file(weights, place / "model.safetensors", {"format": "pt"})

    return spoil


def rows(name: str, texts: list[str]) -> Spoil:
    """A file of rows beside the models."""

    def write(place: Path) -> None:
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")

    return write


def renamed(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.mlp.side_proj.weight"] = weights.pop(
        "model.layers.0.mlp.up_proj.weight"
    )


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")


def halved(weights: dict[str, torch.Tensor]) -> None:
    for name, value in weights.items():
        weights[name] = value.bfloat16()


def other_architecture(place: Path) -> None:
    shutil.rmtree(place)
    random_model("gpt2", place)


def other_tokenizer(place: Path) -> None:
    file = place / "tokenizer.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = told["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(told), encoding="utf-8")


def quantised(place: Path) -> None:
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")


def weight_decomposed(place: Path) -> None:
    shutil.rmtree(place)
    base = load_model(place.parent / "before")
    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    get_peft_model(base, config).save_pretrained(place)


# What is wrong with `after`, and what the message must say.
MODELS: dict[str, tuple[Spoil, str]] = {
    "other architecture": (other_architecture, "model_type"),
    "other tokenizer": (other_tokenizer, "tokenizer"),
    "renamed tensor": (tensors(renamed), "up_proj"),
    "NaN weights": (tensors(not_a_number), "mlp.up_proj.weight` must be finite"),
    "other dtype": (tensors(halved), "bfloat16"),
    "quantised": (quantised, "quantised"),
    "no such model": (shutil.rmtree, "`after` must be"),
    "DoRA": (weight_decomposed, "use_dora"),
}


def repair(folder: Path, *words: str) -> int:
    small = small_repair.values(folder)["repair"]
    said = [f"--repair.{name}={json.dumps(value)}" for name, value in small.items()]
    tasks = ["--task", f"en={folder / 'en.jsonl'}", "--task", f"bn={folder / 'bn.jsonl'}"]
    models = [str(folder / "before"), str(folder / "after")]
    return main(["repair", *models, *tasks, "--output", str(folder / "run"), *said, *words])


def fails_with(words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = capsys.readouterr()
    message = next(line for line in told.err.splitlines() if line.startswith("error: "))
    assert words in message
    assert "; found " in message
    assert told.out == ""
    assert list(folder.glob("run/**/repaired")) == []


@pytest.mark.parametrize("case", MODELS)
def test_models_that_do_not_belong_together_are_refused_with_the_difference(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = MODELS[case]
    shutil.copytree(folder, tmp_path / "case")
    spoil(tmp_path / "case" / "after")
    assert repair(tmp_path / "case") == 2
    fails_with(words, tmp_path / "case", capsys)


BN = [f"bn has sentence number {at}" for at in range(ROWS)]
DATA: dict[str, tuple[Spoil, tuple[str, ...], str]] = {
    "a row of both tasks": (rows("en", [*BN[:1], "another"]), (), "must share no row with another"),
    "one row": (rows("en", ["alone"]), (), "must have rows on both sides"),
    "a limit below after": (rows("en", BN), ("--max_loss", "bn=-0.5"), "must be at least 0"),
    "longer than the model": (
        rows("en", [f"row number {at}" for at in range(ROWS)]),
        ("--repair.length", "5000"),
        "`repair.length` must not exceed what the model can read",
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_rows_and_wishes_that_cannot_be_met_are_refused(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words, message = DATA[case]
    shutil.copytree(folder, tmp_path / "case")
    spoil(tmp_path / "case")
    assert repair(tmp_path / "case", *words) == 2
    fails_with(message, tmp_path / "case", capsys)
