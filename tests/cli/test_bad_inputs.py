"""What a user can get wrong ends with exit code 2, a sentence that names it, and nothing lost or in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file
from tests.studies import small_study
from transformers import BertConfig, BertModel

import crosstune
from crosstune.cli.main import main
from crosstune.foundation.errors import CrosstuneError, SettingsError

Values = dict[str, Any]
Change = Callable[[Values, Path], None]
LINE = '{"text": "a row with some words"}\n'


def nested(**groups: Any) -> Change:
    """Settings that are put over the good ones; a mapping goes into its group."""

    def change(values: Values, folder: Path) -> None:
        for name, value in groups.items():
            if isinstance(value, dict) and isinstance(values.get(name), dict):
                values[name] |= value
            else:
                values[name] = value

    return change


def rows(name: str, content: str | bytes, **settings: Any) -> Change:
    """The first task reads a file with this content."""

    def change(values: Values, folder: Path) -> None:
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
        values["tasks"][0] = {"name": "en", "source": str(folder / name), **settings}

    return change


def task(**settings: Any) -> Change:
    """The first task with other settings."""

    def change(values: Values, folder: Path) -> None:
        values["tasks"][0] |= settings

    return change


def texts(count: int) -> str:
    return "".join(json.dumps({"text": f"sentence number {at} here"}) + "\n" for at in range(count))


def overlapping(values: Values, folder: Path) -> None:
    rows("train.jsonl", texts(9))(values, folder)
    (folder / "test.jsonl").write_text(texts(2), encoding="utf-8")
    values["tasks"][0]["test_source"] = str(folder / "test.jsonl")


def of_model(spoil: Callable[[Path], None]) -> Change:
    """The model is a spoilt copy."""

    def change(values: Values, folder: Path) -> None:
        place = folder / "spoilt"
        shutil.copytree(values["model"], place)
        spoil(place)
        values["model"] = str(place)

    return change


def with_nan(place: Path) -> None:
    weights = load_file(place / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, place / "model.safetensors", {"format": "pt"})


def cut_off(place: Path) -> None:
    whole = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def bert(place: Path) -> None:
    (place / "model.safetensors").unlink()
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(vocab_size=50, intermediate_size=8, **shape)).save_pretrained(place)


def own_code(place: Path) -> None:
    config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.MineConfig"}}
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")


def foreign(values: Values, folder: Path) -> None:
    Path(values["output"]).mkdir()
    (Path(values["output"]) / "thesis.tex").write_text("precious", encoding="utf-8")


def taken(values: Values, folder: Path) -> None:
    Path(values["output"]).write_text("precious", encoding="utf-8")


# name: (what is wrong, what the message must say); the settings are otherwise good
CASES: dict[str, tuple[Change, str]] = {
    "missing text field": (rows("a.jsonl", '{"txt": "a"}\n'), "'text', which `text` names"),
    "missing file": (task(source="./nowhere.jsonl"), "nowhere.jsonl'` must exist"),
    "one row": (rows("a.jsonl", LINE), "`tasks['en']` must have rows on both sides"),
    "fewer rows than a batch": (
        nested(training={"batch_rows": 64}),
        "`training.batch_rows` needs at least 64 training rows of every task",
    ),
    "splits that overlap": (overlapping, "share the text"),
    "unknown toy language": (task(source="toy:klingon-svo"), "klingon"),
    "one task": (lambda values, folder: values["tasks"].pop(), "`tasks` must be at least two"),
    "duplicate task names": (task(name="bn"), "`tasks` must have different names; found bn"),
    "task name that is a path": (task(name="../en"), "`tasks[0].name` must be"),
    "task name that is markup": (task(name="<script>alert(1)</script>"), "`tasks[0].name` must be"),
    "task without a name": (task(name=""), "`tasks[0].name` must not be empty"),
    "unknown stage": (nested(stages=["en", "fr"]), "`stages` must name tasks (en, bn); found fr"),
    "stage twice": (nested(stages=["en", "en"]), "`stages` must name each task once"),
    "unknown reference": (nested(references=["fr"]), "`references` must name tasks"),
    "duplicate seeds": (nested(seeds=[1, 1]), "`seeds` must differ"),
    "negative seed": (nested(seeds=[-1]), "`seeds` must not be negative"),
    "unknown key": (nested(seedz=[1]), "Did you mean `seeds`?"),
    "unknown key in a list": (task(sorce="x"), "Did you mean `tasks[0].source`?"),
    "wrong type": (nested(training={"steps": "many"}), "`training.steps` must be a whole number"),
    "no steps": (nested(training={"steps": 0}), "`training.steps` must be at least 1"),
    "law in an optional group": (
        nested(training={"lora": {"dropout": 1.0}}),
        "`training.lora.dropout` must lie in [0, 1)",
    ),
    "one block": (nested(blocks={"blocks": 1}), "`blocks.blocks` must be at least 2"),
    "level of the ledger": (nested(ledger={"level": 2.0}), "`ledger.level` must lie between"),
    "device that is not there": (nested(device="toaster"), "`device` must be a device"),
    "device with a number": (nested(device="cuda:7"), "`device` must be a kind of device"),
    "output with other files": (foreign, "`output` must be a new or empty folder"),
    "output that is a file": (taken, "`output` must be a folder that can be made and written"),
    "longer than the model": (
        nested(training={"length": 5000}),
        "`training.length` must not exceed what the model can read (256 tokens)",
    ),
    "no such model": (nested(model="./nowhere"), "`model` must be an existing folder or a hub id"),
    "no config": (of_model(lambda place: (place / "config.json").unlink()), "`model` must be a"),
    "no decoder": (of_model(bert), "`model` must be a decoder with a language-model head"),
    "code of its own": (of_model(own_code), "trust_remote_code"),
    # From here on the model is loaded, and the run folder is there.
    "NaN weights": (of_model(with_nan), "layers.1.mlp.up_proj.weight` must be finite"),
    "half a model": (of_model(cut_off), "`model` must be readable"),
    "more blocks than rows": (
        nested(blocks={"blocks": 99}),
        "`tasks['en']` must fill 99 blocks",
    ),
    "more probe blocks": (nested(probe={"blocks": 99}), "`tasks['en']` must fill 99 blocks"),
    "unknown component": (nested(probe={"components": ["attn.z"]}), "`components` must be"),
    "unknown layer": (nested(probe={"layers": [7]}), "`layers` must be"),
    "unknown LoRA module": (
        nested(training={"lora": {"targets": ["nix"]}}),
        "`lora.targets` must name modules of the model",
    ),
    "unknown held-out set": (
        nested(training={"early_stopping": {"metric": "fr", "restore_best": False}}),
        "`early_stopping.metric` must name a held-out set",
    ),
    "a jump back at a stage's end": (
        nested(training={"early_stopping": {"metric": "en"}}),
        "`training.early_stopping.restore_best` must be false",
    ),
    "tracker that is not installed": (
        nested(training={"report_to": ["nonsense"]}),
        "`training.report_to` must name trackers that are installed",
    ),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("case", CASES)
def test_a_bad_setting_is_named_and_leaves_nothing_in_the_way(
    case: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = CASES[case]
    values = small_study.values(models, output=str(tmp_path / "run"))
    change(values, tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "conflict", "--config", str(tmp_path / "study.yaml")]) == 2
    told = capsys.readouterr()
    message = next(line for line in told.err.splitlines() if line.startswith("error: "))
    assert words in message
    assert "; found " in message
    assert told.out == ""
    assert set(before) <= set(tmp_path.rglob("*"))
    # A run without weights is begun anew by the next try (tests/studies/frame/test_opening.py).
    assert list((tmp_path / "run").rglob("*.safetensors")) == []
    for precious in tmp_path.rglob("thesis.tex"):
        assert precious.read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "conflikt"], "Did you mean `conflict`?"),
        (["rnu", "conflict"], "Did you mean `run`?"),
        (["run", "conflict", "--seedz", "1"], "Did you mean `--seeds`?"),
        (["run", "conflict", "--training.stepz=1"], "Did you mean `training.steps`?"),
        (
            ["run", "conflict", "--training.learning-rate", "abc"],
            "`training.learning_rate` must be a number; found 'abc'",
        ),
        (["run", "conflict", "--seeds", "--workers", "2"], "`--seeds` needs a value; found none"),
        (["list", "nowhere"], "`nowhere` must be a folder with runs; found no such folder"),
        (
            ["run", "conflict", "--probe.batch_tokens", "0"],
            "`probe.batch_tokens` must be at least 1",
        ),
        (
            ["run", "conflict", "--config", "nowhere.yaml"],
            "`nowhere.yaml` must be an existing YAML",
        ),
        (["plan", "conflict", "--tasks", "[]"], "`tasks` must be at least two"),
        (["show"], "run"),
        (["show", "nowhere"], "`nowhere` must be a run folder; found no such folder"),
    ],
)
def test_a_bad_command_is_named(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert message in told.err
    assert told.out == ""


def test_a_folder_without_a_run_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert "found no run.json in it" in capsys.readouterr().err


def test_functions_raise_what_commands_print(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Did you mean `conflict`?"):
        crosstune.run("conflikt")
    with pytest.raises(SettingsError, match="Did you mean `seeds`?"):
        crosstune.run("conflict", seedz=(1,))
    with pytest.raises(SettingsError, match=r"`training\.steps` must be at least 1"):
        crosstune.run("conflict", {"training": {"steps": 0}})
    with pytest.raises(CrosstuneError, match="must be a run folder"):
        crosstune.show(tmp_path)


def test_a_model_that_diverges_is_named_and_its_state_kept(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"learning_rate": 1e9, "clip": 0.0, "checkpoint_every": 1, "evaluate_every": 0}
    values = small_study.values(models, output=str(tmp_path / "run"), training=training, probe=None)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    words = ["run", "conflict", "--config", str(tmp_path / "study.yaml")]
    for _ in range(2):  # the second time from its last whole checkpoint
        assert main(words) == 2
        assert "finite" in capsys.readouterr().err
        kept = list((tmp_path / "run").glob("cells/seed-0/checkpoints/1-en/training/checkpoint-*"))
        assert kept
    assert main(["list", str(tmp_path)]) == 0
    assert "1 cell, not finished" in capsys.readouterr().out
