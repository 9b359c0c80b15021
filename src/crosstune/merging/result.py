"""What a repair found: its front with intervals, a point that is picked from it, and the model that can be saved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from crosstune.foundation.errors import MeasurementError, SettingsError
from crosstune.foundation.evaluation import RowScores, continuations
from crosstune.foundation.models import Anatomy
from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement
from crosstune.foundation.settings import to_yaml
from crosstune.foundation.storage import fingerprint
from crosstune.merging import tables
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.checkpoints.saving import save_repaired
from crosstune.merging.coefficients import (
    KEPT_FROM,
    coefficients_table,
    head_masks,
    merge_weights,
    nested,
)
from crosstune.merging.findings import sentences as words
from crosstune.merging.findings.rivals import rivals_table
from crosstune.merging.findings.scored import (
    ScoredPoints,
    hypervolume_table,
    points_table,
    tasks_table,
)
from crosstune.merging.line import Line, line_table
from crosstune.merging.method import Method
from crosstune.merging.points import Point
from crosstune.merging.scoring import place_end, score_at
from crosstune.merging.selection import Rows
from crosstune.merging.session import Roles, Session
from crosstune.merging.settings import BY_HEAD, RepairSettings

_MOST_STATEMENTS = 8


@dataclass(frozen=True)
class Cost:
    """What one method took: evaluations (forward and backward over all validation rows), their tokens, seconds."""

    method: str
    looks: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Found:
    """What a search leaves for later questions."""

    session: Session
    line: Line
    methods: Mapping[str, Method]


@dataclass
class Repair:
    """A finished repair.

    Attributes:
        rows: The validation rows, which chose, and the test rows, which report.
        roles: What was learned and forgotten.
        points: Every point of every method; the first two are the endpoints.
        scores: Their scores on the test rows.
        found: What was searched; None where there was nothing to search.
        costs: What each method took.
    """

    ends: Endpoints
    settings: RepairSettings
    rows: Rows
    roles: Roles
    points: list[Point]
    scores: list[Mapping[str, RowScores]]
    found: Found | None = None
    costs: Sequence[Cost] = field(default_factory=tuple)

    @property
    def granularity(self) -> str:
        """The granularity that is picked from: the finest that was asked for as one's own."""
        asked = [name for name in self.settings.methods if name in self.settings.granularity]
        return asked[-1]

    @property
    def scored(self) -> ScoredPoints:
        """All points with their scores on the test rows."""
        roles, level = self.roles, self.settings.level
        return ScoredPoints(self.points, self.scores, roles.learned, roles.forgotten, level=level)

    @cached_property
    def tables(self) -> dict[str, Table]:
        """Everything that was found, by the names of `tables.py`; a new pick makes them anew."""
        scored = self.scored
        made = [points_table(scored), tasks_table(scored), hypervolume_table(scored)]
        if self.found is not None:
            numbered = [
                (place, self.points[at])
                for places in scored.methods.values()
                for place, at in enumerate(places)
                if not (self.points[at].is_end or self.points[at].kind == "line")
            ]
            made.append(rivals_table(scored))
            made.append(coefficients_table(self.found.session, numbered))
            made.append(line_table(self.found.session, self.found.line))
        if self.costs:
            rows = [vars(cost) for cost in self.costs]
            made.append(Table(tables.COST, tables.COST_COLUMNS, rows))
        return {table.name: table for table in made}

    @property
    def front(self) -> Table:
        """The points of the chosen granularity, both endpoints among them."""
        points = self.tables[tables.POINTS]
        return points if self.found is None else points.where(method=self.granularity)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """What was found, in at most eight plain sentences, the most important first.

        The default pick's trade-off, the endpoints, the pick's granularity against its rivals at the smallest maximum
        loss increase and at the trade-off weight nearest to 1, and whole fronts.
        """
        if not self.ends.names:
            return (words.identical(),)
        # A pick that was not searched for yet adds its point to the tables, so it comes first.
        trade_off = () if self.found is None else self.pick().statements
        ends = words.ends(self.tables[tables.TASKS], named=bool(self.settings.learned))
        if self.found is None:
            return tuple(ends)
        same_question = words.answers(
            self.tables[tables.RIVALS], self.granularity, self.settings.target
        )
        found = [*trade_off, *ends, *same_question, *self._fronts()]
        return tuple(found[:_MOST_STATEMENTS])

    def _fronts(self) -> Iterator[Statement]:
        """Whole fronts of what was asked for as one's own, the picked granularity first."""
        if not self.settings.exchange_rates:
            return  # single points are no front
        fronts = self.tables[tables.HYPERVOLUME]
        others = [name for name in self.settings.granularity if name != self.granularity]
        for method in (self.granularity, *others):
            for rival in ("global", "replay"):
                if rival != method and rival in fronts.column("method"):
                    yield words.comparison(fronts, method, rival)

    def pick(
        self,
        max_loss: Mapping[str, float] | None = None,
        *,
        rate: float | None = None,
        method: str | None = None,
    ) -> Pick:
        """The point that answers a question; a new question is searched on the validation rows and then scored on the test rows.

        Args:
            max_loss: What named tasks may lose at most against `after`, in nats per token; all that can be is
                won back of the forgotten tasks.
            rate: The trade-off weight: how many nats of the learned tasks one nat of the forgotten ones is worth. By
                default `max_loss` of the settings, or else a weight of 1; without a sweep the smallest budget.
            method: The granularity; by default the finest that was asked for.

        Returns:
            The point and its trade-off.

        Raises:
            SettingsError: Both are given, or a task or granularity is unknown.
            MeasurementError: No model between the checkpoints keeps to `max_loss` on the validation rows.
        """
        if max_loss and rate is not None:
            raise SettingsError(
                "rate",
                law="must not be given together with `max_loss`",
                found=f"rate {rate} and {dict(max_loss)}",
                remedy="Ask one question at a time.",
            )
        if rate is not None and not 0 < rate < math.inf:
            raise SettingsError(
                "rate",
                law="must be positive and finite",
                found=rate,
                remedy="To win back all that can be, name what may be lost by `max_loss`.",
            )
        if self.found is None:
            return self._picked(1)
        method = method or self.granularity
        self._check(method, max_loss or {})
        limits = dict(max_loss or ({} if rate is not None else self.settings.max_loss))
        if rate is None and not limits and not self.settings.exchange_rates:
            limits = dict.fromkeys(self.roles.learned, min(self.settings.budgets))
        wanted = 1.0 if rate is None else rate
        found: dict[str, int] = {}
        for at, point in enumerate(self.points):
            own = dict(point.limits) or dict.fromkeys(self.roles.learned, point.budget)
            limited = point.kind in ("asked", "budget") and own == limits
            rated = not limits and point.kind == "rate" and point.rate == wanted
            if point.method == method and (limited or rated):
                found.setdefault(point.kind, at)
        if found:  # `asked` before a budget of the same limits
            return self._picked(found[min(found)])
        return self._search(self.found.methods[method], limits, wanted)

    def _check(self, method: str, limits: Mapping[str, float]) -> None:
        for argument, name, known in (
            ("method", method, tuple(self.found.methods) if self.found else ()),
            *(("max_loss", task, self.roles.tasks) for task in limits),
        ):
            if name not in known:
                raise SettingsError(
                    argument,
                    law=f"must be of {', '.join(known)}",
                    found=repr(name),
                    remedy="Search that granularity first, or name a task of `keep`.",
                )

    def _search(self, method: Method, limits: Mapping[str, float], rate: float) -> Pick:
        point = method.answer(limits, rate)
        values = point.coefficients
        assert values is not None  # every searched point is in the space
        same = (
            scores
            for other, scores in zip(self.points, self.scores, strict=True)
            if other.coefficients is not None and torch.equal(other.coefficients, values)
        )
        known = next(same, None)
        if known is None:
            known = score_at(method.session.space, values, self.rows.test, self.settings)
        self.points.append(point)
        self.scores.append(known)
        vars(self).pop("tables", None)
        return self._picked(len(self.points) - 1)

    def _picked(self, at: int) -> Pick:
        point, methods = self.points[at], self.scored.methods
        method = next(iter(methods)) if point.is_end else point.method
        place = methods[method].index(at)
        tasks = self.tables[tables.TASKS]
        chose = self.settings.target
        found = [words.trade_off(point, tasks, place, chose, self.tables.get(tables.RIVALS))]
        if point.limits:
            found += words.constraints(point, tasks, place, point.limits, chose)
        return Pick(point, tasks.where(method=method, point=place), tuple(found))

    def place(self, pick: Pick | None = None) -> Any:
        """The work model, holding the picked weights (by default `pick()`) as they are saved; no copy is made."""
        values = (pick or self.pick()).point.coefficients
        if values is None:
            place_end(self.ends, 1.0, rounded=True)
        else:
            assert self.found is not None  # coefficients come from a search
            self.found.session.space.place(values, rounded=True)
        return self.ends.model

    def save(self, folder: str | Path, pick: Pick | None = None, *, merge: bool = False) -> Path:
        """Write the picked model as an ordinary Hugging Face folder or adapter, with what it is made of in `repair.json`.

        Args:
            folder: Where it goes, whole or not at all.
            pick: A point; by default `pick()`.
            merge: Write an adapter merged into its base.

        Returns:
            The folder.

        Raises:
            MeasurementError: The point is a replay fine-tune, which is no model between the checkpoints.
        """
        chosen = pick or self.pick()
        if chosen.point.kind == "replay":
            raise MeasurementError(
                "pick",
                law="must be a model between the checkpoints",
                found=chosen.point.label,
                remedy="Pick a point of another method; a replay fine-tune is only compared with.",
            )
        self.place(chosen)
        card = "\n".join(f"* {statement.text}" for statement in chosen.statements)
        return save_repaired(
            self.ends, folder, manifest=self._manifest(chosen), card=card, merge=merge
        )

    def _manifest(self, pick: Pick) -> dict[str, object]:
        """How the model was chosen, on which rows, its coefficients and its trade-off, in plain values."""
        point = pick.point
        sides = {"selection": self.rows.validation, "reported": self.rows.test}
        return {
            "method": point.method,
            "asked": point.label,
            "chosen_by": words.CHOSEN_BY[self.settings.target],
            "penalty": _plain(point.penalty),
            **self._manifest_coefficients(point),
            "rows": {
                side: {
                    task: fingerprint([row.input_ids for row in given])
                    for task, given in of.items()
                }
                for side, of in sides.items()
            },
            "trade": [
                {key: _plain(value) for key, value in row.items()} for row in pick.tasks.rows()
            ],
            "settings": to_yaml(self.settings),
        }

    def _manifest_coefficients(self, point: Point) -> dict[str, object]:
        if self.found is None:
            return {"coefficients": []}
        session = self.found.session
        kept = ("where", "parameter", "rows", "direction", "checkpoint", "coefficient")
        rows = coefficients_table(session, [(0, point)]).rows()
        found: dict[str, object] = {
            "coefficients": [{key: row[key] for key in kept} for row in rows]
        }
        if point.method in BY_HEAD:
            anatomy = Anatomy.of(session.ends.model)
            weights = merge_weights(session, point)
            found["heads"] = {
                "merge_weights": nested(weights, anatomy),
                "kept": head_masks(weights, anatomy, KEPT_FROM),
                "kept_from": KEPT_FROM,
            }
        return found

    def merge_weights(self, pick: Pick | None = None) -> Table:
        """The share of its change that each attention head keeps, which a granularity by head sets apart.

        Args:
            pick: A point in the space, but not of singular directions; by default `pick()`.

        Returns:
            The table `repair_heads`: queries and the output projection by query head, keys and values by theirs.

        Raises:
            MeasurementError: The point has no coefficient for a head.
        """
        point = (pick or self.pick()).point
        return merge_weights(None if self.found is None else self.found.session, point)

    def head_masks(
        self, pick: Pick | None = None, threshold: float = KEPT_FROM
    ) -> dict[str, list[list[bool]]]:
        """Which attention heads keep at least so much of their change; no mask of heads to prune.

        Args:
            pick: As for `merge_weights`.
            threshold: The share from which on a head counts as kept.

        Returns:
            ``attn.q``, ``attn.k``, ``attn.v`` and ``attn.o`` → layers × heads.
        """
        return head_masks(self.merge_weights(pick), Anatomy.of(self.ends.model), threshold)

    def generations(
        self, prompts: Mapping[str, Sequence[str]], pick: Pick | None = None, new_tokens: int = 40
    ) -> Table:
        """How the models before, after and repaired go on from the same prompts, greedily.

        Args:
            prompts: The prompts of each task.
            pick: The repaired model; by default `pick()`.
            new_tokens: The most tokens of a continuation.

        Returns:
            The table `repair_generations`; the work model is left at the repaired one.
        """
        asked = [(task, prompt) for task, some in prompts.items() for prompt in some]
        texts = {}
        for name, value in (("before", 0.0), ("after", 1.0), ("repaired", None)):
            if value is None:
                self.place(pick)
            else:
                place_end(self.ends, value, rounded=True)
            texts[name] = continuations(
                self.ends.model,
                self.ends.tokenizer,
                [prompt for _, prompt in asked],
                new_tokens=new_tokens,
            )
        rows = [
            {"task": task, "prompt": prompt, **{name: texts[name][at] for name in texts}}
            for at, (task, prompt) in enumerate(asked)
        ]
        return Table(tables.GENERATIONS, tables.GENERATIONS_COLUMNS, rows)


@dataclass(frozen=True)
class Pick:
    """A point that answers a question, its rows of `repair_tasks`, and its trade-off in plain sentences."""

    point: Point
    tasks: Table
    statements: tuple[Statement, ...]

    def __str__(self) -> str:
        return "\n".join(statement.text for statement in self.statements)


def _plain(value: object) -> object:
    """A cell as JSON has it: NaN is null."""
    return None if isinstance(value, float) and value != value else value
