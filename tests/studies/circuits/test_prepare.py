"""Checkpoints are found, adapters lie on their base, and too few rows are told before a model is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.studies import small_circuits, small_study

from crosstune.foundation.errors import CrosstuneError, DataError, SettingsError
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.records import Run
from crosstune.foundation.settings import to_yaml
from crosstune.foundation.training import LoraSettings, with_lora
from crosstune.studies.circuits.prepare import Checkpoint, prepare
from crosstune.studies.circuits.settings import CircuitStudySettings


def learned(folder: Path, place: Path) -> Run:
    """A conflict run whose second seed alone has finished, without its weights."""
    settings = small_study.settings(folder, output=str(place), seeds=[0, 7])
    run = Run.create(place, to_yaml(settings), kind="conflict")
    run.cell("seed-0", to_yaml(settings))
    run.cell("seed-7", to_yaml(settings)).finish()
    run.finish()
    return run


def of_run(place: Path, **changes: object) -> CircuitStudySettings:
    return CircuitStudySettings(conflict=str(place), **changes)  # type: ignore[arg-type]


def test_the_stages_of_a_conflict_run_are_the_checkpoints(folder: Path, tmp_path: Path) -> None:
    run = learned(folder, tmp_path / "learned")
    found = prepare(of_run(run.folder)).checkpoints
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
        prepare(of_run(run.folder, conflict_seed=seed))
    with pytest.raises(CrosstuneError, match="conflict"):
        prepare(of_run(tmp_path / "nowhere"))


def test_an_adapter_lies_on_its_base(folder: Path, tmp_path: Path) -> None:
    base = small_study.model(folder)
    model = with_lora(load_model(base), LoraSettings(rank=2), 0)
    save_model(model, load_tokenizer(base), tmp_path / "adapter")
    chosen = small_circuits.settings(folder, checkpoints=[str(tmp_path / "adapter")])
    bench = prepare(chosen)
    opened, tokenizer = bench.open_model(bench.checkpoints[1])
    assert tokenizer.get_vocab() == load_tokenizer(base).get_vocab()
    assert any("lora_A" in name for name, _ in opened.named_parameters())
    plain = load_model(base).state_dict()
    kept = opened.base_model.model.state_dict()
    for name, value in plain.items():
        there = kept.get(name, kept.get(name.replace(".weight", ".base_layer.weight")))
        assert there is not None and torch.equal(there, value), name


def test_too_few_rows_are_refused_with_both_numbers(folder: Path) -> None:
    with pytest.raises(SettingsError, match=r"min_samples \(10\); found 5"):
        prepare(small_circuits.settings(folder, measurement={"rows": 5}))
    tasks = [
        {"name": "en", "source": "toy:latin-svo", "rows": 40},
        {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 7},
    ]
    with pytest.raises(DataError, match="bn has 7"):
        prepare(small_circuits.settings(folder, tasks=tasks))


def test_warnings_say_what_the_figures_will_lack(folder: Path) -> None:
    chosen = small_circuits.settings(folder, measurement={"rows": 60, "averages": "task_a"})
    told = " ".join(prepare(chosen).warnings)
    assert "Task en has 40 rows of the 60" in told
    assert "‖g_j‖₁" in told
    few = " ".join(prepare(small_circuits.settings(folder)).warnings)
    assert "fewer than 20 rows" in few
    assert prepare(small_circuits.settings(folder, measurement={"rows": 30})).warnings == ()


def test_layers_are_counted_as_they_are_measured(folder: Path) -> None:
    assert prepare(small_circuits.settings(folder)).layers == small_circuits.LAYERS
    assert prepare(small_circuits.settings(folder, measurement={"layers": [1]})).layers == 1


def test_what_the_model_has_not_and_rows_of_both_tasks_are_told_in_the_users_words(
    folder: Path, tmp_path: Path
) -> None:
    bench = prepare(small_circuits.settings(folder, measurement={"heads": [99]}))
    model, tokenizer = bench.open_model(bench.checkpoints[0])
    with pytest.raises(SettingsError, match=r"`measurement\.heads` must be"):
        bench.heads_of(model)
    tasks = [{"name": name, "source": "toy:latin-svo", "rows": 40} for name in ("one", "two")]
    same = prepare(small_circuits.settings(folder, tasks=tasks))
    with pytest.raises(DataError, match=r"`tasks\['two'\]` must not hold rows"):
        same.samples_of("one", "two", tokenizer)
