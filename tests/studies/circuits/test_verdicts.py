"""Sentences: each cell's own with where it is from, cautions once, and claims only as far as intervals go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.studies.circuits import told

from crosstune.studies.circuits.cell import STATEMENT
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.verdicts import statements

SETTINGS = CircuitStudySettings()


def test_each_cell_says_where_it_is_from(tmp_path: Path) -> None:
    found = statements(told.run_with(tmp_path / "run"), told.CELLS, SETTINGS)
    assert [(one.text, one.tone) for one in found[:3]] == [
        ("en:bn at 0-base. Found at 00.", "shown"),
        ("en:bn at 1-bn. Found at 01.", "shown"),
        ("Task bn has few rows.", "warning"),
    ]
    one = told.CELLS[:1]
    alone = statements(told.run_with(tmp_path / "one", keys=one), one, SETTINGS)
    assert alone[0].text == "en:bn. Found at 00."


def test_what_both_directions_of_a_pair_say_is_said_once(tmp_path: Path) -> None:
    back = replace(told.CELLS[0], name="02", task_a="bn", task_b="en")
    keys = (told.CELLS[0], back)
    run = told.run_with(tmp_path / "run", keys=keys)
    for cell in run.cells():
        cell.event(STATEMENT, text="Both say so.", tone="shown", detail="n = 12")
    texts = [one.text for one in statements(run, keys, SETTINGS)]
    assert texts[:3] == ["en:bn. Found at 00.", "en:bn. Both say so.", "bn:en. Found at 02."]


def test_alike_is_claimed_only_where_the_interval_says_so(tmp_path: Path) -> None:
    alike = {"block": "q", "rank_correlation": 0.8, "low": 0.5, "high": 0.9}
    not_shown = {"block": "o", "rank_correlation": 0.2, "low": -0.1, "high": 0.5}
    run = told.run_with(tmp_path / "run", [told.checkpoints(alike, not_shown)])
    (found,) = [one for one in statements(run, told.CELLS, SETTINGS) if "rank alike" in one.text]
    assert found.tone == "shown"
    assert "in 1 of 2 comparisons of signed scores" in found.text
    assert "block O at 1-bn, rank correlation 0.20 [-0.10, 0.50]" in found.text
    noisy = told.run_with(tmp_path / "noisy", [told.checkpoints(not_shown)])
    (found,) = [one for one in statements(noisy, told.CELLS, SETTINGS) if "rank alike" in one.text]
    assert found.tone == "not_shown"


def test_without_an_interval_nothing_is_said_of_checkpoints(tmp_path: Path) -> None:
    run = told.run_with(tmp_path / "run", [told.checkpoints({"block": "q"})])
    assert not any("rank alike" in one.text for one in statements(run, told.CELLS, SETTINGS))


def test_the_ablation_names_where_the_choice_matters_most_and_least(tmp_path: Path) -> None:
    figures = [
        {"block": "q", "form_a": "signed/pooled", "form_b": "symmetric/pooled", "spearman": 0.9},
        {"block": "o", "form_a": "signed/pooled", "form_b": "signed/task_a", "spearman": 0.1},
        {"block": "k", "form_a": "signed/pooled", "form_b": "ewc/task_a"},
    ]
    table = told.ablation(*({**figure, "overlap": 0.5} for figure in figures))
    run = told.run_with(tmp_path / "run", [table])
    (found,) = [one for one in statements(run, told.CELLS, SETTINGS) if "choice" in one.text]
    most, least = found.text.split("least between")
    assert "signed/pooled and signed/task_a in O: 0.10" in most
    assert "signed/pooled and symmetric/pooled in Q: 0.90" in least
    assert "50% of the 100 largest" in most


def test_where_arrays_lie_is_said_as_it_is(tmp_path: Path) -> None:
    run = told.run_with(tmp_path / "run")
    kept = statements(run, told.CELLS, SETTINGS)[-1].text
    gone = statements(run, told.CELLS, CircuitStudySettings(keep_factors=False))[-1].text
    assert "factors are kept" in kept
    assert "factors" not in gone
