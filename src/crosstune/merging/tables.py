"""The columns of a repair's tables: points of the fronts, tasks at each point, coefficients, figures of whole fronts."""

from __future__ import annotations

from crosstune.foundation.records import Column
from crosstune.foundation.records.sites import SITE_COLUMNS

NATS = "nats/token"

POINTS = "repair_points"
TASKS = "repair_tasks"
COEFFICIENTS = "repair_coefficients"
HYPERVOLUME = "repair_hypervolume"
RIVALS = "repair_rivals"
LINE = "repair_line"
HEADS = "repair_heads"
GENERATIONS = "repair_generations"
COST = "repair_cost"

ROOM = (
    "Share of the room between before and after that the front dominates; trades that cost more nats of the new than "
    "all that was forgotten do not count."
)

_OR_DIVERGENCE = (
    "; with `target: checkpoints` the divergence from the checkpoint that knows the task"
)
_MAY_LOSE = "What learned tasks may lose on the rows that chose"
CHOSE = f"Loss on the rows that chose{_OR_DIVERGENCE}. A replay's: loss on those it did not learn."

_METHOD = Column("method", "string", "axis", about="The granularity or baseline.")
_PLACE = (
    _METHOD,
    Column("point", "int64", "axis", about="Place in the method's list; 0 is the model before."),
)
_LABEL = Column("label", "string", "label", about="What the point answers, in a few words.")
_UNITS = (
    Column("n", "int64", "label", about="Reported rows or groups the intervals stand on."),
    Column("n_unit", "string", "label", about="What n counts: rows or groups."),
)


def _with_interval(name: str, about: str, unit: str = NATS) -> tuple[Column, Column, Column]:
    how = "Jackknife-t over reported rows or groups, paired."
    return (
        Column(name, "float64", "value", unit=unit, about=about),
        Column(f"{name}_low", "float64", "low", unit=unit, of=name, about=how),
        Column(f"{name}_high", "float64", "high", unit=unit, of=name, about=how),
    )


POINTS_COLUMNS = (
    *_PLACE,
    Column("kind", "string", "label", about="before, after, rate, budget, asked or replay."),
    _LABEL,
    Column("rate", "float64", "label", about="Nats of the new that one nat of the old is worth."),
    Column("budget", "float64", "label", unit=NATS, about=f"{_MAY_LOSE}{_OR_DIVERGENCE}."),
    Column("coordinates", "int64", "label", about="How many numbers could be chosen."),
    Column(
        "selection_old",
        "float64",
        "value",
        unit=NATS,
        about=f"Mean over the forgotten tasks. {CHOSE}",
    ),
    Column(
        "selection_new",
        "float64",
        "value",
        unit=NATS,
        about=f"Mean over the learned tasks. {CHOSE}",
    ),
    *_with_interval("old", "Mean loss of the forgotten tasks on reported rows."),
    *_with_interval("new", "Mean loss of the learned tasks on reported rows."),
    *_with_interval("regained", "Old loss of after minus here; positive is better."),
    *_with_interval("paid", "New loss here minus after; positive is worse."),
    Column(
        "on_front",
        "bool",
        "label",
        about="No point of the method is better in both by what chose, on selection rows.",
    ),
    *_UNITS,
)

TASKS_COLUMNS = (
    *_PLACE,
    _LABEL,
    Column("task", "string", "axis", about="The task whose loss is read."),
    Column("role", "string", "label", about="learned or forgotten from before to after."),
    Column("selection", "float64", "value", unit=NATS, about=CHOSE),
    *_with_interval("loss", "Loss on reported rows."),
    *_with_interval("change", "Loss here minus loss after; negative is better."),
    *_UNITS,
)

COEFFICIENTS_COLUMNS = (
    *_PLACE,
    _LABEL,
    *SITE_COLUMNS,
    Column("parameter", "string", "axis", about="The parameter, by its name in the work model."),
    Column("rows", "string", "axis", about="Class of embedding rows, or empty."),
    Column("direction", "int64", "axis", about="Singular direction; −1 is the rest, or all."),
    Column("checkpoint", "int64", "axis", about="Which end after before, from 1."),
    Column("coefficient", "float64", "value", about="Share of the change that is kept."),
    Column("elements", "int64", "label", about="Numbers the coefficient scales."),
    Column("delta_share", "float64", "value", about="Share of the squared norm of the change."),
)

HEADS_COLUMNS = (
    *SITE_COLUMNS,
    Column("checkpoint", "int64", "axis", about="Which end after before, from 1."),
    Column("coefficient", "float64", "value", about="Share of the head's change that is kept."),
)

HYPERVOLUME_COLUMNS = (
    _METHOD,
    *_with_interval("value", ROOM, ""),
    *_with_interval("over_global", "Value minus that of the method global, paired.", ""),
    *_with_interval("over_replay", "Value minus that of the method replay, paired.", ""),
    Column("points", "int64", "label", about="Points of the sweep, both ends among them."),
    *_UNITS,
)

RIVALS_COLUMNS = (
    _METHOD,
    Column(
        "question", "string", "axis", about="What both answer: a budget, a rate, or what was asked."
    ),
    Column("rival", "string", "axis", about="The method it is compared with: global or replay."),
    Column("kind", "string", "label", about="budget, rate or asked."),
    Column("rate", "float64", "label", about="Nats of the new that one nat of the old is worth."),
    Column("budget", "float64", "label", unit=NATS, about=f"{_MAY_LOSE}{_OR_DIVERGENCE}."),
    Column(
        "answer", "string", "label", about="The rival's point that answers it, by rows that chose."
    ),
    Column(
        "same_model", "bool", "label", about="Whether both keep the same share of every change."
    ),
    *_with_interval("regained", "Old loss of after minus that of the method's point."),
    *_with_interval("paid", "New loss of the method's point minus that of after."),
    *_with_interval(
        "more_regained", "Regained here minus regained by the rival; positive is better."
    ),
    *_with_interval("more_paid", "Paid here minus paid by the rival; positive is worse."),
    *_with_interval(
        "objective",
        "New loss + rate × old loss, here minus the rival's; negative is better. NaN but for rates.",
    ),
    *_UNITS,
)

LINE_COLUMNS = (
    *SITE_COLUMNS,
    Column("task", "string", "axis", about="The task whose loss is accounted for."),
    Column(
        "nats",
        "float64",
        "value",
        unit=NATS,
        about="Loss change booked on the straight line from before to after; positive is forgotten. With `target: "
        "checkpoints` the change of the divergence from the checkpoint that knows the task.",
    ),
    Column("measured", "float64", "value", unit=NATS, about="Measured change of the same."),
    Column("residual", "float64", "value", unit=NATS, about="Sum of all entries minus measured."),
)

GENERATIONS_COLUMNS = (
    Column("task", "string", "axis", about="The task the prompt is from."),
    Column("prompt", "string", "axis", about="What the models were given."),
    Column("before", "string", "label", about="How the model before goes on."),
    Column("after", "string", "label", about="How the model after goes on."),
    Column("repaired", "string", "label", about="How the repaired model goes on."),
)

COST_COLUMNS = (
    _METHOD,
    Column("looks", "int64", "value", about="Looks at the losses and their slopes."),
    Column("tokens", "int64", "value", about="Tokens read with gradient."),
    Column("seconds", "float64", "value", unit="s", about="Wall-clock time."),
)
