"""measure_conflict: do the gradients of tasks agree, per layer and component? At one state without a verdict, over states with one.

One state is precise and misleads all the same: both gradients ride the optimizer's oscillation, and the sign may flip
from one step to the next (docs/oscillation.md). A verdict is given of the mean over checkpoints of one run, or over the states of a few
optimizer steps on a copy of the model; both go through what the `ConflictProbe` says of its windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import chain, cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crosstune.foundation.data import Row, encode
from crosstune.foundation.errors import ModelError
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.gradients.gradients import batch_of
from crosstune.foundation.models import check_finite, load_model, load_tokenizer, measuring
from crosstune.foundation.records import Table
from crosstune.foundation.seeds import Seeds, content_key
from crosstune.foundation.settings.options import at_least, one_of, with_options
from crosstune.interference.conflict.comparison import (
    Comparison,
    Tasks,
    choose_blocks,
    read_comparable,
)
from crosstune.interference.conflict.cosine import agreement
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.rows import (
    PAIR_COLUMNS,
    STATE_COLUMNS,
    WINDOW_COLUMNS,
    state_rows,
    window_rows,
)
from crosstune.interference.conflict.settings import LONG, MeasureSettings, ProbeSettings
from crosstune.interference.conflict.tables import ONE_STATE, window_agreement
from crosstune.interference.conflict.windows import MIN_STATES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ONE_STATE_COLUMNS = (*PAIR_COLUMNS, *STATE_COLUMNS)
SEVERAL_COLUMNS = (*PAIR_COLUMNS, *WINDOW_COLUMNS)


def measure_conflict(
    model: PreTrainedModel | str | Path | Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | None,
    tasks: Tasks,
    *,
    settings: MeasureSettings | None = None,
    **options: Any,
) -> Table:
    """The agreement of every pair of tasks, one row per (pair, layer, component); with verdicts where there are several states.

    At one state the table has cosines and intervals and no verdict. ``burst=64`` takes 64 optimizer steps on a copy of the
    model and says of the mean over 16 states on the way where tasks conflict and where they agree; the folders of
    checkpoints of one run, in order, do the same for these. The model is left exactly as it was: weights, gradients,
    buffers, training flags and random states. Figures depend on the blocks alone, not on batch sizes, padding or row order.

    Args:
        model: A model in memory, the folder of a stored one, or the folders of at least 4 checkpoints of one run.
        tokenizer: Its tokenizer; None takes the one stored with the first checkpoint.
        tasks: At least two: name to rows (texts, dicts with a ``text``, `Row`, a dataset), or `Task`s.
        settings: How to measure; the default is `MeasureSettings()`.
        options: Single settings by name: ``burst=64, learning="bn", learning_rate=2e-4, blocks=16, …``.

    Returns:
        The table ``agreement``; its note says what it stands on. A cosine below the noise floor is NaN, its row says so.

    Raises:
        DataError: Fewer than two tasks, or too few rows.
        MeasurementError: A gradient is not finite.
        ModelError: The weights are not finite, nothing is trainable, or checkpoints are of different models.
        SettingsError: An option, layer or component is unknown or impossible.
        UnsupportedError: The model is sharded, quantised, or uses reentrant checkpointing.
    """
    chosen = with_options(settings or MeasureSettings(), options)
    rows = read_comparable(tasks)
    if chosen.learning is not None:
        one_of("learning", chosen.learning, list(rows), "Name a task, or leave it out to mix all.")
    if chosen.burst is not None:
        at_least("burst", chosen.burst, MIN_STATES * chosen.every)
    if isinstance(model, Sequence) and not isinstance(model, str):
        return _over_checkpoints([Path(folder) for folder in model], tokenizer, rows, chosen)
    if isinstance(model, str | Path):
        tokenizer = tokenizer or load_tokenizer(model)
        model = load_model(model)
    if tokenizer is None:
        raise ModelError(
            "tokenizer",
            law="must come with a model in memory",
            found="None",
            remedy="Give the model's tokenizer; only a stored checkpoint carries its own.",
        )
    comparison = _prepared(model, tokenizer, rows, chosen)
    if chosen.burst is None:
        return _at_one_state(comparison, model)
    learned = rows if chosen.learning is None else {chosen.learning: rows[chosen.learning]}
    states = _along(comparison, model, _batches(learned, model, tokenizer, chosen), chosen)
    what = (
        f"{len(states)} of {chosen.burst} states that a copy of the model went through (a fresh AdamW, learning rate "
        f"{chosen.learning_rate:g}, {chosen.batch_rows} rows a step of {', '.join(learned)})"
    )
    return _over_states(comparison, states, what, chosen.every)


def _prepared(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Sequence[Row]],
    chosen: MeasureSettings,
) -> Comparison:
    check_finite(model)
    blocks = choose_blocks(model, tokenizer, rows, chosen)
    return Comparison.prepare(model, tokenizer, rows, chosen, blocks)


def _at_one_state(comparison: Comparison, model: PreTrainedModel) -> Table:
    settings = comparison.settings
    cells = (
        {"task_a": a, "task_b": b, "weights": settings.weights, **row}
        for (a, b), sums in comparison.sums(model)["current"].items()
        for row in state_rows(comparison.sites, agreement(sums, settings.level))
    )
    return Table("agreement", ONE_STATE_COLUMNS, cells, note=ONE_STATE)


def _over_states(comparison: Comparison, states: Sequence[State], what: str, every: int) -> Table:
    """What a probe that looked at one of `every` steps, and so at these states, says of them."""
    shared = {name: getattr(comparison.settings, name) for name in ("level", "seed", "weights")}
    history = ProbeHistory(ProbeSettings(every=every, burst=1, window=len(states), **shared))
    history.states = list(states)
    cells = (
        {"task_a": a, "task_b": b, "weights": history.settings.weights, **row}
        for a, b in comparison.pairs
        for row in window_rows(
            comparison.sites,
            window_agreement(history, states, "current", (a, b)),
            history.settings.caution,
        )
    )
    note = (
        f"Means over {what}. Intervals speak of other states along this one path and of other rows of the "
        "tasks, not of another path, learning rate or seed."
    )
    return Table("agreement", SEVERAL_COLUMNS, cells, note=note)


def _over_checkpoints(
    folders: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase | None,
    rows: Mapping[str, Sequence[Row]],
    chosen: MeasureSettings,
) -> Table:
    if len(folders) < MIN_STATES or chosen.burst is not None:
        raise ModelError(
            "model",
            law=f"must be one model, or at least {MIN_STATES} checkpoints of one run and no `burst`",
            found=f"{len(folders)} folders" + ("" if chosen.burst is None else " and a burst"),
            remedy="Give one folder, with `burst=64` for a verdict, or more checkpoints.",
        )
    tokenizer = tokenizer or load_tokenizer(folders[0])
    states: list[State] = []
    for folder in folders:
        model = load_model(folder)
        shapes = {name: value.shape for name, value in model.named_parameters()}
        if not states:
            comparison, first = _prepared(model, tokenizer, rows, chosen), shapes
        if shapes != first:
            raise ModelError(
                "model",
                law=f"must be checkpoints of one run: of the model in {folders[0]}",
                found=f"other parameters in {folder}",
                remedy="Measure other models apart.",
            )
        check_finite(model)
        states.append(State(len(states), comparison.sums(model)))
    ends = f"{folders[0].name} to {folders[-1].name}"
    return _over_states(comparison, states, f"{len(folders)} checkpoints of one run, {ends}", LONG)


def _along(
    comparison: Comparison,
    model: PreTrainedModel,
    batches: Iterable[tuple[dict[str, Tensor], int]],
    chosen: MeasureSettings,
) -> list[State]:
    """The states at which a probe would look at a copy of the model while it learns the batches."""
    probe = ProbeSettings(every=chosen.every, burst=1, seed=chosen.seed)
    states: list[State] = []
    with measuring(
        model
    ):  # puts random states back, and lays aside `.grad`, of which the copy has no use
        copy = deepcopy(model).train()
        torch.manual_seed(Seeds(chosen.seed).derive("burst"))
        moved = [value for value in copy.parameters() if value.requires_grad]
        optimizer = torch.optim.AdamW(moved, lr=chosen.learning_rate, weight_decay=0.0)
        for step, (batch, scored) in zip(range(chosen.burst or 0), batches, strict=False):
            if probe.measures(step):
                states.append(State(step, comparison.sums(copy)))
            (token_nats(copy, batch).sum() / scored).backward()
            optimizer.step()
            optimizer.zero_grad()
    return states


def _batches(
    tasks: Mapping[str, Sequence[Row]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    chosen: MeasureSettings,
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Batches without end and their scored tokens: as many rows of each task, in an order that the seed decides."""
    orders = [
        sorted(rows, key=lambda row: content_key(row.content, "burst", chosen.seed))
        for rows in tasks.values()
    ]
    stream = chain.from_iterable(zip(*map(cycle, orders), strict=True))
    device, length, window = model.device, chosen.length, chosen.window_rows
    while True:
        part = encode(islice(stream, chosen.batch_rows), tokenizer, length, window=window)
        batch = batch_of(part, pad_id(tokenizer), device)
        yield batch, sum(row.scored_tokens for row in part)
