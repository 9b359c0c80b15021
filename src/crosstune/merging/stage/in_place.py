"""A live model repaired where it is: its weights are replaced by the best trade between the stage's start and end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded, Row
from crosstune.foundation.errors import DataError, SettingsError, renamed
from crosstune.merging.checkpoints.endpoints import Ends
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.coefficients import coefficients_table
from crosstune.merging.evaluations import make_items
from crosstune.merging.line import walk
from crosstune.merging.method import Method
from crosstune.merging.points import Point
from crosstune.merging.scoring import place_end, score_tasks
from crosstune.merging.selection import choose_rows
from crosstune.merging.session import Roles, Session, Watch, find_roles, open_session
from crosstune.merging.stage.outcome import (
    StageRepair,
    coefficients_of,
    no_coefficients,
    repaired_words,
    stayed,
)
from crosstune.merging.stage.settings import StageRepairSettings


def stage_rows(
    tasks: Mapping[str, Sequence[Row]], tokenizer: Any, settings: StageRepairSettings
) -> dict[str, list[Encoded]]:
    """The rows that choose, encoded and found to be enough.

    Args:
        tasks: The rows of each task; all may choose.
        tokenizer: The model's tokenizer.
        settings: How many rows, how long, how many folds.

    Returns:
        The rows of each task.

    Raises:
        DataError: There are fewer than two tasks, or too few rows for the folds.
        SettingsError: `max_loss` names an unknown task.
    """
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

    Parameters that the stage did not move are not written. Where nothing was forgotten or no better trade is found,
    the model stays as it was trained; so it does where the search fails.

    Args:
        model: The live model at the end of the stage, unwrapped.
        before: What `at_start` gave at its start.
        rows: What `stage_rows` gave.
        tokenizer: The model's tokenizer.
        settings: What is traded and how it is searched.

    Returns:
        What was chosen.

    Raises:
        CheckpointError: `before` is of another model.
        ModelError: Weights are not finite.
        UnsupportedError: The model is sharded or quantised, or an adapter was not fresh at the start.
    """
    began, search = time.perf_counter(), settings.search()
    ends = Ends.in_place(model, before, tokenizer)
    if search.by_head:
        ends = by_input(ends)
    with _or_as_trained(ends):
        roles = ranks.from_first(find_roles(ends, rows, search))
        if not (ends.names and roles.learned and roles.forgotten):
            return _as_trained(settings, roles, began, moved=bool(ends.names))
        session = open_session(ends, rows, roles, search, Watch())
        point = _chosen(session, settings)
        values = ranks.from_first(point.coefficients)
        assert values is not None  # a searched point is in the box
        session.box.place(values, rounded=True)
        if bool((values == 1).all()):
            return _as_trained(settings, roles, began, moved=True, looks=session.looks.made)
        repaired = {task: scores.loss for task, scores in score_tasks(ends, rows, search).items()}
        return StageRepair(
            stage=settings.stage,
            point=point,
            roles=roles,
            repaired=repaired,
            coefficients=coefficients_of(settings.stage, coefficients_table(session, [(0, point)])),
            words=repaired_words(point, roles, repaired),
            looks=session.looks.made,
            seconds=time.perf_counter() - began,
        )


@contextmanager
def _or_as_trained(ends: Ends) -> Iterator[None]:
    """Put the weights as trained back if anything goes wrong inside."""
    try:
        yield
    except BaseException:
        place_end(ends, 1.0)
        raise


def _chosen(session: Session, settings: StageRepairSettings) -> Point:
    walk(session)  # where the search starts from
    method = Method.begin(session, settings.granularity)
    method.choose_penalty()
    return method.answer(settings.max_loss, settings.exchange_rate)


def _as_trained(
    settings: StageRepairSettings, roles: Roles, began: float, *, moved: bool, looks: int = 0
) -> StageRepair:
    return StageRepair(
        stage=settings.stage,
        point=Point("after", "after", selection=dict(roles.after)),
        roles=roles,
        repaired=dict(roles.after),
        coefficients=no_coefficients(),
        words=stayed(roles, moved),
        looks=looks,
        seconds=time.perf_counter() - began,
    )
