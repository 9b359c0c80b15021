"""The rival that trains: a short fine-tune of `after` on the same validation rows of all tasks, with the compute of the search.

What has memorised its rows cannot be judged on them: the last fold is not learned, and its losses stand where other
methods have those of all validation rows.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from crosstune.foundation.data import Encoded
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.models import measuring
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.merging.points import Point
from crosstune.merging.scoring import place_end
from crosstune.merging.selection import Rows
from crosstune.merging.session import Session

BATCH_ROWS = 8

Side = Mapping[str, Sequence[Encoded]]


@dataclass
class Replayed:
    """Each stop of the replay fine-tunes with its scores on test rows; the tokens learned, and seconds without scoring."""

    points: list[tuple[Point, Mapping[str, RowScores]]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


def replay(session: Session, rows: Rows, tokens: int, stops: int) -> Replayed:
    """So many stops of replay fine-tunes, one run for each learning rate, sharing the scored tokens evenly.

    Every run learns the validation rows of all tasks but for the last fold, with AdamW and a linear schedule; it
    begins at `after` and knows no more than the search did. Its last stop is its end, each one before lies half as
    far, because few rows are soon memorised. All stops take part in the front of replay, as many as a
    granularity has points; step 0 is `after` itself, as the rows that judge see it.
    """
    settings = session.settings
    rates = settings.replay_rates
    learned, judged = _parted(session)
    mixed = [row for task in learned.values() for row in task]
    batch_rows = min(BATCH_ROWS, len(mixed))
    per_step = batch_rows * sum(row.scored_tokens for row in mixed) / len(mixed)
    shares = [len(range(place, stops, len(rates))) for place in range(len(rates))]
    steps = max(1, *shares, round(tokens / len(rates) / per_step))
    found = Replayed(tokens=round(len(rates) * steps * per_step))
    data = StageData(mixed, pad_id=pad_id(session.ends.tokenizer))
    for rate, share in zip(rates, shares, strict=True):
        place_end(session.ends, 1.0)
        training = TrainingSettings(
            learning_rate=rate,
            steps=steps,
            batch_rows=batch_rows,
            length=max(2, settings.length),
            log_every=steps,
        )
        watch = _Stops(session, (judged, rows.test), rate, _halvings(steps, share))
        began = time.perf_counter()
        _train(session, data, training, watch)
        found.seconds += time.perf_counter() - began - watch.seconds
        found.points += watch.points
    return found


def _halvings(steps: int, count: int) -> set[int]:
    """So many different steps: the last, half of it, a quarter of it, as far as whole steps allow."""
    due: set[int] = set()
    for place in range(count):
        most = min(due, default=steps + 1) - 1
        # No further than leaves a step for each of the others.
        due.add(min(most, max(count - place, steps >> place)))
    return due


def _train(
    session: Session, data: StageData, training: TrainingSettings, watch: TrainerCallback
) -> None:
    """Train a copy of the work model, which then is gone."""
    model = copy.deepcopy(session.ends.model)
    lora = session.ends.kind == "lora"
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not lora or "lora_" in name)  # of an adapter the factors learn
    # A trainer seeds the whole process; whoever asked for a repair goes on with the numbers they had.
    with measuring(session.ends.model), tempfile.TemporaryDirectory() as folder:
        train_stage(
            model,
            data,
            training,
            output_folder=Path(folder),
            callbacks=[watch],
            seed=session.settings.seed,
        )


def _parted(session: Session) -> tuple[dict[str, list[Encoded]], dict[str, list[Encoded]]]:
    """The validation rows that are learned and those that judge, the last fold, by task."""
    parts: tuple[dict[str, list[Encoded]], dict[str, list[Encoded]]] = ({}, {})
    for item in session.evaluator.items:
        task = session.roles.tasks[item.task]
        last = item.fold == session.settings.folds - 1
        parts[last].setdefault(task, []).extend(item.rows)
    return parts


class _Stops(TrainerCallback):  # type: ignore[misc]
    """Scores the model at some steps."""

    def __init__(
        self, session: Session, sides: tuple[Side, Side], rate: float, steps: set[int]
    ) -> None:
        self._session = session
        self._sides = sides
        self._rate = rate
        self._steps = steps
        self.points: list[tuple[Point, Mapping[str, RowScores]]] = []
        self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Score the model after, so that what later stops paid is known on the rows that judge them."""
        self._stop(state, others["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Score the model where a stop is due."""
        if state.global_step in self._steps:
            self._stop(state, others["model"])

    def _stop(self, state: Any, model: Any) -> None:
        began = time.perf_counter()
        judging, test = (self._score(model, side) for side in self._sides)
        losses = {task: one.loss for task, one in judging.items()}
        point = Point(
            "replay", "replay", step=state.global_step, rate=self._rate, validation=losses
        )
        self.points.append((point, test))
        self.seconds += time.perf_counter() - began

    def _score(self, model: Any, side: Side) -> dict[str, RowScores]:
        return {
            task: score_rows(
                model,
                rows,
                pad_id=pad_id(self._session.ends.tokenizer),
                batch_tokens=self._session.settings.batch_tokens,
            )
            for task, rows in side.items()
        }
