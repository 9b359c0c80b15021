"""What a method regains and pays against its rivals at the same question, in sentences that hold in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement, Tone
from crosstune.interference.repair.findings.estimate import Estimate
from crosstune.interference.repair.findings.words import basis, joined, method_words

Row = Mapping[str, Any]


def answers(rivals: Table, method: str) -> list[Statement]:
    """A method against its rivals at the smallest budget and at the exchange rate nearest to 1.

    Args:
        rivals: The table `repair_rivals`, or its means over seeds.
        method: The method that is judged.

    Returns:
        One finding for each of the two, where it was asked and a rival answers.
    """
    rows = rivals.where(method=method).rows()
    budgets = [row for row in rows if row["kind"] == "budget"]
    rates = [row for row in rows if row["kind"] == "rate"]
    chosen = [
        *([min(budgets, key=lambda row: row["budget"])] if budgets else []),
        *([min(rates, key=lambda row: abs(math.log(row["rate"])))] if rates else []),
    ]
    return [answer(rivals, method, row["question"]) for row in chosen]


def answer(rivals: Table, method: str, question: str) -> Statement:
    """A method against its rivals at one question.

    Args:
        rivals: The table `repair_rivals`, or its means over seeds.
        method: The method that is judged.
        question: One of the table's questions, to which the method has a row.

    Returns:
        The finding; shown where the difference to a rival is: in the old at a budget, in both together at a rate.
    """
    rows = rivals.where(method=method, question=question).rows()
    is_rate = rows[0]["kind"] == "rate"
    compare = _together if is_rate else _of_the_old
    clauses = [compare(row) for row in rows]
    figures = [Estimate.of(row, "objective" if is_rate else "more_regained") for row in rows]
    tone: Tone = "not_shown"
    if any(one.is_positive or one.is_negative for one in figures):
        tone = "shown"
    elif not all(one.has_interval for one in figures):
        tone = "too_noisy"
    return Statement(f"{_deed(rows[0])}: {'; '.join(clauses)}.", tone, _detail(rows, is_rate))


def _deed(row: Row) -> str:
    """What the method does at the question, in absolute figures."""
    opening = {
        "budget": f"At a cost of at most {row['budget']:g} nats a learned task (on the rows that chose)",
        "rate": f"Where one nat of the old is worth {row['rate']:g} of the new",
    }.get(
        row["kind"], f"Asked for {row['question'].removeprefix('asked: ')} (on the rows that chose)"
    )
    regained, paid = Estimate.of(row, "regained"), Estimate.of(row, "paid")
    if regained.is_negative:
        what = f"loses a further {-regained} nats of the old"
    elif regained.is_positive:
        what = f"regains {regained} nats of the old"
    else:
        what = f"is not shown to regain any of the old ({regained} nats)"
    if paid.is_negative:
        cost = f"wins a further {-paid} of the new"
    elif paid.is_positive:
        cost = f"pays {paid} of the new"
    else:
        cost = f"is not shown to pay any of the new ({paid})"
    return f"{opening}, {method_words(row['method'])} {what} and {cost}"


def _of_the_old(row: Row) -> str:
    """How much more of the old than the rival, and what the rival pays."""
    more, theirs = Estimate.of(row, "more_regained"), _rival(row)
    if more.is_positive:
        text = f"{more} more than {theirs}"
    elif more.is_negative:
        text = f"{-more} fewer than {theirs}"
    else:
        text = _unclear(more, theirs)
    if row["answer"] == "after":
        return text
    return f"{text}, {_pays(-Estimate.of(row, 'more_paid'))}{_verdict(row)}"


def _rival(row: Row) -> str:
    stays = " (no stop does better than the model after)" if row["answer"] == "after" else ""
    return f"{method_words(row['rival'])}{stays}"


def _pays(rival: Estimate) -> str:
    """What the rival pays more than the method."""
    if rival.is_positive:
        return f"which pays {rival} nats more of the new"
    if rival.is_negative:
        return f"which pays {-rival} nats less of the new"
    return f"which is not shown to pay more or less of the new ({rival})"


def _together(row: Row) -> str:
    """How much better the trade is than the rival's, in nats of the new."""
    objective, theirs = Estimate.of(row, "objective"), _rival(row)
    if objective.is_negative:
        text = f"together {-objective} nats better than {theirs}"
    elif objective.is_positive:
        text = f"together {objective} nats worse than {theirs}"
    else:
        text = f"together, {_unclear(objective, theirs)}"
    return f"{text}{_verdict(row)}"


def _unclear(figure: Estimate, differs_from: str) -> str:
    if figure.has_interval:
        return f"that it differs from {differs_from} is not shown ({figure})"
    return f"whether it differs from {differs_from} cannot be told ({figure})"


def _verdict(row: Row) -> str:
    """Who regains more and pays less, where either does both."""
    more, paid = Estimate.of(row, "more_regained"), Estimate.of(row, "more_paid")
    if more.is_positive and paid.is_negative:
        return f": {method_words(row['method'])} is better in both"
    if more.is_negative and paid.is_positive:
        return f": {method_words(row['rival'])} is better in both"
    return ""


def _detail(rows: Sequence[Row], is_rate: bool) -> str:
    what = (
        "Together: new + rate × old, in nats of the new."
        if is_rate
        else "The budget was kept on the rows that chose; what was paid is read on others."
    )
    found = joined([f"{method_words(row['rival'])} by {row['answer']!r}" for row in rows])
    return (
        f"Regained and paid against after, differences paired, {basis([rows[0]])}. {what} The same question is answered: "
        f"{found}, chosen by rows that are not reported (a replay fine-tune's by rows that it did not learn). The choices are "
        "held fixed."
    )
