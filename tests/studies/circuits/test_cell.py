"""A cell is a pair of tasks at a state; what one captured, the next one takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.studies import small_circuits

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.records import Run
from crosstune.foundation.storage import safe_name
from crosstune.studies.circuits import cell
from crosstune.studies.circuits.cell import Place, ablated, captures, places, scorings
from crosstune.studies.circuits.prepare import Bench, Checkpoint

HERE = Checkpoint("here", "x")


def test_every_pair_at_every_state_is_a_cell_of_its_own(bench: Bench) -> None:
    found = places(bench)
    assert [(one.checkpoint.name[:1], one.pair) for one in found] == [
        ("0", "en:bn"), ("0", "bn:en"), ("1", "en:bn"), ("1", "bn:en"),
    ]  # fmt: skip
    assert len({safe_name(one.name, "cell") for one in found}) == len(found)


def test_tasks_are_captured_once_and_at_drawn_labels_for_the_true_fisher() -> None:
    wanted = [Place("0", HERE, "a", "b"), Place("1", HERE, "a", "c")]
    plain = captures(wanted, CircuitSettings())
    assert plain == {("a", "text"), ("b", "text"), ("c", "text")}
    assert captures(wanted, CircuitSettings(fisher="true")) == plain | {("a", "sampled")}


def asking(bench: Bench, **changes: Any) -> Bench:
    measurement = replace(bench.settings.measurement, **changes)
    return replace(bench, settings=replace(bench.settings, measurement=measurement))


def test_an_ablation_asks_every_fisher_that_is_at_hand(bench: Bench) -> None:
    usual = asking(bench, variants=("directional", "signed", "ewc"), averages="pooled")
    found = ablated(usual)
    assert [one.fisher for one in found] == ["task_a", "pooled", "held_out", "leave_one_out"]
    assert all(one.variants == ("directional", "signed") for one in found)
    assert ablated(asking(bench, fisher="true"))[-1].fisher == "true"
    assert [one.fisher for one in ablated(asking(usual, min_samples=12))] == ["task_a", "pooled"]
    assert ablated(asking(bench, variants=("ewc", "kfac"))) == ()
    without = replace(usual, settings=replace(usual.settings, ablate=False))
    assert (ablated(without), scorings(without), scorings(usual)) == ((), 1, 5)


def test_a_task_is_captured_once_a_state_whatever_it_is_held_against(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    real = cell.capture_samples

    def counted(model: Any, samples: Any, *rest: Any) -> Any:
        asked[samples.rows[0].text, rest[-1]] += 1
        return real(model, samples, *rest)

    monkeypatch.setattr(cell, "capture_samples", counted)
    tasks = [
        {"name": "en", "source": "toy:latin-svo", "rows": 40},
        {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 40},
        {"name": "ar", "source": "toy:arabic-vso-0.3", "rows": 40},
    ]
    chosen = small_circuits.settings(folder, output=str(tmp_path / "run"), tasks=tasks)
    run = small_circuits.run_cells(chosen)
    assert len(run.cells()) == 3
    assert sorted(asked.values()) == [1, 1, 1]


def test_a_cell_tells_its_findings_and_methods(circuited: Run) -> None:
    for one in circuited.cells():
        assert one.events("statement")
        (told,) = one.events("methods")
        assert "12 samples of task A" in told["text"]
