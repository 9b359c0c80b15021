"""What a method regains and pays against its rivals at the same question, in sentences that hold in both directions.

A sentence has the tone of the claim it opens with (`claims`): rivals come first, those that the method is shown to
differ from before others, and what it regains and pays by itself comes last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Table
from crosstune.foundation.records.claims import Claim, ordered, sign_tone
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.records.page import Statement
from crosstune.merging.findings.criterion import DIVERGENCE, TWO_THINGS, Criterion
from crosstune.merging.findings.sentences import basis, joined, method_words

Row = Mapping[str, Any]


def answers(rivals: Table, method: str, criterion: Criterion = "text") -> list[Statement]:
    """A method against its rivals at the smallest budget and at the exchange rate nearest to 1.

    Args:
        rivals: The table `repair_rivals`, or its means over seeds.
        method: The method that is judged.
        criterion: What chose the points.

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
    return [answer(rivals, method, row["question"], criterion) for row in chosen]


def answer(rivals: Table, method: str, question: str, criterion: Criterion = "text") -> Statement:
    """A method against its rivals at one question.

    Args:
        rivals: The table `repair_rivals`, or its means over seeds.
        method: The method that is judged.
        question: One of the table's questions, to which the method has a row.
        criterion: What chose the points.

    Returns:
        The finding; shown where the difference to a rival is: in the old at a budget, in both together at a rate.
    """
    rows = rivals.where(method=method, question=question).rows()
    is_rate = rows[0]["kind"] == "rate"
    compare = _together if is_rate else _of_the_old
    told = ordered([_same(row) if row["same_model"] else compare(row) for row in rows])
    text = "; ".join(claim.text for claim in told)
    return Statement(
        f"{_opening(rows[0], criterion)}, {method_words(method)} {text}; by itself it {_deed(rows[0])}.",
        told[0].tone,
        _detail(rows, is_rate, criterion),
    )


def _opening(row: Row, criterion: Criterion) -> str:
    """The question, in what chose the points."""
    asked = row["question"].removeprefix("asked: ")
    if criterion == "checkpoints":
        return {
            "budget": f"At a {DIVERGENCE} of at most {row['budget']:g} nats a learned task (on the rows that chose)",
            "rate": f"Where one nat of the old is worth {row['rate']:g} of the new, in {DIVERGENCE} (on the rows that chose)",
        }.get(row["kind"], f"Asked for {asked} in {DIVERGENCE} (on the rows that chose)")
    return {
        "budget": f"At a cost of at most {row['budget']:g} nats a learned task (on the rows that chose)",
        "rate": f"Where one nat of the old is worth {row['rate']:g} of the new",
    }.get(row["kind"], f"Asked for {asked} (on the rows that chose)")


def _deed(row: Row) -> str:
    """What the method does at the question, in absolute figures."""
    regained, paid = Estimate.of(row, "regained"), Estimate.of(row, "paid")
    if regained.is_negative:
        what = f"loses a further {-regained} nats of the old"
    elif regained.is_positive:
        what = f"regains {regained} nats of the old"
    else:
        what = f"is not shown to regain any of the old ({regained} nats)"
    if paid.is_negative:
        return f"{what} and wins a further {-paid} of the new"
    if paid.is_positive:
        return f"{what} and pays {paid} of the new"
    return f"{what} and is not shown to pay any of the new ({paid})"


def _same(row: Row) -> Claim:
    return Claim(f"is the same model as that of {_rival(row)}", "shown")


def _of_the_old(row: Row) -> Claim:
    """How much more of the old than the rival, and what the rival pays."""
    more, theirs = Estimate.of(row, "more_regained"), _rival(row)
    if more.is_positive:
        text = f"regains {more} nats more of the old than {theirs}"
    elif more.is_negative:
        text = f"regains {-more} nats less of the old than {theirs}"
    else:
        text = _unclear(more, theirs, "in the old")
    if row["answer"] != "after":
        text = f"{text}, {_pays(-Estimate.of(row, 'more_paid'))}{_verdict(row)}"
    return Claim(text, sign_tone(more))


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


def _together(row: Row) -> Claim:
    """How much better the trade is than the rival's, in nats of the new."""
    objective, theirs = Estimate.of(row, "objective"), _rival(row)
    if objective.is_negative:
        text = f"does {-objective} nats better together than {theirs}"
    elif objective.is_positive:
        text = f"does {objective} nats worse together than {theirs}"
    else:
        text = _unclear(objective, theirs, "together")
    return Claim(f"{text}{_verdict(row)}", sign_tone(objective))


def _unclear(figure: Estimate, theirs: str, where: str) -> str:
    if figure.has_interval:
        return f"is not shown to differ {where} from {theirs} ({figure})"
    return f"cannot be told apart {where} from {theirs} ({figure})"


def _verdict(row: Row) -> str:
    """Who regains more and pays less, where either does both."""
    more, paid = Estimate.of(row, "more_regained"), Estimate.of(row, "more_paid")
    if more.is_positive and paid.is_negative:
        return f": {method_words(row['method'])} is better in both"
    if more.is_negative and paid.is_positive:
        return f": {method_words(row['rival'])} is better in both"
    return ""


def _detail(rows: Sequence[Row], is_rate: bool, criterion: Criterion) -> str:
    what = (
        "Together: new + rate × old, in nats of the new."
        if is_rate
        else "What was asked was kept on the rows that chose; what was paid is read on others."
    )
    by = ""
    if criterion == "checkpoints":
        what, by = f"{what} Regained, paid and together are losses. {TWO_THINGS}", " its loss on"
    found = joined([f"{method_words(row['rival'])} by {row['answer']!r}" for row in rows])
    return (
        f"Regained and paid against after, differences paired, {basis([rows[0]])}. {what} The same question is answered: "
        f"{found}, chosen by rows that are not reported (a replay fine-tune's by{by} rows that it did not learn). The choices "
        "are held fixed."
    )
