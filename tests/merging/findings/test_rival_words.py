"""A method is said to do better or worse than a rival at a question only where the paired difference says so."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from tests.merging.findings.test_rivals import exact

from crosstune.foundation.records import Table
from crosstune.merging.findings import sentences as rival_words
from crosstune.merging.findings.rivals import rivals_table
from crosstune.merging.findings.sentences import Criterion
from crosstune.merging.tables import RIVALS_COLUMNS

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
        "same_model": given.pop("same_model", False),
        "n": 40,
        "n_unit": "rows",
    }
    spans = {"regained": (3.59, 3.5, 3.68), "paid": OPEN, "more_regained": OPEN, "more_paid": OPEN}
    for column, span in {**spans, "objective": OPEN, **given}.items():
        row |= dict(zip((column, f"{column}_low", f"{column}_high"), span, strict=True))
    return row


def said(*rows: dict[str, Any], criterion: Criterion = "text") -> Any:
    table = Table("repair_rivals", RIVALS_COLUMNS, rows)
    return rival_words.answer(table, "component", rows[0]["question"], criterion)


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
        "At a cost of at most 0.02 nats a learned task (on the rows that chose), one coefficient a component regains 0.90 "
        "[0.80, 1.00] nats more of the old than one global coefficient, which pays 0.50 [0.40, 0.60] nats more of the new: "
        "one coefficient a component is better in both; regains 0.70 [0.60, 0.80] nats less of the old than a replay "
        "fine-tune, which pays 0.50 [0.40, 0.60] nats less of the new: a replay fine-tune is better in both; by itself it "
        "regains 3.59 [3.50, 3.68] nats of the old and pays 0.03 [0.01, 0.05] of the new."
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
        (SURE, "shown", "does 0.50 [0.40, 0.60] nats worse together than", "regains 0.50 [0.40, 0.60] nats more of the old than"),
        (minus(SURE), "shown", "does 0.50 [0.40, 0.60] nats better together", "regains 0.50 [0.40, 0.60] nats less"),
        (OPEN, "not_shown", "is not shown to differ together from one", "is not shown to differ in the old"),
        (NOTHING, "too_noisy", "cannot be told apart together from one", "one global coefficient (0.5 [no"),
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
    # An interval as wide as rounding, or none, is told with more digits than two, all of them 0.
    budget, rate = (
        re.sub(r"(\.\d\d)0+\b", r"\1", one.text) for one in rival_words.answers(table, "component")
    )
    assert "regains 0.80 [0.80, 0.80] nats of the old and pays 0.06" in budget
    assert "component regains 0.60 [0.60, 0.60] nats more of the old than one global" in budget
    assert "does 0.85 [0.85, 0.85] nats better together than one global coefficient" in rate
    limited = rival_words.answer(table, "component", "asked: bn ≤ 0.2")
    assert limited.text.startswith("Asked for bn ≤ 0.2 (on the rows that chose), one coefficient a")


@pytest.mark.parametrize("budget", [math.nan, 0.02], ids=["rate", "budget"])
def test_what_is_shown_opens_the_sentence_and_gives_it_its_tone(budget: float) -> None:
    """The rivals are given the other way round, and by itself the method is not shown to regain anything."""
    name = "objective" if math.isnan(budget) else "more_regained"
    shown = rival("replay", budget=budget, regained=OPEN, **{name: SURE})
    for weaker in (OPEN, NOTHING):
        found = said(rival(budget=budget, regained=OPEN, **{name: weaker}), shown)
        opening, second, itself = found.text.split("; ")
        assert found.tone == "shown"
        assert "0.50 [0.40, 0.60] nats" in opening
        assert "not shown to differ" not in opening
        assert second.startswith(("is not shown to differ", "cannot be told apart"))
        assert itself.startswith("by itself it is not shown to regain any of the old")
    unclear = said(
        rival(budget=budget, **{name: NOTHING}), rival("replay", budget=budget, **{name: OPEN})
    )
    assert unclear.tone == "not_shown"
    assert "component is not shown to differ" in unclear.text


@pytest.mark.parametrize("budget", [math.nan, 0.02], ids=["rate", "budget"])
def test_the_same_model_is_said_to_be(budget: float) -> None:
    zero = (0.0, 0.0, 0.0)
    spans = dict.fromkeys(("more_regained", "more_paid", "objective"), zero)
    found = said(rival(budget=budget, same_model=True, **spans))
    assert "one coefficient a component is the same model as that of one global" in found.text
    assert "0.00 [0.00, 0.00]" not in found.text
    assert "differ" not in found.text
    assert found.tone == "shown"


def test_a_divergence_is_said_to_be_what_chose_and_no_loss() -> None:
    budget = said(rival(budget=0.05), criterion="checkpoints")
    rate = said(rival(), criterion="checkpoints")
    asked = said(
        rival() | {"kind": "asked", "question": "asked: bn ≤ 0.2"}, criterion="checkpoints"
    )
    assert budget.text.startswith(
        "At a divergence from the checkpoint that knows the task of at most 0.05 nats a learned task (on the rows"
    )
    assert "worth 1 of the new, in divergence from the checkpoint that knows" in rate.text
    assert asked.text.startswith("Asked for bn ≤ 0.2 in divergence from the checkpoint that knows")
    for found in (budget, rate, asked):
        assert "At a cost" not in found.text
        assert "the two are different things" in found.detail
        assert "(a replay fine-tune's by its loss on rows that it did not learn)" in found.detail
    for found in (said(rival(budget=0.05)), said(rival())):
        assert "divergence" not in f"{found.text} {found.detail}"
