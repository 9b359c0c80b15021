"""What a repair found, in plain sentences that never say more than their intervals.

A gain or a cost is *shown* only where its interval excludes 0. Gains and costs are differences to the model after, paired
by row, on rows that chose nothing. All hold for these checkpoints: another seed of the training may differ. A sentence
has the tone of the claim it opens with; gains open before costs, and of each those that are shown.

What chose the points, in words: losses of the text, or without labels divergences from a checkpoint.

Whatever chose, what is reported is the loss of the text. A divergence is never said to be a loss, nor the contrary.

What a method regains and pays against its rivals at the same question, in sentences that hold in both directions.

A sentence has the tone of the claim it opens with: rivals come first, those that the method is shown to
differ from before others, and what it regains and pays by itself comes last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import Claim, Estimate, open_tone, ordered, sign_tone
from crosstune.foundation.records.page import Statement, Tone
from crosstune.merging import tables as names
from crosstune.merging.points import Point

Criterion = Literal["text", "checkpoints"]
"""The setting `target`."""

DIVERGENCE = "divergence from the checkpoint that knows the task"
CHOSEN_BY: dict[Criterion, str] = {"text": "loss of the text", "checkpoints": DIVERGENCE}

TWO_THINGS = "A divergence is what chose, a loss is what is reported: the two are different things."


def asked_as(label: str, criterion: Criterion) -> str:
    """A point's label with what it is counted in: `rate 1`, or `rate 1, in divergence`."""
    return f"{label}, in divergence" if criterion == "checkpoints" else label


def picked_as(label: str, criterion: Criterion) -> str:
    """How a point was picked: `Picked as 'rate 1' on other rows`, and by what, where that is no loss."""
    by = f", by {DIVERGENCE}" if criterion == "checkpoints" else ""
    return f"Picked as {label!r} on other rows{by}"


Row = Mapping[str, Any]

_METHODS = {
    "global": "one global coefficient",
    "ramp": "a ramp over depth",
    "layer": "one coefficient a layer",
    "component": "one coefficient a component",
    "expert": "one coefficient an expert",
    "tensor": "one coefficient a tensor",
    "embedding_rows": "coefficients for classes of embedding rows",
    "kv_head": "coefficients for key-value groups of heads",
    "head": "coefficients for attention heads",
    "singular": "coefficients for singular directions",
    "replay": "a replay fine-tune",
}


def identical() -> Statement:
    """The finding that the two checkpoints do not differ."""
    return Statement(
        "Nothing to repair: the two checkpoints are identical.",
        "shown",
        "No parameter differs in any bit.",
    )


def ends(tasks: Table, *, named: bool = False) -> list[Statement]:
    """What happened to each task from before to after; or why there is nothing to repair, or nothing to keep.

    Args:
        tasks: The table `repair_tasks`.
        named: Whether a user named the learned tasks, so that no row decided who learned and who forgot.

    Returns:
        One finding on what was forgotten and one on what was learned; only one where no loss changed at all.
    """
    if not len(tasks):
        return [
            Statement(
                "Nothing to repair: no task's loss changed on the rows that choose.",
                "info",
                "To the last digit; the two models compute the same there.",
            )
        ]
    changed = _changes(tasks)
    rows = _first_method(tasks).where(point=0).rows()
    roles = {row["task"]: row["role"] for row in rows}
    who = (
        "Which tasks were learned was named; all others count as forgotten."
        if named
        else "Which tasks were learned and which forgotten was read off the rows that choose."
    )
    detail = f"Loss of after minus loss of before, paired, {basis(rows)}. {who}"
    found = []
    for role, sign in (("forgotten", 1), ("learned", -1)):
        every = {task: change if sign > 0 else -change for task, change in changed.items()}
        of_role = {task: change for task, change in every.items() if roles[task] == role}
        make = _happened if of_role else _nothing
        found.append(make(role, of_role or every, detail))
    return found


def _happened(role: str, figures: Mapping[str, Estimate], detail: str) -> Statement:
    """The tasks of one role; the figures are positive where reported rows agree with the role."""
    told = ordered([_change(role, task, one) for task, one in figures.items()])
    text = "; ".join(claim.text for claim in told)
    return Statement(f"From before to after: {text}.", told[0].tone, detail)


def _change(role: str, task: str, one: Estimate) -> Claim:
    verb, opposite = ("rose", "fell") if role == "forgotten" else ("fell", "rose")
    if one.is_positive:
        return Claim(f"the loss of {task} {verb} by {one} nats per token", "shown")
    if one.is_negative:
        against = f"though it counts as {role}"
        return Claim(
            f"the loss of {task} {opposite} by {-one} nats per token, {against}", "warning"
        )
    return Claim(
        f"that the loss of {task} {verb} is not shown ({one} nats per token)", open_tone(one)
    )


def _nothing(role: str, figures: Mapping[str, Estimate], detail: str) -> Statement:
    """No task has the role on the rows that choose; the figures are what a task of the role would have lost or won."""
    verb, what = (
        ("rose", "Nothing to repair") if role == "forgotten" else ("fell", "Nothing to keep")
    )
    against = [f"{task} by {one}" for task, one in figures.items() if one.is_positive]
    named = _listed(figures)
    if against:
        return Statement(
            f"On the rows that choose no task's loss {verb}, but on reported rows it did: {', '.join(against)} nats per "
            "token. Give more selection rows.",
            "warning",
            detail,
        )
    if all(one.is_negative for one in figures.values()):
        return Statement(f"{what}: no task's loss {verb} ({named}).", "shown", detail)
    return Statement(
        f"{what} is known: that any task's loss {verb} is not shown ({named}).",
        _all_open(figures),
        detail,
    )


def _listed(figures: Mapping[str, Estimate]) -> str:
    return "; ".join(f"{task} {one}" for task, one in figures.items())


def _all_open(figures: Mapping[str, Estimate]) -> Tone:
    return "not_shown" if all(one.has_interval for one in figures.values()) else "too_noisy"


def trade(point: Point, tasks: Table, place: int, criterion: Criterion = "text") -> Statement:
    """What a point gave back and what it cost, in one sentence.

    Returns:
        The finding; shown where the gain in at least one forgotten task is and none is lost further.
    """
    if point.kind == "after":
        return Statement(
            "The model after was picked as it is: nothing is given back and nothing paid.", "info"
        )
    forgotten = _changes(tasks)
    rows = _of_method(tasks, point.method).where(point=place).rows()
    gains = {row["task"]: -Estimate.of(row, "change") for row in rows if row["role"] == "forgotten"}
    costs = {row["task"]: Estimate.of(row, "change") for row in rows if row["role"] == "learned"}
    told = ordered([_gain(task, gain, forgotten[task]) for task, gain in gains.items()])
    told += ordered([_cost(task, cost) for task, cost in costs.items()])
    return Statement(
        f"{_deed(point, criterion)} {joined([claim.text for claim in told])}; {basis(rows)}.",
        told[0].tone,
        f"{picked_as(point.label, criterion)}. Differences to the model after, paired; the checkpoints and the choice "
        "are held fixed, so another seed of the training may trade otherwise.",
    )


def _deed(point: Point, criterion: Criterion) -> str:
    if point.kind == "before":
        return "Going back to the model before"
    if point.kind == "replay":
        return f"A replay fine-tune of {point.step} steps"
    repair = f"The repair with {method_words(point.method)} ({asked_as(point.label, criterion)})"
    if point.coefficients is None or not point.coefficients.numel():
        return repair
    least, most = (f"{bound.item():.2f}" for bound in point.coefficients.aminmax())
    if least != most:
        return repair
    how = "" if point.method == "global" else f", with {method_words(point.method)},"
    return f"Keeping {least} of every change{how}"


def _gain(task: str, gain: Estimate, forgotten: Estimate) -> Claim:
    lost = f"the {forgotten.value:.2f} nats of {task} that were forgotten"
    if gain.is_positive and forgotten.is_positive:
        return Claim(f"gave back {gain} of {lost}", "shown")
    if gain.is_positive:
        return Claim(f"lowered the loss of {task} by {gain} nats", "shown")
    if gain.is_negative:
        return Claim(f"raised the loss of {task} by a further {-gain} nats", "warning")
    return Claim(f"is not shown to give back any of {task} ({gain} nats)", open_tone(gain))


def _cost(task: str, cost: Estimate) -> Claim:
    if cost.is_positive:
        return Claim(f"cost {cost} nats of {task}", "shown")
    if cost.is_negative:
        return Claim(f"won a further {-cost} nats of {task}", "shown")
    return Claim(f"is not shown to cost any {task} ({cost} nats)", open_tone(cost))


def comparison(hypervolume: Table, method: str, other: str) -> Statement:
    """Whether one method's front opens up more of the room between before and after than another's.

    Args:
        hypervolume: The table `repair_hypervolume`.
        method: The method that is judged.
        other: `global` or `replay`.

    Returns:
        The finding; "beats" and "does worse" only where the interval of the difference excludes 0.
    """
    rows = {row["method"]: row for row in hypervolume.rows()}
    row = rows[method]
    value, more = Estimate.of(row, "value"), Estimate.of(row, f"over_{other}")
    mine, theirs = method_words(method), method_words(other)
    tone: Tone
    points, rival = row["points"], rows[other]["points"] if other in rows else 0
    detail = (
        f"Hypervolume on reported rows: {value}. {names.ROOM} {points} points against {rival}, both ends included; "
        f"{basis([row])}. A front takes the best of noisy points, which favours the one with more."
    )
    opened = f"it opens up {value.value:.2f} of the room between before and after"
    if not more.has_interval:
        text, tone = f"Whether the front of {mine} beats {theirs} cannot be told", "too_noisy"
    elif more.is_positive:
        helped = f", with {points} points against {rival}" if points > rival else ""
        text, tone = f"The front of {mine} beats {theirs}: {opened}, {more} more{helped}", "shown"
    elif more.is_negative:
        helped = f", with {points} points against {rival}" if points < rival else ""
        text = f"The front of {mine} does not beat {theirs}: {opened}, {-more} less{helped}"
        tone = "shown"
    else:
        text = f"That the front of {mine} differs from that of {theirs} is not shown: {opened}, a difference of {more}"
        tone = "not_shown"
    return Statement(f"{text}.", tone, detail)


def constraints(
    point: Point,
    tasks: Table,
    place: int,
    limits: Mapping[str, float],
    criterion: Criterion = "text",
) -> list[Statement]:
    """Whether what was asked for, and kept on the rows that choose, holds on the reported rows.

    No loss can say that of a limit to a divergence, so there it is only told what the loss did.

    Args:
        limits: The most that each task may lose, or diverge further, against after.

    Returns:
        One finding a limit: kept, exceeded, or neither shown; or what was asked, and what the loss did.
    """
    made = _divergence_limit if criterion == "checkpoints" else _constraint
    rows = {row["task"]: row for row in _of_method(tasks, point.method).where(point=place).rows()}
    return [made(rows[task], limit) for task, limit in limits.items()]


def _constraint(row: Row, limit: float) -> Statement:
    change = Estimate.of(row, "change")
    asked = f"Asked to lose at most {limit:g} nats of {row['task']}"
    found = f"on reported rows it is {change}"
    detail = f"Loss minus loss of after, paired, {basis([row])}; the limit was held on other rows."
    if not change.has_interval:
        return Statement(
            f"{asked}: whether the limit is kept cannot be told, {found}.", "too_noisy", detail
        )
    if change.high <= limit:
        return Statement(f"{asked}: kept, {found}.", "shown", detail)
    if change.low > limit:
        return Statement(f"{asked}: exceeded, {found}.", "warning", detail)
    return Statement(f"{asked}: neither kept nor exceeded is shown, {found}.", "not_shown", detail)


def _divergence_limit(row: Row, limit: float) -> Statement:
    change, task = Estimate.of(row, "change"), row["task"]
    if change.is_positive:
        found = f"rose by {change} nats"
    elif change.is_negative:
        found = f"fell by {-change} nats"
    else:
        found = f"is not shown to have changed ({change} nats)"
    return Statement(
        f"Asked that {task} diverge at most {limit:g} nats further than the model after from the checkpoint that knows "
        f"the task; its loss on reported rows {found}.",
        "info",
        f"The limit was held on other rows. Loss minus loss of after, paired, {basis([row])}. {TWO_THINGS}",
    )


def method_words(method: str) -> str:
    """A method as a reader would say it: `one global coefficient` for `global`."""
    return _METHODS.get(method, method)


def _changes(tasks: Table) -> dict[str, Estimate]:
    """How each task's loss changed from before to after; positive is forgotten."""
    rows = _first_method(tasks).where(point=0).rows()
    return {row["task"]: -Estimate.of(row, "change") for row in rows}


def _first_method(tasks: Table) -> Table:
    return tasks.where(method=tasks.column("method")[0])


def _of_method(tasks: Table, method: str) -> Table:
    """The method's points; the ends stand in every method's list."""
    own = tasks.where(method=method)
    return own if len(own) else _first_method(tasks)


def basis(rows: Sequence[Row]) -> str:
    """How many held-out rows or groups stand behind the figures: `214 held-out rows a task`."""
    counts, unit = sorted({row["n"] for row in rows}), rows[0]["n_unit"]
    spelled = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{spelled} held-out {unit}{' a task' if len(rows) > 1 else ''}"


def joined(clauses: Sequence[str]) -> str:
    """The clauses as one: `a, b and c`."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"


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
        f"{_opening(rows[0], criterion)}, {method_words(method)} {text}; by itself it {_absolutely(rows[0])}.",
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


def _absolutely(row: Row) -> str:
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
