"""One harness for every method: search on the selection rows, then score every point once on the reported rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from crosstune.foundation.data import Task
from crosstune.foundation.evaluation import RowScores
from crosstune.merging.checkpoints.endpoints import Ends
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.line import Line, walk
from crosstune.merging.method import Method
from crosstune.merging.points import Point
from crosstune.merging.replay import replay
from crosstune.merging.result import Cost, Repair
from crosstune.merging.scoring import LINE, looks_at_most, score_at, score_end
from crosstune.merging.selection import Rows, encode_rows
from crosstune.merging.session import (
    Session,
    Watch,
    find_roles,
    open_session,
)
from crosstune.merging.settings import RepairSettings


def repair_ends(
    ends: Ends, keep: Mapping[str, Task], settings: RepairSettings, watch: Watch | None = None
) -> Repair:
    """The fronts between checkpoints, chosen on the tasks' train rows and reported on their test rows.

    Args:
        ends: The checkpoints; the work model is left at some point of the box.
        keep: The tasks; `train` rows choose, `test` rows are scored once, at the end.
        settings: How to search.
        watch: Where looks are kept and who is told.

    Returns:
        The repair. Identical checkpoints, nothing forgotten and nothing learned are results, with both ends alone.
    """
    watch = watch or Watch()
    if settings.by_head:
        ends = by_input(ends)
    rows = encode_rows(keep, ends.tokenizer, settings)
    roles = find_roles(ends, rows.selection, settings)
    if not (ends.names and roles.learned and roles.forgotten):
        scores = _score_ends(ends, rows, settings)
        points = [_end("before", roles.before), _end("after", roles.after)]
        return Repair(ends, settings, rows, roles, points, scores)
    session = open_session(ends, rows.selection, roles, settings, watch)
    line, methods, found, costs = _search(session, watch)
    points = [*_ends_as_seen(session), *found]
    scores = _score_ends(ends, rows, settings)
    scores += list(_score(session, rows, found, scores))
    if settings.replay:
        # Every look counts: a fine granularity begins with what the line and the coarser ones have seen.
        looked = len(session.looks.seen)
        watch.tell("replay fine-tune", looked, looked)
        stops = len(settings.exchange_rates) + len(settings.budgets)
        replayed = replay(session, rows, looked * session.looks.tokens, stops)
        points += [point for point, _ in replayed.points]
        scores += [scored for _, scored in replayed.points]
        costs.append(Cost("replay", 0, replayed.tokens, replayed.seconds))
    return Repair(
        ends, settings, rows, roles, points, scores, _Found(session, line, methods), costs
    )


@dataclass(frozen=True)
class _Found:
    """What a search leaves for later questions."""

    session: Session
    line: Line
    methods: dict[str, Method]


def _end(kind: str, losses: Mapping[str, float]) -> Point:
    return Point(kind, kind, selection=dict(losses))  # type: ignore[arg-type]


def _ends_as_seen(session: Session) -> Iterator[Point]:
    """Both ends by what was minimised, as all other points are; without labels that is no loss of the text."""
    for kind, value in (("before", 0.0), ("after", 1.0)):
        values = np.zeros(session.box.shape)
        values[-1] = value
        losses = session.looks(values).losses()
        yield _end(kind, dict(zip(session.roles.tasks, map(float, losses), strict=True)))


def _search(
    session: Session, watch: Watch
) -> tuple[Line, dict[str, Method], list[Point], list[Cost]]:
    looks, settings = session.looks, session.settings
    most = looks_at_most(settings)
    doing = LINE
    looks.told = lambda: watch.tell(doing, len(looks.seen), most)
    line = walk(session)
    methods, points, costs = {}, [], []
    for name in settings.methods:
        doing = name
        began, seen = time.perf_counter(), len(looks.seen)
        method = Method.begin(session, name)
        points += method.search()
        methods[name] = method
        made = len(looks.seen) - seen
        costs.append(Cost(name, made, made * looks.tokens, time.perf_counter() - began))
    return line, methods, points, costs


def _score_ends(ends: Ends, rows: Rows, settings: RepairSettings) -> list[Mapping[str, RowScores]]:
    return [score_end(ends, value, rows.reported, settings) for value in (0.0, 1.0)]


def _score(
    session: Session, rows: Rows, points: list[Point], ends: list[Mapping[str, RowScores]]
) -> Iterator[Mapping[str, RowScores]]:
    """The reported rows, once for every different model; those of the ends are known."""
    known = {
        np.full(session.box.shape, value).tobytes(): scores
        for value, scores in zip((0.0, 1.0), ends, strict=True)
    }
    for point in points:
        values = point.coefficients
        assert values is not None  # every searched point is in the box
        key = values.numpy().tobytes()
        if key not in known:
            known[key] = score_at(session.box, values, rows.reported, session.settings)
        yield known[key]
