"""Checkpoints that are torn, changed or from another stage are recognised, with the reason said."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.foundation.training import tiny, toy

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training import (
    NextToken,
    StageData,
    Stateful,
    Terms,
    checkpoints,
    train_stage,
)
from crosstune.foundation.training.checkpoints import stage_identity

SETTINGS: dict[str, Any] = {"steps": 4, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage")
    train_stage(tiny.model(), tiny.data(), tiny.settings(**SETTINGS), output_folder=folder)
    return folder


@pytest.fixture
def copy(stage: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stage, tmp_path / "copy"))


def test_a_checkpoint_holds_no_pickled_settings_and_its_manifest_names_every_file(
    stage: Path,
) -> None:
    assert tiny.folder_names(stage) == ["checkpoint-2", "checkpoint-4"]
    last = stage / "checkpoint-4"
    files = {path.relative_to(last).as_posix() for path in last.rglob("*") if path.is_file()}
    assert not {"training_args.bin", "optimizer.pt", "scheduler.pt"} & files
    assert set(read_json(last / checkpoints.MANIFEST)["files"]) == files - {checkpoints.MANIFEST}
    assert checkpoints.latest_whole(stage) == (last, [])


def tear(folder: Path) -> None:
    weights = folder / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])


def flip(folder: Path) -> None:
    optimizer = bytearray((folder / "optimizer.safetensors").read_bytes())
    optimizer[200] ^= 1
    (folder / "optimizer.safetensors").write_bytes(optimizer)


def other_schema(folder: Path) -> None:
    manifest = read_json(folder / checkpoints.MANIFEST)
    write_json(folder / checkpoints.MANIFEST, {**manifest, "schema": 99})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / checkpoints.MANIFEST).unlink(), "writing it was interrupted"),
        (lambda folder: (folder / "rng_state.pth").unlink(), "rng_state.pth is missing"),
        (tear, "trained.safetensors is not what was written"),
        (flip, "optimizer.safetensors is not what was written"),
        (other_schema, "its manifest has schema 99"),
        (lambda folder: (folder / checkpoints.MANIFEST).write_text("{"), "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_its_reason(
    copy: Path, damage: Callable[[Path], None], reason: str
) -> None:
    damage(copy / "checkpoint-4")
    result = train_stage(tiny.model(), tiny.data(), tiny.settings(**SETTINGS), output_folder=copy)
    assert result.resumed_from == 2
    assert result.notes[0].startswith("checkpoint-4 was skipped: ")
    assert reason in result.notes[0]
    assert checkpoints.fault(copy / "checkpoint-4") is None  # written again, whole


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {"settings": tiny.settings(**SETTINGS, learning_rate=1.0)},
            "settings.learning_rate: 0.01 in",
        ),
        (
            {"settings": tiny.settings(steps=5, checkpoint_every=2)},
            "settings.steps: 4 in the .*, 5 now",
        ),
        ({"model_seed": 1}, "weights: '"),
        ({"data": tiny.data(20)}, "rows: '"),
        (
            {"data": dataclasses.replace(tiny.data(), tokenizer="t2")},
            "tokenizer: '' in .*, 't2' now",
        ),
        ({"seed": 9}, "seed: 0 in the checkpoint, 9 now"),
    ],
)
def test_a_checkpoint_of_another_stage_is_refused_with_the_difference(
    stage: Path, changes: dict[str, Any], shown: str
) -> None:
    with pytest.raises(CheckpointError, match=shown):
        train_stage(
            tiny.model(changes.get("model_seed", 0)),
            changes.get("data", tiny.data()),
            changes.get("settings", tiny.settings(**SETTINGS)),
            output_folder=stage,
            seed=changes.get("seed", 0),
        )


def test_what_only_decides_how_often_to_show_and_keep_may_change(copy: Path) -> None:
    chosen = tiny.settings(steps=4, checkpoint_every=1, keep_checkpoints=9, evaluation_tokens=8)
    shutil.rmtree(copy / "checkpoint-4")
    result = train_stage(tiny.model(), tiny.data(), chosen, output_folder=copy)
    assert result.resumed_from == 2
    assert tiny.folder_names(copy) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


class Memory:
    state_name = "memory"

    def save_state(self, folder: Path) -> None:
        (folder / "x").write_text("kept")

    def load_state(self, folder: Path) -> None:
        self.found = (folder / "x").read_text()


def test_states_go_to_folders_of_their_names(tmp_path: Path) -> None:
    memory = Memory()
    assert isinstance(memory, Stateful)
    checkpoints.save_states(tmp_path, [memory])
    checkpoints.load_states(tmp_path, [memory])
    assert memory.found == "kept"
    assert (tmp_path / "crosstune" / "memory" / "x").is_file()


def test_a_callback_without_its_state_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    checkpoints.save_states(tmp_path, [Memory()])
    stranger = Memory()
    stranger.state_name = "stranger"
    with pytest.raises(CheckpointError, match="state of 'stranger'; found .*memory"):
        checkpoints.load_states(tmp_path, [stranger])
    with pytest.raises(CheckpointError, match="its own state_name; found memory"):
        checkpoints.check_names([Memory(), Memory()])


def test_only_the_end_of_a_stage_is_dropped(tmp_path: Path) -> None:
    checkpoints.drop_end(tmp_path / "nothing there")
    for step in (2, 4):
        folder = checkpoints.checkpoint_folder(tmp_path, step)
        folder.mkdir()
        checkpoints.seal(folder, {}, finished=step == 4)
    checkpoints.drop_end(tmp_path)
    assert checkpoints.steps_with_checkpoints(tmp_path) == [2]
    checkpoints.drop_end(tmp_path)
    assert checkpoints.steps_with_checkpoints(tmp_path) == [2]


def test_every_setting_that_computes_is_in_it() -> None:
    settings = tiny.settings()
    identity = stage_identity(tiny.model(), tiny.data(), settings, 0, Terms())
    fields = {field.name for field in dataclasses.fields(settings)}
    told = {name.removeprefix("settings.") for name in identity if name.startswith("settings.")}
    assert fields - told == {
        "keep_checkpoints",
        "report_to",
        "checkpoint_every",
        "log_every",
        "evaluation_tokens",
    }


def test_one_label_of_one_row_is_seen() -> None:
    data, other = tiny.data(), tiny.data()
    other.train[3].labels[-1] = -100
    assert (
        stage_identity(tiny.model(), data, tiny.settings(), 0, Terms())["rows"]
        != stage_identity(tiny.model(), other, tiny.settings(), 0, Terms())["rows"]
    )


def test_what_a_term_is_and_where_the_optimizer_begins_is_in_it(stage: Path) -> None:
    def identity(term: object, data: StageData | None = None) -> dict[str, Any]:
        terms = Terms((NextToken(), term), toy.teacher())
        return stage_identity(tiny.model(), data or tiny.data(), tiny.settings(), 0, terms)

    class Other(toy.Balance):
        pass

    class ByRow(toy.Balance):
        unit = "rows"

    frozen, changed = toy.Balance(), toy.Balance()
    for term in (frozen, changed):
        term.gate.requires_grad_(False)
    changed.gate.weight.data += 1.0
    found = [
        identity(term)["terms.balance"]
        for term in (toy.Balance(), Other(), ByRow(), frozen, changed)
    ]
    assert len({str(value) for value in found}) == 5
    assert found[0] == identity(toy.Balance())["terms.balance"]
    moved = toy.Balance()
    moved.gate.weight.data += 1.0  # a checkpoint holds what is trained
    assert found[0] == identity(moved)["terms.balance"]

    begun = dataclasses.replace(tiny.data(), optimizer_from=stage)
    assert identity(toy.Balance())["optimizer_from"] is None
    assert len(identity(toy.Balance(), begun)["optimizer_from"]) == 16


def test_a_model_that_is_configured_otherwise_is_another() -> None:
    def identity(model: Any, second: Any) -> dict[str, Any]:
        terms = Terms((NextToken(), toy.Hidden()), second)
        return stage_identity(model, tiny.data(), tiny.settings(), 0, terms)

    one = identity(tiny.model(), toy.teacher())
    other = identity(tiny.model(attention_dropout=0.5), toy.teacher())
    assert {name for name in one if one[name] != other[name]} == {"model"}
    second = tiny.model(seed=9, **toy.TEACHER, rms_norm_eps=0.1)
    other = identity(tiny.model(), second)
    assert {name for name in one if one[name] != other[name]} == {"second_model"}
