"""The methods paragraph says what was done, and nothing that was not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.circuits.known_scores import World, rows


def paragraph(**options: object) -> str:
    return World().with_settings(**options).begin().methods_paragraph()


def test_the_usual_measurement_is_told_whole() -> None:
    text = paragraph(damping_share=0.1)
    for part in (
        "8 samples of task A (8 independent, 68 scored tokens)",
        "6 of task B",
        "in blocks Q, K, V, O of 4 of 4 query heads (served by 2 key-value heads) in 3 of 3 layers",
        "M_ij = Σ_k g_ik²/D_k · |g_jk|",
        "F of the directional score is the mean over A's samples",
        "F of the signed and symmetric score is the mean of both tasks'",
        "D = max(F, ε) + λ, with λ = 0.1 times the median",
        "In averages over pairs, F is the mean of both tasks'",
        "hence another Fisher for averages",
        "Westfall and Young 1993",
        "The directional score changes under rescalings",
        "one key-value head is enough): the units of a head's weights may be changed alone without changing the model",
        "heads are not ranked by it",
    ):
        assert part in text
    assert "\n" not in text


def test_what_was_not_done_is_not_told() -> None:
    text = paragraph(variants=("ewc",))
    assert (
        "damped elementwise" not in text
        and "In averages" not in text
        and "kronecker" not in text.lower()
    )
    assert "Kirkpatrick et al. 2017" in text
    signed = paragraph(variants=("signed", "kfac"))
    assert "rescalings" not in signed and "Martens and Grosse 2015" in signed


@pytest.mark.parametrize(
    ("damping", "formula"),
    [("floor", "D = max(F, ε, λ)"), ("conditional", "λ more where F < 10 ε")],
)
def test_the_damping_is_the_one_used(damping: str, formula: str) -> None:
    assert formula in paragraph(damping=damping)


def test_a_blind_average_is_called_so() -> None:
    assert "say nothing about A" in paragraph(averages="task_a")
    assert "labels drawn from the model" in paragraph(fisher="true")


@pytest.mark.parametrize(
    ("sizes", "who"), [((0, 6), "A has"), ((8, 0), "B has"), ((0, 0), "A and task B have")]
)
def test_without_samples_nothing_was_scored(sizes: tuple[int, int], who: str) -> None:
    with pytest.warns(UserWarning, match="no samples"):
        text = World(*sizes).begin().methods_paragraph()
    assert text == f"No pair of samples was scored: task {who} no samples."


def test_groups_are_counted() -> None:
    text = replace(World(), rows_b=rows("b", 6, group=3)).begin().methods_paragraph()
    assert "6 of task B (2 independent" in text
