"""A live model repaired where it is: its weights are replaced by the best trade-off between the stage's start and end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded, Row
from crosstune.foundation.errors import DataError, SettingsError, renamed
from crosstune.foundation.records import Column, Table
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.coefficients import coefficients_table
from crosstune.merging.evaluations import make_items
from crosstune.merging.line import integrate
from crosstune.merging.method import Method
from crosstune.merging.points import Point
from crosstune.merging.scoring import place_end, score_tasks
from crosstune.merging.selection import choose_rows
from crosstune.merging.session import Roles, Session, Watch, find_roles, open_session
from crosstune.merging.stage.settings import StageRepairSettings
from crosstune.merging.tables import COEFFICIENTS_COLUMNS, NATS

LOSSES = "stage_repair"
COEFFICIENTS = "stage_repair_coefficients"
_STAGE = Column.axis("stage", about="The stage of training.")

LOSSES_COLUMNS = (
    _STAGE,
    Column.axis("task", about="The task whose loss is read."),
    Column.label("role", about="learned, forgotten, or neither, by validation rows."),
    Column.value("before", unit=NATS, about="Loss at the stage's start, on validation rows."),
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
        point: The model that goes on; of kind `after` where it stayed as trained.
        roles: What the stage taught and what it cost, with each task's loss before and after.
        repaired: Each task's loss of the model that goes on, on the validation rows.
        coefficients: The table `stage_repair_coefficients`; without rows where the model stayed.
        words: What happened, in a sentence.
        evaluations: Forward and backward passes over the validation rows.
        seconds: Wall-clock of the whole repair.
    """

    stage: str
    point: Point
    roles: Roles
    repaired: Mapping[str, float]
    coefficients: Table
    words: str
    evaluations: int
    seconds: float

    @property
    def changed(self) -> bool:
        """Whether the model that goes on is another one than was trained."""
        return self.point.kind != "after"

    @property
    def losses(self) -> Table:
        """The table `stage_repair`: each task's loss at the start, as trained and as repaired."""
        role = {
            **dict.fromkeys(self.roles.learned, "learned"),
            **dict.fromkeys(self.roles.forgotten, "forgotten"),
        }
        rows = [
            {
                "stage": self.stage,
                "task": task,
                "role": role.get(task, "neither"),
                "before": self.roles.before[task],
                "after": self.roles.after[task],
                "repaired": self.repaired[task],
            }
            for task in self.roles.tasks
        ]
        return Table(LOSSES, LOSSES_COLUMNS, rows)

    def __str__(self) -> str:
        return self.words


def stage_rows(
    tasks: Mapping[str, Sequence[Row]], tokenizer: Any, settings: StageRepairSettings
) -> dict[str, list[Encoded]]:
    """The validation rows of each task, encoded and found to be enough for the folds."""
    if len(tasks) < 2:
        raise DataError(
            "tasks",
            law="must be at least two: one that is learned and one that may be forgotten",
            found=", ".join(tasks) or "none",
            remedy="Add rows of a task that the model knew before.",
        )
    unknown = [name for name in settings.max_loss if name not in tasks]
    if unknown:
        raise SettingsError(
            "max_loss",
            law=f"must name tasks ({', '.join(tasks)})",
            found=", ".join(unknown),
            remedy="Use the names under which the rows are given.",
        )
    search = settings.search()
    rows = {name: choose_rows(of, search.rows, tokenizer, search) for name, of in tasks.items()}
    with renamed("keep", "tasks"):
        make_items(list(rows.values()), search.folds, search.batch_tokens, search.seed)
    return rows


def repair_in_place(
    model: nn.Module,
    before: Mapping[str, Tensor],
    rows: Mapping[str, Sequence[Encoded]],
    tokenizer: Any,
    settings: StageRepairSettings,
) -> StageRepair:
    """The model holds the repaired weights, and nothing else of it has changed; on every process the same bits.

    Parameters that the stage did not move are not written. Where nothing was forgotten or no better trade-off is found,
    the model stays as it was trained; so it does where the search fails.
    """
    began, search = time.perf_counter(), settings.search()
    ends = Endpoints.in_place(model, before, tokenizer)
    if search.by_head:
        ends = by_input(ends)
    try:
        roles = ranks.from_first(find_roles(ends, rows, search))
        session, point = None, None
        if ends.names and roles.learned and roles.forgotten:
            session = open_session(ends, rows, roles, search, Watch())
            point = _place_best(session, settings)
        if session is None or point is None:
            repaired, point = dict(roles.after), Point("after", "after", validation=roles.after)
            words, cells = stayed(roles, bool(ends.names)), []
        else:
            scores = score_tasks(ends, rows, search)
            repaired = {task: one.loss for task, one in scores.items()}
            words = repaired_words(point, roles, repaired)
            cells = coefficients_table(session, [(0, point)]).rows()
        names = [column.name for column in STAGE_COEFFICIENTS_COLUMNS]
        stage = {"stage": settings.stage}
        coefficients = [{name: (stage | row)[name] for name in names} for row in cells]
        return StageRepair(
            stage=settings.stage,
            point=point,
            roles=roles,
            repaired=repaired,
            coefficients=Table(COEFFICIENTS, STAGE_COEFFICIENTS_COLUMNS, coefficients),
            words=words,
            evaluations=0 if session is None else session.evaluator.made,
            seconds=time.perf_counter() - began,
        )
    except BaseException:
        place_end(ends, 1.0)  # as trained
        raise


def _place_best(session: Session, settings: StageRepairSettings) -> Point | None:
    """Place the best trade-off in the live model; None where that is the model as trained."""
    integrate(session, steps=4)  # where the search starts from
    method = Method.begin(session, settings.granularity)
    method.choose_penalty()
    point = method.answer(settings.max_loss, settings.exchange_rate)
    values = ranks.from_first(point.coefficients)
    assert values is not None  # a searched point is in the space
    session.space.place(values, rounded=True)
    return None if bool((values == 1).all()) else point


def stayed(roles: Roles, moved: bool) -> str:
    """Why a model stays as it was trained."""
    if not moved:
        return "Nothing to repair: the stage changed no parameter."
    if not roles.forgotten:
        return f"Nothing to repair: no task's loss rose on validation rows ({_changes(roles)})."
    if not roles.learned:
        return f"Nothing to keep: no task's loss fell on validation rows ({_changes(roles)})."
    return f"The model stays as trained: no better trade-off was found for {', '.join(roles.forgotten)}."


def repaired_words(point: Point, roles: Roles, repaired: Mapping[str, float]) -> str:
    """What a repair did to each task, on validation rows."""
    assert point.coefficients is not None  # a searched point is in the space
    least, most = (bound.item() for bound in point.coefficients.aminmax())
    losses = [
        f"{task} {roles.before[task]:.3g} → {roles.after[task]:.3g} → {repaired[task]:.3g}"
        for task in roles.tasks
    ]
    return (
        f"Kept {least:.2f}–{most:.2f} of the changes ({point.method}, {point.label}). Nats per token before, as "
        f"trained and repaired, on validation rows: {', '.join(losses)}."
    )


def _changes(roles: Roles) -> str:
    return ", ".join(
        f"{task} {roles.after[task] - roles.before[task]:+.3g}" for task in roles.tasks
    )
