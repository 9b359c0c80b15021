"""Checkpoints are found, adapters lie on their base, and too few rows are told before a model is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.studies import small_circuits, small_study
from tests.studies.small_circuits import prepared

from crosstune.foundation.errors import CrosstuneError, DataError, SettingsError
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.records import Run
from crosstune.foundation.settings import to_yaml
from crosstune.foundation.storage import safe_name
from crosstune.foundation.training import LoraSettings, with_lora
from crosstune.studies.circuits.prepare import Checkpoint
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits
from crosstune.studies.conflict.cell import DONE


def test_every_pair_at_every_state_is_a_cell_of_its_own(study: Circuits) -> None:
    found = study.keys
    assert [(one.checkpoint.name[:1], one.pair) for one in found] == [
        ("0", "en:bn"), ("0", "bn:en"), ("1", "en:bn"), ("1", "bn:en"),
    ]  # fmt: skip
    assert len({safe_name(one.name, "cell") for one in found}) == len(found)


def learned(folder: Path, place: Path) -> Run:
    """A conflict run whose second seed alone has finished, without its weights."""
    settings = small_study.settings(folder, output=str(place), seeds=[0, 7])
    run = Run.create(place, to_yaml(settings), kind="conflict")
    run.cell("seed-0", to_yaml(settings))
    cell = run.cell("seed-7", to_yaml(settings))
    for stage in ("1-en", "2-bn"):
        cell.event(DONE, stage=stage)
    cell.finish()
    run.finish()
    return run


def of_run(place: Path, **changes: object) -> CircuitStudySettings:
    return CircuitStudySettings(conflict=str(place), **changes)  # type: ignore[arg-type]


def test_the_stages_of_a_conflict_run_are_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    run = learned(folder, tmp_path / "learned")
    found = prepared(of_run(run.folder)).checkpoints
    cell = run.folder / "cells" / "seed-7" / "checkpoints"
    assert found == (
        Checkpoint("0-base", small_study.model(folder)),
        Checkpoint("1-en", str(cell / "1-en" / "model")),
        Checkpoint("2-bn", str(cell / "2-bn" / "model")),
    )


@pytest.mark.parametrize(
    ("seed", "kind", "named"),
    [(0, "conflict", "finished cell"), (9, "conflict", "seed-7"), (None, "repair", "kind")],
)
def test_a_run_without_such_checkpoints_is_refused(
    folder: Path, tmp_path: Path, seed: int | None, kind: str, named: str
) -> None:
    run = learned(folder, tmp_path / "learned")
    if kind != "conflict":
        run = Run.create(tmp_path / "other", "a: 1\n", kind=kind)
    with pytest.raises(SettingsError, match=named):
        prepared(of_run(run.folder, conflict_seed=seed))
    with pytest.raises(CrosstuneError, match="conflict"):
        prepared(of_run(tmp_path / "nowhere"))


def test_an_adapter_lies_on_its_base(folder: Path, tmp_path: Path) -> None:
    base = small_study.model(folder)
    model = with_lora(load_model(base), LoraSettings(rank=2), 0)
    save_model(model, load_tokenizer(base), tmp_path / "adapter")
    chosen = small_circuits.settings(folder, checkpoints=[str(tmp_path / "adapter")])
    study = prepared(chosen)
    start = study.start(study.checkpoints[1])
    opened = start.load()
    assert start.tokenizer.get_vocab() == load_tokenizer(base).get_vocab()
    assert any("lora_A" in name for name, _ in opened.named_parameters())
    plain = load_model(base).state_dict()
    kept = opened.base_model.model.state_dict()
    for name, value in plain.items():
        there = kept.get(name, kept.get(name.replace(".weight", ".base_layer.weight")))
        assert there is not None and torch.equal(there, value), name


def test_too_few_rows_are_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"min_samples \(10\); found 5"):
        prepared(small_circuits.settings(folder, measurement={"rows": 5}))
    tasks = [
        {"name": "en", "source": "toy:latin-svo", "rows": 40},
        {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 7},
    ]
    with pytest.raises(DataError, match="bn has 7"):
        prepared(small_circuits.settings(folder, tasks=tasks))


def test_warnings_say_what_the_figures_will_lack(folder: Path) -> None:
    chosen = small_circuits.settings(folder, measurement={"rows": 60, "averages": "task_a"})
    told = " ".join(Circuits(chosen).prepare())
    assert "Task en has 40 rows of the 60" in told
    assert "‖g_j‖₁" in told
    few = " ".join(Circuits(small_circuits.settings(folder)).prepare())
    assert "fewer than 20 rows" in few
    enough = small_circuits.settings(folder, measurement={"rows": 30})
    assert list(Circuits(enough).prepare()) == []


def test_layers_are_counted_as_they_are_measured(folder: Path) -> None:
    assert prepared(small_circuits.settings(folder)).layers == small_circuits.LAYERS
    assert prepared(small_circuits.settings(folder, measurement={"layers": [1]})).layers == 1


def test_what_the_model_has_not_and_rows_of_both_tasks_are_told_in_the_users_words(
    folder: Path, tmp_path: Path
) -> None:
    study = prepared(small_circuits.settings(folder, measurement={"heads": [99]}))
    start = study.start(study.checkpoints[0])
    with pytest.raises(SettingsError, match=r"`measurement\.heads` must be"):
        study.heads_of(start.load())
    tasks = [{"name": name, "source": "toy:latin-svo", "rows": 40} for name in ("one", "two")]
    same = prepared(small_circuits.settings(folder, tasks=tasks))
    with pytest.raises(DataError, match=r"`tasks\['two'\]` must not hold rows"):
        same.samples_of("one", "two", start.tokenizer)
