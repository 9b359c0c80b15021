"""What a repair found, in plain sentences that never say more than their intervals.

A gain or a cost is *shown* only where its interval excludes 0. Both are differences to the model after, paired by row, on
test rows. All hold for these checkpoints: another seed of the training may differ. A sentence has the tone of the claim
it opens with; gains open before costs, and of each those that are shown.

Points are chosen by losses of the text, or without labels by divergences from a checkpoint. Whatever chose, what is
reported is the loss of the text: a divergence is never said to be a loss, nor the contrary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import Claim, Estimate, open_tone, ordered
from crosstune.foundation.records.page import Statement
from crosstune.merging import tables as names
from crosstune.merging.points import Point

Row = Mapping[str, Any]
Criterion = Literal["text", "checkpoints"]
"""The setting `target`."""

DIVERGENCE = "divergence from the checkpoint that knows the task"
CHOSEN_BY: dict[Criterion, str] = {"text": "loss of the text", "checkpoints": DIVERGENCE}
TWO_THINGS = "A divergence is what chose, a loss is what is reported: the two are different things."

_METHODS = {
    "global": "one global coefficient",
    "ramp": "a ramp over depth",
    "layer": "one coefficient per layer",
    "component": "one coefficient per component",
    "expert": "one coefficient per expert",
    "tensor": "one coefficient per tensor",
    "embedding_rows": "one coefficient per class of embedding rows",
    "kv_head": "one coefficient per key-value group of heads",
    "head": "one coefficient per attention head",
    "singular": "one coefficient per singular direction",
    "replay": "a replay fine-tune",
}


def method_words(method: str) -> str:
    """A method as a reader would say it: `one global coefficient` for `global`."""
    return _METHODS.get(method, method)


def picked_as(label: str, criterion: Criterion) -> str:
    """How a point was picked: `Picked as 'rate 1' on validation rows`, and by what, where that is no loss."""
    by = f", by {DIVERGENCE}" if criterion == "checkpoints" else ""
    return f"Picked as {label!r} on validation rows{by}"


def basis(rows: Sequence[Row]) -> str:
    """How many test rows or groups stand behind the figures: `214 test rows a task`."""
    counts, unit = sorted({row["n"] for row in rows}), rows[0]["n_unit"]
    spelled = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{spelled} test {unit}{' a task' if len(rows) > 1 else ''}"


def joined(clauses: Sequence[str]) -> str:
    """The clauses as one: `a, b and c`."""
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])} and {clauses[-1]}"


def identical() -> Statement:
    """The finding that the two checkpoints do not differ."""
    return Statement(
        "Nothing to repair: the two checkpoints are identical.",
        "shown",
        "No parameter differs in any bit.",
    )


def ends(tasks: Table, *, named: bool = False) -> list[Statement]:
    """What was forgotten from before to after and what was learned, or why there is nothing to repair or to keep.

    With `named` a user named the learned tasks, so that no row decided who learned and who forgot.
    """
    if not len(tasks):
        return [
            Statement(
                "Nothing to repair: no task's loss changed on validation rows.",
                "info",
                "To the last digit; the two models compute the same there.",
            )
        ]
    rows = _first_method(tasks).where(point=0).rows()
    roles = {row["task"]: row["role"] for row in rows}
    who = (
        "Which tasks were learned was named; all others count as forgotten."
        if named
        else "Which tasks were learned and which forgotten was read off the validation rows."
    )
    detail = f"Loss of after minus loss of before, paired, {basis(rows)}. {who}"
    found = []
    for role in ("forgotten", "learned"):
        rises = _changes(tasks)
        every = {task: one if role == "forgotten" else -one for task, one in rises.items()}
        of_role = {task: one for task, one in every.items() if roles[task] == role}
        make = _happened if of_role else _nothing
        found.append(make(role, of_role or every, detail))
    return found


def _happened(role: str, figures: Mapping[str, Estimate], detail: str) -> Statement:
    """The tasks of one role; the figures are positive where test rows agree with the role."""
    verb, opposite = ("rose", "fell") if role == "forgotten" else ("fell", "rose")
    claims = [
        _unexpected(
            one,
            one.says(
                f"the loss of {task} {verb} by {{}} nats per token",
                f"the loss of {task} {opposite} by {{}} nats per token, though it counts as {role}",
                f"that the loss of {task} {verb} is not shown ({{}} nats per token)",
            ),
        )
        for task, one in figures.items()
    ]
    first, *_ = claims = ordered(claims)
    text = "; ".join(claim.text for claim in claims)
    return Statement(f"From before to after: {text}.", first.tone, detail)


def _unexpected(figure: Estimate, claim: Claim) -> Claim:
    """The claim, a warning where the figure is negative."""
    return replace(claim, tone="warning") if figure.is_negative else claim


def _nothing(role: str, figures: Mapping[str, Estimate], detail: str) -> Statement:
    """No task has the role on validation rows; the figures are what a task of the role would have lost or won."""
    verb, what = (
        ("rose", "Nothing to repair") if role == "forgotten" else ("fell", "Nothing to keep")
    )
    against = [f"{task} by {one}" for task, one in figures.items() if one.is_positive]
    listed = "; ".join(f"{task} {one}" for task, one in figures.items())
    if against:
        return Statement(
            f"On validation rows no task's loss {verb}, but on test rows it did: {', '.join(against)} nats per token. "
            "Give more validation rows.",
            "warning",
            detail,
        )
    if all(one.is_negative for one in figures.values()):
        return Statement(f"{what}: no task's loss {verb} ({listed}).", "shown", detail)
    return Statement(
        f"{what} is known: that any task's loss {verb} is not shown ({listed}).",
        "not_shown" if all(one.has_interval for one in figures.values()) else "too_noisy",
        detail,
    )


def trade_off(point: Point, tasks: Table, place: int, criterion: Criterion = "text") -> Statement:
    """What a point gave back and what it cost; shown where a gain is and nothing is lost further."""
    if point.kind == "after":
        return Statement(
            "The model after was picked as it is: nothing is given back and nothing paid.", "info"
        )
    forgotten = _changes(tasks)
    rows = _of_method(tasks, point.method).where(point=place).rows()
    changes = {role: {} for role in ("forgotten", "learned")}  # type: dict[str, dict[str, Estimate]]
    for row in rows:
        changes[row["role"]][row["task"]] = Estimate.of(row, "change")
    claims = ordered([_gain(t, -one, forgotten[t]) for t, one in changes["forgotten"].items()])
    claims += ordered(
        [
            one.says(
                f"cost {{}} nats of {task}",
                f"won a further {{}} nats of {task}",
                f"is not shown to cost any {task} ({{}} nats)",
            )
            for task, one in changes["learned"].items()
        ]
    )
    return Statement(
        f"{_deed(point, criterion)} {joined([claim.text for claim in claims])}; {basis(rows)}.",
        claims[0].tone,
        f"{picked_as(point.label, criterion)}. Differences to the model after, paired; the checkpoints and the choice "
        "are held fixed, so another seed of the training may differ.",
    )


def _deed(point: Point, criterion: Criterion) -> str:
    if point.kind == "before":
        return "Going back to the model before"
    if point.kind == "replay":
        return f"A replay fine-tune of {point.step} steps"
    method = method_words(point.method)
    if point.coefficients is not None and point.coefficients.numel():
        least, most = (f"{bound.item():.2f}" for bound in point.coefficients.aminmax())
        if least == most:
            how = "" if point.method == "global" else f", with {method},"
            return f"Keeping {least} of every change{how}"
    counted_in = ", in divergence" if criterion == "checkpoints" else ""
    return f"The repair with {method} ({point.label}{counted_in})"


def _gain(task: str, gain: Estimate, forgotten: Estimate) -> Claim:
    gave = f"lowered the loss of {task} by {{}} nats"
    if forgotten.is_positive:
        gave = f"gave back {{}} of the {forgotten.value:.2f} nats of {task} that were forgotten"
    worse = f"raised the loss of {task} by a further {{}} nats"
    claim = gain.says(gave, worse, f"is not shown to give back any of {task} ({{}} nats)")
    return _unexpected(gain, claim)


def comparison(hypervolume: Table, method: str, other: str) -> Statement:
    """Whether one method's front dominates more of the area between before and after than `global`'s or `replay`'s."""
    rows = {row["method"]: row for row in hypervolume.rows()}
    row = rows[method]
    value, more = Estimate.of(row, "value"), Estimate.of(row, f"over_{other}")
    mine, theirs = method_words(method), method_words(other)
    points, rival = row["points"], rows[other]["points"] if other in rows else 0
    detail = (
        f"Hypervolume on test rows: {value}. {names.AREA} {points} points against {rival}, both endpoints included; "
        f"{basis([row])}. A front takes the best of noisy points, which favours the one with more."
    )
    if not more.has_interval:
        text = f"Whether the front of {mine} beats {theirs} is too noisy to say."
        return Statement(text, "too_noisy", detail)
    covers = f"it dominates {value.value:.2f} of the area between before and after"
    favoured = points > rival if more.is_positive else points < rival
    helped = f", with {points} points against {rival}" if favoured else ""
    claim = more.says(
        f"The front of {mine} beats {theirs}: {covers}, {{}} more{helped}",
        f"The front of {mine} does not beat {theirs}: {covers}, {{}} less{helped}",
        f"That the front of {mine} differs from that of {theirs} is not shown: {covers}, a difference of {{}}",
    )
    return Statement(f"{claim.text}.", claim.tone, detail)


def constraints(
    point: Point,
    tasks: Table,
    place: int,
    limits: Mapping[str, float],
    criterion: Criterion = "text",
) -> list[Statement]:
    """Whether each maximum loss increase, kept on validation rows, holds on the test rows.

    No loss can say that of a limit to a divergence, so there it is only said what the loss did.
    """
    make = _divergence_limit if criterion == "checkpoints" else _constraint
    rows = {row["task"]: row for row in _of_method(tasks, point.method).where(point=place).rows()}
    return [make(rows[task], limit) for task, limit in limits.items()]


def _constraint(row: Row, limit: float) -> Statement:
    change = Estimate.of(row, "change")
    if not change.has_interval:
        claim = Claim("whether the limit is kept is too noisy to say", "too_noisy")
    elif change.high <= limit:
        claim = Claim("kept", "shown")
    elif change.low > limit:
        claim = Claim("exceeded", "warning")
    else:
        claim = Claim("neither kept nor exceeded is shown", "not_shown")
    return Statement(
        f"Asked to lose at most {limit:g} nats of {row['task']}: {claim.text}, on test rows it is {change}.",
        claim.tone,
        f"Loss minus loss of after, paired, {basis([row])}; the limit was held on other rows.",
    )


def _divergence_limit(row: Row, limit: float) -> Statement:
    claim = Estimate.of(row, "change").says(
        "rose by {} nats", "fell by {} nats", "is not shown to have changed ({} nats)"
    )
    return Statement(
        f"Asked that {row['task']} diverge at most {limit:g} nats further than the model after from the checkpoint that "
        f"knows the task; its loss on test rows {claim.text}.",
        "info",
        f"The limit was held on other rows. Loss minus loss of after, paired, {basis([row])}. {TWO_THINGS}",
    )


def _changes(tasks: Table) -> dict[str, Estimate]:
    """How each task's loss changed from before to after; positive is forgotten."""
    rows = _first_method(tasks).where(point=0).rows()
    return {row["task"]: -Estimate.of(row, "change") for row in rows}


def _first_method(tasks: Table) -> Table:
    return tasks.where(method=tasks.column("method")[0])


def _of_method(tasks: Table, method: str) -> Table:
    """The method's points; the endpoints stand in every method's list."""
    own = tasks.where(method=method)
    return own if len(own) else _first_method(tasks)


def answers(rivals: Table, method: str, criterion: Criterion = "text") -> list[Statement]:
    """A method against its rivals at the smallest maximum loss increase and at the trade-off weight nearest to 1.

    `rivals` is the table `repair_rivals`, or its means over seeds.
    """
    rows = rivals.where(method=method).rows()
    nearest: dict[str, Callable[[Row], float]] = {
        "budget": lambda row: row["budget"],
        "rate": lambda row: abs(math.log(row["rate"])),
    }
    of_kind = [([row for row in rows if row["kind"] == kind], key) for kind, key in nearest.items()]
    chosen = [min(some, key=key) for some, key in of_kind if some]
    return [answer(rivals, method, row["question"], criterion) for row in chosen]


def answer(rivals: Table, method: str, question: str, criterion: Criterion = "text") -> Statement:
    """A method against its rivals at one question of the table; rivals it is shown to differ from come first.

    Shown where the difference is: in the old at a maximum loss increase, in both together at a trade-off weight.
    """
    rows = rivals.where(method=method, question=question).rows()
    is_rate = rows[0]["kind"] == "rate"
    compare = _together if is_rate else _of_the_old
    claims = ordered([_same(row) if row["same_model"] else compare(row) for row in rows])
    text = "; ".join(claim.text for claim in claims)
    return Statement(
        f"{_opening(rows[0], criterion)}, {method_words(method)} {text}; by itself it {_absolutely(rows[0])}.",
        claims[0].tone,
        _detail(rows, is_rate, criterion),
    )


def _opening(row: Row, criterion: Criterion) -> str:
    """The question, in what chose the points."""
    by_divergence = criterion == "checkpoints"
    if row["kind"] == "rate":
        weight = f"Where one nat of the old is worth {row['rate']:g} of the new"
        return f"{weight}, in {DIVERGENCE} (on validation rows)" if by_divergence else weight
    if row["kind"] == "budget":
        what = DIVERGENCE if by_divergence else "cost"
        return f"At a {what} of at most {row['budget']:g} nats a learned task (on validation rows)"
    what = f" in {DIVERGENCE}" if by_divergence else ""
    return f"Asked for {row['question'].removeprefix('asked: ')}{what} (on validation rows)"


def _absolutely(row: Row) -> str:
    """What the method does at the question, in absolute figures."""
    regained = Estimate.of(row, "regained").says(
        "regains {} nats of the old",
        "loses a further {} nats of the old",
        "is not shown to regain any of the old ({} nats)",
    )
    paid = Estimate.of(row, "paid").says(
        "pays {} of the new",
        "wins a further {} of the new",
        "is not shown to pay any of the new ({})",
    )
    return f"{regained.text} and {paid.text}"


def _same(row: Row) -> Claim:
    return Claim(f"is the same model as that of {_rival(row)}", "shown")


def _of_the_old(row: Row) -> Claim:
    """How much more of the old than the rival, and what the rival pays."""
    more, theirs = Estimate.of(row, "more_regained"), _rival(row)
    claim = more.says(
        f"regains {{}} nats more of the old than {theirs}",
        f"regains {{}} nats less of the old than {theirs}",
        _unclear(more, theirs, "in the old"),
    )
    if row["answer"] == "after":
        return claim
    pays = (-Estimate.of(row, "more_paid")).says(
        "which pays {} nats more of the new",
        "which pays {} nats less of the new",
        "which is not shown to pay more or less of the new ({})",
    )
    return replace(claim, text=f"{claim.text}, {pays.text}{_verdict(row)}")


def _rival(row: Row) -> str:
    stays = " (no stop does better than the model after)" if row["answer"] == "after" else ""
    return f"{method_words(row['rival'])}{stays}"


def _together(row: Row) -> Claim:
    """How much better the trade-off is than the rival's, in nats of the new."""
    objective, theirs = Estimate.of(row, "objective"), _rival(row)
    claim = objective.says(
        f"does {{}} nats worse together than {theirs}",
        f"does {{}} nats better together than {theirs}",
        _unclear(objective, theirs, "together"),
    )
    return replace(claim, text=f"{claim.text}{_verdict(row)}")


def _unclear(figure: Estimate, theirs: str, where: str) -> str:
    if open_tone(figure) == "too_noisy":
        return f"cannot be told apart {where} from {theirs} ({{}})"
    return f"is not shown to differ {where} from {theirs} ({{}})"


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
        else "What was asked was kept on validation rows; what was paid is read on test rows."
    )
    by = ""
    if criterion == "checkpoints":
        what, by = f"{what} Regained, paid and together are losses. {TWO_THINGS}", " its loss on"
    found = joined([f"{method_words(row['rival'])} by {row['answer']!r}" for row in rows])
    return (
        f"Regained and paid against after, differences paired, {basis([rows[0]])}. {what} The same question is answered: "
        f"{found}, chosen by validation rows (a replay fine-tune's by{by} those that it did not learn). The choices are held "
        "fixed."
    )
