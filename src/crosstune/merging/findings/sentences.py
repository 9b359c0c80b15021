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
from crosstune.foundation.records.findings import Claim, Estimate, ordered
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


def trade_off(
    point: Point,
    tasks: Table,
    place: int,
    criterion: Criterion = "text",
    rivals: Table | None = None,
) -> Statement:
    """What a point gave back, what it cost and, by `repair_rivals`, whether one global coefficient does as well.

    Shown where a gain is, nothing is lost further, and test rows confirm every limit.
    """
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
    limits = dict(point.limits) if criterion == "text" else {}
    if point.kind == "budget" and criterion == "text":
        limits = dict.fromkeys(changes["learned"], point.budget)
    claims += ordered([_cost(t, one, limits.get(t)) for t, one in changes["learned"].items()])
    held = [_held(one, limits[t]) for t, one in changes["learned"].items() if t in limits]
    tone, open_ones = claims[0].tone, {one.tone for one in held} - {"shown"}
    if tone == "shown" and open_ones:
        tone = "warning" if "warning" in open_ones else "info"
    own = {"method": point.method, "question": point.label, "rival": "global"}
    worth = [] if rivals is None else [f"{_pays_off(row)}; " for row in rivals.where(**own).rows()]
    return Statement(
        f"{_deed(point, criterion)} {joined([claim.text for claim in claims])}; {''.join(worth)}{basis(rows)}.",
        tone,
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


def _cost(task: str, change: Estimate, limit: float | None) -> Claim:
    """What a learned task lost; where it was to lose no more than a limit, whether that is confirmed."""
    won = f"won a further {{}} nats of {task}"
    if limit is None:
        unsure = f"is not shown to cost any {task} ({{}} nats)"
        return change.says(f"cost {{}} nats of {task}", won, unsure)
    held = f"(limit {limit:g}: {_held(change, limit).text})"
    moved = f"changed the loss of {task} by {{}} nats {held}"
    return change.says(f"cost {{}} nats of {task} {held}", won, moved)


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
    held, plus = _held(change, limit), "+" if change.value > 0 else ""
    return Statement(
        f"Limit of {limit:g} nats of {row['task']}: met on validation rows, {held.text} on test rows ({plus}{change}).",
        held.tone,
        f"Loss minus loss of after, paired, {basis([row])}. Confirmed where the whole interval keeps the limit, exceeded "
        "where none of it does. `margin` asks for a point that keeps it on rows that did not choose.",
    )


def _held(change: Estimate, limit: float) -> Claim:
    """Whether test rows confirm a limit that validation rows met."""
    if not change.has_interval:
        return Claim("too noisy to confirm", "too_noisy")
    if change.high <= limit:
        return Claim("confirmed", "shown")
    return (
        Claim("exceeded", "warning") if change.low > limit else Claim("not confirmed", "not_shown")
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
    """A method against its rivals at what was asked, the smallest maximum loss increase and the trade-off weight nearest to 1.

    `rivals` is the table `repair_rivals`, or its means over seeds.
    """
    rows = rivals.where(method=method).rows()
    nearest: dict[str, Callable[[Row], Any]] = {
        "asked": lambda row: row["question"],
        "budget": lambda row: row["budget"],
        "rate": lambda row: abs(math.log(row["rate"])),
    }
    of_kind = [([row for row in rows if row["kind"] == kind], key) for kind, key in nearest.items()]
    chosen = [min(some, key=key) for some, key in of_kind if some]
    return [answer(rivals, method, row["question"], criterion) for row in chosen]


def answer(rivals: Table, method: str, question: str, criterion: Criterion = "text") -> Statement:
    """A method against its rivals at the price that its point pays; rivals it is shown to differ from come first."""
    rows = rivals.where(method=method, question=question).rows()
    claims = ordered([_at_that_price(row) for row in rows])
    text = "; ".join(claim.text for claim in claims)
    return Statement(
        f"{_opening(rows[0], criterion)}, {method_words(method)} {text}; by itself it {_absolutely(rows[0])}.",
        claims[0].tone,
        _detail(rows, criterion),
    )


def _pays_off(row: Row) -> str:
    """Whether a point is worth more than one global coefficient at its price, in a clause: an advantage that is not shown is none."""
    more = Estimate.of(row, "more_regained")
    if row["same_model"]:
        return "it is one global coefficient"
    return more.says(
        "that is {} nats more than one global coefficient gives back at the same price",
        "one global coefficient gives back {} nats more at the same price",
        "as far as is shown, one global coefficient does as well ({} nats less at the same price)",
    ).text


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


def _at_that_price(row: Row) -> Claim:
    """How much more of the old than the rival regains for the same price."""
    theirs = f"{method_words(row['rival'])} at the same price"
    if row["same_model"]:
        return Claim(f"is itself {method_words(row['rival'])}", "shown")
    return Estimate.of(row, "more_regained").says(
        f"regains {{}} nats more of the old than {theirs}",
        f"regains {{}} nats less of the old than {theirs}",
        f"is not shown to regain more or less of the old than {theirs} ({{}} nats)",
    )


def _detail(rows: Sequence[Row], criterion: Criterion) -> str:
    chosen = (
        f" What was asked is of the {DIVERGENCE}. {TWO_THINGS}"
        if criterion == "checkpoints"
        else ""
    )
    return (
        f"Regained and paid against after, paired, {basis([rows[0]])}. At the price that the point pays on these rows the "
        "rival regains the most that it can for it: one global coefficient along its line, a replay fine-tune along its stops; "
        f"where even its cheapest model costs more, what that one regains. The choice of the point is held fixed.{chosen}"
    )
