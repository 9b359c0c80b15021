"""Scores of models of the space on given rows, as a saved model would score: rounded to the dtype it is stored in.

How many evaluations a search may make is counted from its settings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crosstune.foundation.data import Encoded
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.gradients.gradients import evaluating
from crosstune.foundation.models import Anatomy
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.groups import parameter_groups
from crosstune.merging.interpolation import InterpolationSpace
from crosstune.merging.settings import RepairSettings


def score_tasks(
    ends: Endpoints, rows: Mapping[str, Sequence[Encoded]], settings: RepairSettings
) -> dict[str, RowScores]:
    """The scores of what the work model holds now."""
    with evaluating(ends.model, settings.gradient_settings()):
        return {
            task: score_rows(
                ends.model,
                given,
                pad_id=pad_id(ends.tokenizer),
                batch_tokens=settings.batch_tokens,
            )
            for task, given in rows.items()
        }


def score_at(
    space: InterpolationSpace,
    values: Tensor,
    rows: Mapping[str, Sequence[Encoded]],
    settings: RepairSettings,
) -> dict[str, RowScores]:
    """The scores of one model of the space, which the work model then holds."""
    space.place(values, rounded=True)
    return score_tasks(space.ends, rows, settings)


def place_end(ends: Endpoints, value: float, *, rounded: bool = False) -> None:
    """Let the work model hold `before` (0) or `after` (1), bit for bit, or as it would be stored."""
    space = plain_space(ends)
    space.place(torch.full(space.shape, value, dtype=torch.float64), rounded=rounded)


def score_end(
    ends: Endpoints, value: float, rows: Mapping[str, Sequence[Encoded]], settings: RepairSettings
) -> dict[str, RowScores]:
    """The scores of `before` (0) or `after` (1), which the work model then holds."""
    place_end(ends, value, rounded=True)
    return score_tasks(ends, rows, settings)


def plain_space(ends: Endpoints) -> InterpolationSpace:
    """The space whose groups are whole parts: enough to reach the endpoints."""
    groups = parameter_groups(Anatomy.of(ends.model), ends.names, rows={}, directions={})
    return InterpolationSpace(ends, groups, rows={}, directions={})


def losses_at_ends(
    ends: Endpoints, rows: Mapping[str, Sequence[Encoded]], settings: RepairSettings
) -> tuple[dict[str, float], dict[str, float]]:
    """Nats per token of each task at `before` and at `after`."""
    before, after = (
        {task: scores.loss for task, scores in score_end(ends, value, rows, settings).items()}
        for value in (0.0, 1.0)
    )
    return before, after


LINE = "straight line"
LINE_STEPS = 20  # from before to after
_FREE = ("global", "ramp")  # too few coordinates to be pulled towards anything


def line_shares(settings: RepairSettings) -> list[float]:
    """The shares of the change that the models of the line keep: 0, 0.05, …, 1, and so on where the range is wider."""
    low, high = (round(bound * LINE_STEPS, 9) for bound in (settings.low, settings.high))
    return [at / LINE_STEPS for at in range(math.ceil(low), math.floor(high) + 1)]


def penalty_evaluations(settings: RepairSettings) -> int:
    """The most evaluations of one search under one penalty and fold; each begins where the last one ended."""
    return max(3, settings.evaluations // 3)


def evaluations_by_method(settings: RepairSettings) -> dict[str, int]:
    """The most evaluations of each method, the straight line first; most searches end far earlier."""
    limits = len(settings.budgets) + bool(settings.max_loss)
    points = len(settings.exchange_rates) + limits + settings.margin * limits * settings.folds
    strengths = len(settings.penalties) if len(settings.penalties) > 1 else 0
    shrinking = settings.folds * strengths * penalty_evaluations(settings)
    return {
        LINE: len(line_shares(settings)),
        **{
            name: points * settings.evaluations
            + settings.margin * limits
            + (name not in _FREE) * shrinking
            for name in settings.methods
        },
    }


def most_evaluations(settings: RepairSettings) -> int:
    """The most evaluations of a whole search."""
    return sum(evaluations_by_method(settings).values())
