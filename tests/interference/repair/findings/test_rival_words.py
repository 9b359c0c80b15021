"""A method is said to do better or worse than a rival at a question only where the paired difference says so."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.interference.repair.findings.test_rivals import exact

from crosstune.foundation.records import Table
from crosstune.interference.repair.findings import rival_words
from crosstune.interference.repair.findings.rivals import rivals_table
from crosstune.interference.repair.tables import RIVALS_COLUMNS

Span = tuple[float, float, float]
SURE, OPEN, NOTHING = (0.5, 0.4, 0.6), (0.01, -0.1, 0.12), (0.5, math.nan, math.nan)


def minus(span: Span) -> Span:
    value, low, high = span
    return -value, -high, -low


def rival(name: str = "global", *, budget: float = math.nan, **given: Any) -> dict[str, Any]:
    """A row at rate 1, or at a budget; spans that are not given are those of a shown gain without cost."""
    is_rate = math.isnan(budget)
    row: dict[str, Any] = {
        "method": "component",
        "question": "rate 1" if is_rate else f"lose ≤ {budget:g}",
        "rival": name,
        "kind": "rate" if is_rate else "budget",
        "rate": 1.0 if is_rate else math.nan,
        "budget": budget,
        "answer": given.pop("answer", "its point"),
        "n": 40,
        "n_unit": "rows",
    }
    spans = {"regained": (3.59, 3.5, 3.68), "paid": OPEN, "more_regained": OPEN, "more_paid": OPEN}
    for column, span in {**spans, "objective": OPEN, **given}.items():
        row |= dict(zip((column, f"{column}_low", f"{column}_high"), span, strict=True))
    return row


def said(*rows: dict[str, Any]) -> Any:
    table = Table("repair_rivals", RIVALS_COLUMNS, rows)
    return rival_words.answer(table, "component", rows[0]["question"])


def test_a_budget_names_what_was_regained_and_both_rivals() -> None:
    found = said(
        rival(
            budget=0.02,
            paid=(0.03, 0.01, 0.05),
            more_regained=(0.9, 0.8, 1.0),
            more_paid=minus(SURE),
        ),
        rival("replay", budget=0.02, more_regained=(-0.7, -0.8, -0.6), more_paid=SURE),
    )
    assert found.text == (
        "At a cost of at most 0.02 nats a learned task (on the rows that chose), one coefficient a component regains 3.59 "
        "[3.50, 3.68] nats of the old and pays 0.03 [0.01, 0.05] of the new: 0.90 [0.80, 1.00] more than one global "
        "coefficient, which pays 0.50 [0.40, 0.60] nats more of the new: one coefficient a component is better in both; "
        "0.70 [0.60, 0.80] fewer than a replay fine-tune, which pays 0.50 [0.40, 0.60] nats less of the new: a replay "
        "fine-tune is better in both."
    )
    assert found.tone == "shown"
    assert "one global coefficient by 'its point'" in found.detail


@pytest.mark.parametrize("budget", [math.nan, 0.02], ids=["rate", "budget"])
@pytest.mark.parametrize(
    ("more", "paid", "better"),
    [
        (SURE, minus(SURE), "one coefficient a component is better in both"),
        (minus(SURE), SURE, "a replay fine-tune is better in both"),
        (SURE, SURE, ""),
        (minus(SURE), OPEN, ""),
        (OPEN, minus(SURE), ""),
        (NOTHING, NOTHING, ""),
    ],
)
def test_better_in_both_needs_both_intervals(
    budget: float, more: Span, paid: Span, better: str
) -> None:
    text = said(rival("replay", budget=budget, more_regained=more, more_paid=paid)).text
    assert ("better in both" in text) == bool(better)
    assert better in text


@pytest.mark.parametrize(
    ("span", "tone", "at_rate", "at_budget"),
    [
        (SURE, "shown", "together 0.50 [0.40, 0.60] nats worse than", "0.50 [0.40, 0.60] more than"),
        (minus(SURE), "shown", "together 0.50 [0.40, 0.60] nats better", "0.50 [0.40, 0.60] fewer"),
        (OPEN, "not_shown", "together, that it differs from one global", "that it differs from"),
        (NOTHING, "too_noisy", "whether it differs from one global", "cannot be told (0.5 [no"),
    ],
)  # fmt: skip
def test_the_difference_decides_the_tone(
    span: Span, tone: str, at_rate: str, at_budget: str
) -> None:
    rated, limited = said(rival(objective=span)), said(rival(budget=0.1, more_regained=span))
    assert (rated.tone, limited.tone) == (tone, tone)
    assert at_rate in rated.text
    assert at_budget in limited.text


def test_what_is_not_shown_is_not_claimed_of_the_method_itself() -> None:
    text = said(rival(regained=OPEN, paid=SURE)).text
    assert "is not shown to regain any of the old (0.01 [-0.10, 0.12] nats) and pays 0.50" in text
    assert "loses a further 0.50" in said(rival(regained=minus(SURE))).text
    assert "wins a further 0.50 [0.40, 0.60] of the new" in said(rival(paid=minus(SURE))).text


def test_a_replay_that_cannot_do_better_than_after_is_said_to() -> None:
    for budget in (math.nan, 0.02):
        found = said(rival("replay", budget=budget, answer="after", more_regained=SURE))
        assert "a replay fine-tune (no stop does better than the model after)" in found.text
        assert "pays 0.5" not in found.text


def test_the_smallest_budget_and_the_rate_nearest_to_1_are_told() -> None:
    rows = [rival(budget=0.1), rival(budget=0.02), *(rival() for _ in range(3))]
    for row, rate in zip(rows[2:], (0.125, 1.5, 8.0), strict=True):
        row |= {"rate": rate, "question": f"rate {rate:g}"}
    table = Table("repair_rivals", RIVALS_COLUMNS, rows)
    budget, rate = rival_words.answers(table, "component")
    assert budget.text.startswith("At a cost of at most 0.02 nats")
    assert rate.text.startswith("Where one nat of the old is worth 1.5 of the new,")
    assert rival_words.answers(table, "layer") == []


def test_sentences_are_right_on_real_tables() -> None:
    """At rate 1 the component wins back 0.8 nats more than global for 0.05 nats less."""
    table = rivals_table(exact())
    budget, rate = rival_words.answers(table, "component")
    assert "regains 0.80 [0.80, 0.80] nats of the old and pays 0.06" in budget.text
    assert "of the new: 0.60 [0.60, 0.60] more than one global" in budget.text
    assert "together 0.85 [0.85, 0.85] nats better than one global coefficient" in rate.text
    limited = rival_words.answer(table, "component", "asked: bn ≤ 0.2")
    assert limited.text.startswith("Asked for bn ≤ 0.2 (on the rows that chose), one coefficient a")
