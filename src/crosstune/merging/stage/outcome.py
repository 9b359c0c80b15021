"""What a repair at the end of a stage chose: the point, its coefficients, and each task's loss on the rows that chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crosstune.foundation.records import Column, Table
from crosstune.merging.points import Point
from crosstune.merging.session import Roles
from crosstune.merging.tables import COEFFICIENTS_COLUMNS, NATS

LOSSES = "stage_repair"
COEFFICIENTS = "stage_repair_coefficients"
_STAGE = Column.axis("stage", about="The stage of training.")

LOSSES_COLUMNS = (
    _STAGE,
    Column.axis("task", about="The task whose loss is read."),
    Column.label("role", about="learned, forgotten, or neither, by the rows that chose."),
    Column.value("before", unit=NATS, about="Loss at the stage's start, on rows that chose."),
    Column.value("after", unit=NATS, about="Loss as trained."),
    Column.value("repaired", unit=NATS, about="Loss of the model that goes on."),
)
STAGE_COEFFICIENTS_COLUMNS = (
    _STAGE,
    *(column for column in COEFFICIENTS_COLUMNS if column.name not in ("point", "checkpoint")),
)


@dataclass(frozen=True)
class StageRepair:
    """What became of a stage's model.

    Attributes:
        stage: The stage's name.
        point: The model that goes on; of kind `after` where it stayed as trained.
        roles: What the stage taught and what it cost, with each task's loss before and after.
        repaired: Each task's loss of the model that goes on, on the rows that chose.
        coefficients: The table `stage_repair_coefficients`; without rows where the model stayed.
        words: What happened, in a sentence.
        looks: Forward and backward passes over the rows that chose.
        seconds: Wall-clock of the whole repair.
    """

    stage: str
    point: Point
    roles: Roles
    repaired: Mapping[str, float]
    coefficients: Table
    words: str
    looks: int
    seconds: float

    @property
    def changed(self) -> bool:
        """Whether the model that goes on is another one than was trained."""
        return self.point.kind != "after"

    @property
    def losses(self) -> Table:
        """The table `stage_repair`: each task's loss at the start, as trained and as repaired."""
        rows = [
            {
                "stage": self.stage,
                "task": task,
                "role": _role(task, self.roles),
                "before": self.roles.before[task],
                "after": self.roles.after[task],
                "repaired": self.repaired[task],
            }
            for task in self.roles.tasks
        ]
        return Table(LOSSES, LOSSES_COLUMNS, rows)

    def __str__(self) -> str:
        return self.words


def no_coefficients() -> Table:
    """The table of a model that stayed as trained."""
    return Table(COEFFICIENTS, STAGE_COEFFICIENTS_COLUMNS, [])


def coefficients_of(stage: str, found: Table) -> Table:
    """The coefficients of a stage's one point."""
    names = [column.name for column in STAGE_COEFFICIENTS_COLUMNS]
    rows = [{name: ({"stage": stage} | row)[name] for name in names} for row in found.rows()]
    return Table(COEFFICIENTS, STAGE_COEFFICIENTS_COLUMNS, rows)


def stayed(roles: Roles, moved: bool) -> str:
    """Why a model stays as it was trained."""
    if not moved:
        return "Nothing to repair: the stage changed no parameter."
    if not roles.forgotten:
        return (
            f"Nothing to repair: no task's loss rose on the rows that choose ({_changes(roles)})."
        )
    if not roles.learned:
        return f"Nothing to keep: no task's loss fell on the rows that choose ({_changes(roles)})."
    return (
        f"The model stays as trained: no better trade was found for {', '.join(roles.forgotten)}."
    )


def repaired_words(point: Point, roles: Roles, repaired: Mapping[str, float]) -> str:
    """What a repair did to each task, on the rows that chose."""
    assert point.coefficients is not None  # a searched point is in the box
    least, most = (bound.item() for bound in point.coefficients.aminmax())
    told = [
        f"{task} {roles.before[task]:.3g} → {roles.after[task]:.3g} → {repaired[task]:.3g}"
        for task in roles.tasks
    ]
    return (
        f"Kept {least:.2f} to {most:.2f} of the changes ({point.method}, {point.label}). Nats per token before, as "
        f"trained and repaired, on the rows that chose: {', '.join(told)}."
    )


def _role(task: str, roles: Roles) -> str:
    if task in roles.learned:
        return "learned"
    return "forgotten" if task in roles.forgotten else "neither"


def _changes(roles: Roles) -> str:
    return ", ".join(
        f"{task} {roles.after[task] - roles.before[task]:+.3g}" for task in roles.tasks
    )
