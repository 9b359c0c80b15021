"""Sentences: each cell's own with where it is from, cautions once, and claims only as far as intervals go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.studies.circuits import by_hand

ALIKE = {"block": "q", "rank_correlation": 0.8, "low": 0.5, "high": 0.9}
NOT_SHOWN = {"block": "o", "rank_correlation": 0.2, "low": -0.1, "high": 0.5}


def test_each_cell_says_where_it_is_from(tmp_path: Path) -> None:
    found = by_hand.found(tmp_path / "run")
    assert [(one.text, one.tone) for one in found[:3]] == [
        ("en:bn at 0-base. Found at 00.", "shown"),
        ("en:bn at 1-bn. Found at 01.", "shown"),
        ("Task bn has few rows.", "warning"),
    ]
    alone, *_ = by_hand.found(tmp_path / "one", keys=by_hand.CELLS[:1])
    assert alone.text == "en:bn. Found at 00."


def test_what_both_directions_of_a_pair_say_is_said_once(tmp_path: Path) -> None:
    back = replace(by_hand.CELLS[0], name="02", task_a="bn", task_b="en")
    keys = (by_hand.CELLS[0], back)
    texts = [one.text for one in by_hand.found(tmp_path, keys=keys, says=["Both say so."])]
    assert texts[:3] == ["en:bn. Found at 00.", "en:bn. Both say so.", "bn:en. Found at 02."]


@pytest.mark.parametrize(
    ("figures", "tone", "said"),
    [
        ((ALIKE, NOT_SHOWN), "info", "in 1 of 2 comparisons of signed scores"),
        ((ALIKE,), "shown", "in 1 of 1 comparisons"),
        ((ALIKE, NOT_SHOWN), "info", "block O at 1-bn, rank correlation 0.20 [−0.10, 0.50]"),
        ((NOT_SHOWN,), "not_shown", "in 0 of 1 comparisons"),
        (({"block": "q"},), "", ""),  # without an interval nothing is said
    ],
)
def test_alike_is_claimed_only_where_the_interval_says_so(
    tmp_path: Path, figures: tuple[dict[str, object], ...], tone: str, said: str
) -> None:
    every = by_hand.found(tmp_path / "run", by_hand.checkpoints(*figures))
    found = [one for one in every if "rank alike" in one.text]
    assert [one.tone for one in found] == ([tone] if tone else [])
    assert all(said in one.text for one in found)


def test_the_ablation_names_where_the_choice_matters_most_and_least(tmp_path: Path) -> None:
    pooled, unknown = {"form_a": "signed/pooled", "overlap": 0.5}, float("nan")
    table = by_hand.ablation(
        {**pooled, "block": "q", "form_b": "symmetric/pooled", "spearman": 0.9, "spearman_low": 0.8, "spearman_high": 0.95},
        {**pooled, "block": "o", "form_b": "signed/task_a", "spearman": 0.1},
        {**pooled, "block": "k", "form_b": "ewc/task_a", "spearman": unknown},
    )  # fmt: skip
    (found,) = [one for one in by_hand.found(tmp_path, table) if "choice" in one.text]
    most, least = found.text.split("least between")
    assert "signed/pooled and signed/task_a in O: 0.1 [no interval], 50% of the 100" in most
    assert "signed/pooled and symmetric/pooled in Q: 0.90 [0.80, 0.95]" in least


def test_where_arrays_lie_is_said_as_it_is(tmp_path: Path) -> None:
    assert "factors are kept" in by_hand.found(tmp_path / "run")[-1].text
    assert "factors" not in by_hand.found(tmp_path / "gone", keep_factors=False)[-1].text
