"""Profiles: what circuit scores at one snapshot say of every head and of every row of the old task, and what gradient norms alone say.

Every predictor is turned so that more of it should mean more forgetting: signed scores and KFAC's are negated, since a step on
the new task changes the old task's loss by −η ⟨g_A, g_B⟩ to first order. A predictor is worth something only beyond the norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from crosstune.circuits.checks import SIGNED
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.summary import Margins
from crosstune.foundation.records import Column

HEADS, ROWS = "foretell_profiles", "foretell_row_profiles"
SCORE, BASELINE = "score", "baseline"
NORMS = ("‖g_A‖·‖g_B‖", "‖g_A‖", "‖g_B‖")
OF_ROWS = ("scored tokens", "loss before", "‖g_i‖")
_STATE = Column.axis(
    "state", "int64", about="Steps of the pilot run before it.", unit="optimizer steps"
)
BLOCK = Column.axis("block", about="Projection: q, k, v or o.")
HEAD = (
    BLOCK,
    Column.axis("layer", "int64", about="Index of the layer, from 0."),
    Column.axis("head", "int64", about="Query head in q and o, key-value head in k and v."),
)
PREDICTOR = Column.axis("predictor", about="A score, or a norm; signed scores are negated.")
KIND = Column.axis("kind", about="score, or baseline: what gradient norms alone say.")
HEADS_COLUMNS = (
    _STATE,
    *HEAD,
    PREDICTOR,
    KIND,
    Column.value("score", about="Mean over all pairs of rows."),
    Column.label("a_even", "float64", about="The same over the old task's rows at even places."),
    Column.label("a_odd", "float64", about="Likewise at odd places."),
    Column.label("b_even", "float64", about="Over the new task's rows at even places."),
    Column.label("b_odd", "float64", about="Likewise at odd places."),
)
ROWS_COLUMNS = (
    _STATE,
    BLOCK,
    Column.axis("row", "int64", about="Place of the old task's scored row, from 0."),
    PREDICTOR,
    KIND,
    Column.value("score", about="Mean over the new task's rows, sum over heads and layers."),
)
Cells = tuple[Any, ...]


class AtStates(TrainerCallback):  # type: ignore[misc]
    """Calls `score(steps, model)` before a training, and after every `stride` of its steps."""

    def __init__(self, score: Callable[[int, Any], None], stride: int) -> None:
        self._score, self._stride = score, stride

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Score the state before."""
        self._score(state.global_step, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        """Score every state that is a stride from the one before."""
        if state.global_step % self._stride == 0:
            self._score(state.global_step, model)


def predictor_of(variant: str) -> str:
    """A variant's name as a predictor, with a minus sign where more of it should mean less forgetting."""
    return f"−{variant}" if variant in SIGNED else variant


def head_profiles(state: int, scores: CircuitScores) -> Iterator[Cells]:
    """One row of `HEADS_COLUMNS` for each head and predictor, from the scores at one snapshot of the pilot run."""
    for block in scores.blocks:
        places = [(layer, head) for layer in scores.layers for head in scores.heads(block)]
        for name, kind, figures in _of_heads(scores, block):
            for (layer, head), (score, *halves) in zip(places, figures.T.tolist(), strict=True):
                yield state, block, layer, head, name, kind, score, *halves


def _of_heads(scores: CircuitScores, block: str) -> Iterator[tuple[str, str, Tensor]]:
    """Each predictor of a block's heads: its name, its kind, and its mean and means over halves, [5, n]."""
    for form in scores.average_forms:
        found = Margins.of(scores, block, form)
        sign = -1.0 if form.variant in SIGNED else 1.0
        means = torch.stack([found.mean, *found.columns.mean(1), *found.rows.mean(1)])
        yield predictor_of(form.variant), SCORE, sign * means
    a, b = (torch.from_numpy(scores.norms(block, side)).flatten(1).mean(0) for side in "ab")
    for name, norm in zip(NORMS, (a * b, a, b), strict=True):
        unknown = torch.full((4, len(norm)), math.nan, dtype=torch.float64)
        yield name, BASELINE, torch.cat([norm[None], unknown])


def row_profiles(state: int, scores: CircuitScores) -> Iterator[Cells]:
    """One row of `ROWS_COLUMNS` for each scored row of the old task and predictor that says something of single rows.

    A row's ewc is its share of the Fisher's.
    """
    tokens, losses = (
        torch.tensor([getattr(row, name) for row in scores.rows_a], dtype=torch.float64)
        for name in ("tokens", "loss")
    )
    for block in scores.blocks:
        norms = torch.from_numpy(scores.norms(block, "a")).flatten(1)
        found = [(name, SCORE, values) for name, values in _of_rows(scores, block)]
        plain = (tokens, losses, norms.square().sum(1).sqrt())
        found += [(name, BASELINE, values) for name, values in zip(OF_ROWS, plain, strict=True)]
        for name, kind, values in found:
            for row, score in enumerate(values.tolist()):
                yield state, block, row, name, kind, score


def _of_rows(scores: CircuitScores, block: str) -> Iterator[tuple[str, Tensor]]:
    for form in scores.average_forms:
        means = Margins.of(scores, block, form).row_means.sum(1)
        if not bool(means.isnan().all()):
            yield predictor_of(form.variant), (-1.0 if form.variant in SIGNED else 1.0) * means
