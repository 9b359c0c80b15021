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

AREA = (
    "Share of the area between before and after that the front dominates; trade-offs that cost more nats of the new than "
    "all that was forgotten do not count."
)

_OR_DIVERGENCE = (
    "; with `target: checkpoints` the divergence from the checkpoint that knows the task"
)
CHOSE = f"Loss on validation rows{_OR_DIVERGENCE}. A replay's: loss on those it did not learn."

_METHOD = Column.axis("method", about="The granularity or baseline.")
_PLACE = (
    _METHOD,
    Column.axis("point", "int64", about="Place in the method's list; 0 is the model before."),
)
_RATE = Column.label(
    "rate", "float64", about="Trade-off weight: nats of the new that one nat of the old is worth."
)
_BUDGET = Column.label(
    "budget",
    "float64",
    unit=NATS,
    about=f"Maximum loss increase of the learned tasks on validation rows{_OR_DIVERGENCE}.",
)
_CHECKPOINT = Column.axis("checkpoint", "int64", about="Which checkpoint after before, from 1.")
_LABEL = Column.label("label", about="What the point answers, in a few words.")
_UNITS = (
    Column.label("n", "int64", about="Test rows or groups the intervals stand on."),
    Column.label("n_unit", about="What n counts: rows, groups or texts."),
)


def _with_interval(name: str, about: str, unit: str = NATS) -> tuple[Column, Column, Column]:
    how = "Jackknife-t over test rows or groups, paired."
    return Column.interval(name, unit=unit, about=about, bounds=how)


POINTS_COLUMNS = (
    *_PLACE,
    Column.label("kind", about="before, after, line, rate, budget, asked or replay."),
    _LABEL,
    _RATE,
    _BUDGET,
    Column.label("coordinates", "int64", about="How many numbers could be chosen."),
    Column.value("selection_old", unit=NATS, about=f"Mean over the forgotten tasks. {CHOSE}"),
    Column.value("selection_new", unit=NATS, about=f"Mean over the learned tasks. {CHOSE}"),
    *_with_interval("old", "Mean loss of the forgotten tasks on test rows."),
    *_with_interval("new", "Mean loss of the learned tasks on test rows."),
    *_with_interval("regained", "Old loss of after minus here; positive is better."),
    *_with_interval("paid", "New loss here minus after; positive is worse."),
    Column.label(
        "on_front",
        "bool",
        about="No point of the method is better in both by what chose, on validation rows.",
    ),
    *_UNITS,
)

TASKS_COLUMNS = (
    *_PLACE,
    _LABEL,
    Column.axis("task", about="The task whose loss is read."),
    Column.label("role", about="learned or forgotten from before to after."),
    Column.value("selection", unit=NATS, about=CHOSE),
    *_with_interval("loss", "Loss on test rows."),
    *_with_interval("change", "Loss here minus loss after; negative is better."),
    *_UNITS,
)

COEFFICIENTS_COLUMNS = (
    *_PLACE,
    _LABEL,
    *SITE_COLUMNS,
    Column.axis("parameter", about="The parameter, by its name in the work model."),
    Column.axis("rows", about="Class of embedding rows, or empty."),
    Column.axis("direction", "int64", about="Singular direction; −1 is the rest, or all."),
    _CHECKPOINT,
    Column.value("coefficient", about="Share of the change that is kept."),
    Column.label("elements", "int64", about="Numbers the coefficient scales."),
    Column.value("delta_share", about="Share of the squared norm of the change."),
)

HEADS_COLUMNS = (
    *SITE_COLUMNS,
    _CHECKPOINT,
    Column.value("coefficient", about="Share of the head's change that is kept."),
)

HYPERVOLUME_COLUMNS = (
    _METHOD,
    *_with_interval("value", AREA, ""),
    *_with_interval("over_global", "Value minus that of the method global, paired.", ""),
    *_with_interval("over_replay", "Value minus that of the method replay, paired.", ""),
    Column.label("points", "int64", about="Points of the sweep, both endpoints among them."),
    *_UNITS,
)

RIVALS_COLUMNS = (
    _METHOD,
    Column.axis(
        "question", about="What the method's point answers: a budget, a rate, or what was asked."
    ),
    Column.axis("rival", about="What it is compared with: global (the dense line) or replay."),
    Column.label("kind", about="budget, rate or asked."),
    _RATE,
    _BUDGET,
    Column.label(
        "same_model",
        "bool",
        about="Whether it keeps one share of every change: a model of the line.",
    ),
    *_with_interval("regained", "Old loss of after minus that of the method's point."),
    *_with_interval("paid", "New loss of the method's point minus that of after."),
    *_with_interval(
        "more_regained",
        "Regained here minus the most that the rival regains for the same price; positive is better.",
    ),
    *_UNITS,
)

LINE_COLUMNS = (
    *SITE_COLUMNS,
    Column.axis("task", about="The task whose loss is accounted for."),
    Column.value(
        "nats",
        unit=NATS,
        about="Contribution to the loss change on the straight line from before to after; positive is forgotten. With `target: "
        "checkpoints` the change of the divergence from the checkpoint that knows the task.",
    ),
    Column.value("measured", unit=NATS, about="Measured change of the same."),
    Column.value("residual", unit=NATS, about="Sum of all entries minus measured."),
)

GENERATIONS_COLUMNS = (
    Column.axis("task", about="The task the prompt is from."),
    Column.axis("prompt", about="What the models were given."),
    Column.label("before", about="How the model before goes on."),
    Column.label("after", about="How the model after goes on."),
    Column.label("repaired", about="How the repaired model goes on."),
)

COST_COLUMNS = (
    _METHOD,
    Column.value("looks", "int64", about="Evaluations of the losses and their slopes."),
    Column.value("tokens", "int64", about="Scored tokens read: with gradient, but for test rows."),
    Column.value("seconds", unit="s", about="Wall-clock time."),
)
