"""`repair`: from two checkpoints and some rows to a front, in one call; `repair_endpoints`: the same of open checkpoints.

Every method is searched on the validation rows, then every point is scored once on the test rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from crosstune.foundation.data import Task
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.settings import from_mapping
from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.checkpoints.opening import Checkpoint
from crosstune.merging.line import Line, at_share, integrate, line_points
from crosstune.merging.method import Method
from crosstune.merging.points import Point
from crosstune.merging.replay import replay
from crosstune.merging.result import Cost, Found, Repair
from crosstune.merging.scoring import LINE, most_evaluations, score_at, score_end
from crosstune.merging.selection import Rows, as_tasks, encode_rows
from crosstune.merging.session import Session, Watch, find_roles, open_session
from crosstune.merging.settings import RepairSettings


def repair(
    before: Checkpoint,
    after: Checkpoint,
    tokenizer: Any = None,
    keep: Mapping[str, object] | None = None,
    *,
    between: Sequence[Checkpoint] = (),
    settings: RepairSettings | None = None,
    **options: Any,
) -> Repair:
    """Give back what a fine-tune forgot: search the models between two checkpoints for the best trade-offs.

    The models given are left as they are. Rows are split by group into those that choose (validation) and those that
    report (test); a `Task` brings its own split.

    Args:
        before: The model before: a model, a PEFT model, a folder or a hub id.
        after: The model after.
        tokenizer: Their tokenizer; by default the one in the folder of `after`.
        keep: Name → rows (or a `Task`) of every task that matters, the learned one among them.
        between: Checkpoints of the same training, in order; each gets coefficients of its own.
        settings: How to search; by default `RepairSettings()`.
        options: Single fields of the settings, such as ``granularity="component"``.

    Returns:
        The repair, with `.front`, `.pick(max_loss={"bn": 0.02})` and `.save(path)`.

    Raises:
        SettingsError: A field of `options` is unknown or impossible.
        DataError: There are fewer than two tasks, or too few or overlapping rows.
        CheckpointError: The models do not belong together.
    """
    chosen = _with_options(settings or RepairSettings(), options)
    if keep is None:
        raise SettingsError(
            "keep",
            law="must hold the rows of every task that matters",
            found="none",
            remedy='Pass keep={"en": rows, "bn": rows}.',
        )
    tasks = as_tasks(keep, chosen)
    ends = open_endpoints(
        before,
        after,
        between=between,
        tokenizer=tokenizer,
        device=chosen.device,
        precision=chosen.precision,
    )
    return repair_endpoints(ends, tasks, chosen)


def _with_options(settings: RepairSettings, options: Mapping[str, Any]) -> RepairSettings:
    given = dict(options)
    for name in ("granularity", "baselines", "learned"):
        if isinstance(given.get(name), str):
            given[name] = [given[name]]
    if not given:
        return settings
    from_mapping(RepairSettings, given)  # checks names and types as for a settings file
    frozen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return replace(settings, **frozen)


def repair_endpoints(
    ends: Endpoints, keep: Mapping[str, Task], settings: RepairSettings, watch: Watch | None = None
) -> Repair:
    """The fronts between checkpoints, chosen on the tasks' train rows and reported on their test rows.

    Args:
        ends: The checkpoints; the work model is left at some point of the space.
        keep: The tasks; `train` rows choose, `test` rows are scored once, at the end.
        settings: How to search.
        watch: Where evaluations are stored, and a progress callback.

    Returns:
        The repair. Identical checkpoints, nothing forgotten and nothing learned are results, with both endpoints alone.
    """
    watch = watch or Watch()
    if settings.by_head:
        ends = by_input(ends)
    rows = encode_rows(keep, ends.tokenizer, settings)
    roles = find_roles(ends, rows.validation, settings)
    if not (ends.names and roles.learned and roles.forgotten):
        scores = _score_ends(ends, rows, settings)
        points = [_end("before", roles.before), _end("after", roles.after)]
        return Repair(ends, settings, rows, roles, points, scores)
    session = open_session(ends, rows.validation, roles, settings, watch)
    line, methods, found, costs = _search(session, watch)
    points = [*_ends_as_seen(session), *found]
    began = time.perf_counter()
    scores = _score_ends(ends, rows, settings)
    scores += list(_score(session, rows, found, scores))
    read = len({id(one) for one in scores}) * sum(
        row.scored_tokens for task in rows.test.values() for row in task
    )
    costs.append(Cost("test rows", 0, read, time.perf_counter() - began))
    if settings.replay:
        # Every evaluation counts: a fine granularity begins with what the line and the coarser ones have seen.
        made = len(session.evaluator.seen)
        watch.tell("replay fine-tune", made, made)
        asked = len(settings.exchange_rates) + len(settings.budgets)
        stops = max(asked, len(settings.replay_rates))
        replayed = replay(session, rows, made * session.evaluator.tokens, stops)
        points += [point for point, _ in replayed.points]
        scores += [scored for _, scored in replayed.points]
        costs.append(Cost("replay", 0, replayed.tokens, replayed.seconds))
    return Repair(ends, settings, rows, roles, points, scores, Found(session, line, methods), costs)


def _end(kind: Literal["before", "after"], losses: Mapping[str, float]) -> Point:
    return Point(kind, kind, validation=dict(losses))


def _ends_as_seen(session: Session) -> Iterator[Point]:
    """Both endpoints by what was minimised, as all other points are; without labels that is no loss of the text."""
    ends: tuple[Literal["before", "after"], ...] = ("before", "after")
    for value, kind in enumerate(ends):
        losses = session.evaluator(at_share(session, float(value))).losses()
        yield _end(kind, dict(zip(session.roles.tasks, map(float, losses), strict=True)))


def _search(
    session: Session, watch: Watch
) -> tuple[Line, dict[str, Method], list[Point], list[Cost]]:
    evaluator, settings = session.evaluator, session.settings
    most = most_evaluations(settings)
    doing, began, seen = LINE, time.perf_counter(), 0
    evaluator.progress = lambda: watch.tell(doing, len(evaluator.seen), most)

    def spent() -> Cost:
        made = len(evaluator.seen) - seen
        return Cost(doing, made, made * evaluator.tokens, time.perf_counter() - began)

    line, points = integrate(session), line_points(session)
    methods, costs = {}, [spent()]
    for name in settings.methods:
        doing, began, seen = name, time.perf_counter(), len(evaluator.seen)
        methods[name] = Method.begin(session, name)
        points += methods[name].search()
        costs.append(spent())
    return line, methods, points, costs


def _score_ends(
    ends: Endpoints, rows: Rows, settings: RepairSettings
) -> list[Mapping[str, RowScores]]:
    return [score_end(ends, value, rows.test, settings) for value in (0.0, 1.0)]


def _score(
    session: Session, rows: Rows, points: list[Point], ends: list[Mapping[str, RowScores]]
) -> Iterator[Mapping[str, RowScores]]:
    """The scores on test rows, once for every different model; those of the endpoints are known."""
    known = {
        np.full(session.space.shape, value).tobytes(): scores
        for value, scores in zip((0.0, 1.0), ends, strict=True)
    }
    for point in points:
        values = point.coefficients
        assert values is not None  # every searched point is in the space
        key = values.numpy().tobytes()
        if key not in known:
            known[key] = score_at(session.space, values, rows.test, session.settings)
        yield known[key]
