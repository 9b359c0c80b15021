"""measure_conflict: do the gradients of tasks agree, at the state a model is in, per layer and component?

One state is precise and may still mislead: both gradients follow the optimizer's oscillation and the sign can flip from
one step to the next. What is measured here is labelled "at one state"; the `ConflictProbe` averages over states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstune.foundation.errors import ModelError
from crosstune.foundation.models import Site, check_finite, load_model, load_tokenizer
from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells
from crosstune.foundation.settings.options import with_options
from crosstune.interference.conflict.collect import Pair
from crosstune.interference.conflict.comparison import (
    Comparison,
    Tasks,
    choose_blocks,
    read_comparable,
)
from crosstune.interference.conflict.cosine import Agreement, agreement
from crosstune.interference.conflict.settings import AgreementSettings
from crosstune.interference.conflict.windows import WindowAgreement

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WEIGHTS = Column.label(
    "weights",
    about="trained: gradients of what moves; effective: of the weight an adapter adds to.",
)
PAIR_COLUMNS = (
    Column.axis("task_a", about="The first task of the pair."),
    Column.axis("task_b", about="The second task of the pair."),
    WEIGHTS,
)
FIGURE_COLUMNS = (
    *Column.interval(
        "corrected", names=("low", "high"), about="Cosine of the true gradients, noise removed."
    ),
    *Column.interval(
        "inner", about="U_AB: −ε·U_AB is A's first-order loss change from a step ε on B."
    ),
    Column.value("dissimilarity", about="1 − corrected; near 1 is orthogonal, not conflict."),
    Column.mask("resolved", of="corrected", about="Both gradients stand out of their noise."),
    Column.label("conflict", "bool", about="U_AB below 0 after Holm over the sites."),
    Column.label("verdict", about="The same in words."),
)
STATE_COLUMNS = (
    Column.value("naive", about="Cosine of the mean gradients, pulled to 0 by noise."),
    Column.value("reliability_a", about="Share of ‖mean gradient‖² that is not noise."),
    Column.value("reliability_b"),
    Column.value("norm_a", unit="nats per token", about="‖mean gradient‖ with its noise."),
    Column.value("norm_b", unit="nats per token"),
    Column.value("signal_to_noise_a", about="U_AA over the mean's noise energy."),
    Column.value("signal_to_noise_b"),
    Column.value("noise_scale_a", unit="blocks", about="Blocks at which noise equals signal."),
    Column.value("noise_scale_b", unit="blocks"),
    Column.value("conflict_p", about="One-sided p of the conflict, Holm-adjusted."),
    Column.label("blocks", "int64", unit="blocks", about="Blocks per task."),
    Column.label(
        "blocks_needed", "float64", unit="blocks", about="Blocks that would resolve the site."
    ),
    Column.label("note"),
)
CONFLICT_COLUMNS = (*PAIR_COLUMNS, *SITE_COLUMNS, *FIGURE_COLUMNS, *STATE_COLUMNS)
_PER_SITE = tuple(c.name for c in STATE_COLUMNS if c.name not in ("naive", "blocks", "note"))
_CHECKPOINT = Column.axis("checkpoint")
_STEP = Column.axis("step", "int64", unit="optimizer steps")

GAUGE_NOTE = "gauge-dependent: R·A and B·R⁻¹ are the same function and another cosine"


def measure_conflict(
    model: PreTrainedModel | str | Path | Sequence[str | Path],
    tokenizer: PreTrainedTokenizerBase | None,
    tasks: Tasks,
    *,
    settings: AgreementSettings | None = None,
    **options: Any,
) -> Table:
    """The agreement of every pair of tasks at one state, one row per (pair, layer, component).

    The model is left exactly as it was: weights, gradients, buffers, training flags and random
    states. Figures depend on the blocks alone, not on batch sizes, padding or row order.

    Args:
        model: A model in memory, or the folders of stored checkpoints; these add the axes
            ``checkpoint`` and ``step``.
        tokenizer: Its tokenizer; None takes the one stored with the first checkpoint.
        tasks: At least two: name to rows (texts, dicts with a ``text``, `Row`, a dataset), or `Task`s.
        settings: How to measure; the default is `AgreementSettings()`.
        options: Single settings by name: ``blocks=16, rows_per_block=4, length=128, seed=0, …``.

    Returns:
        The table ``conflict``. A cosine below the noise floor is NaN, its row says so.

    Raises:
        DataError: Fewer than two tasks, or too few rows.
        MeasurementError: A gradient is not finite.
        ModelError: The weights are not finite, or nothing is trainable.
        SettingsError: An option, layer or component is unknown or impossible.
        UnsupportedError: The model is sharded, quantised, or uses reentrant checkpointing.
    """
    chosen = with_options(settings or AgreementSettings(), options)
    rows = read_comparable(tasks)
    if not isinstance(model, str | Path | Sequence):
        if tokenizer is None:
            raise ModelError(
                "tokenizer",
                law="must come with a model in memory",
                found="None",
                remedy="Give the model's tokenizer; only a stored checkpoint carries its own.",
            )
        return _measured(model, tokenizer, rows, chosen)
    folders = [model] if isinstance(model, str | Path) else list(model)
    if not folders:
        raise ModelError(
            "model", law="must name a checkpoint", found="an empty list", remedy="Give one folder."
        )
    tokenizer = tokenizer or load_tokenizer(folders[0])
    tables = []
    for folder in folders:
        table = _measured(load_model(folder), tokenizer, rows, chosen)
        # The number of blocks is chosen once and kept, so that checkpoints can be compared.
        chosen = with_options(chosen, {"blocks": table.column("blocks")[0]})
        name = Path(folder).name
        number = re.search(r"(\d+)$", name)
        step = None if number is None else int(number.group(1))
        tables.append(table.with_columns({_CHECKPOINT: name, _STEP: step}))
    return Table.concat(tables)


def interval_cells(value: Agreement | WindowAgreement, place: int) -> dict[str, Any]:
    """The cells of `FIGURE_COLUMNS` at one site, without the verdict; NaN where the verdict says why."""
    resolved = bool(value.resolved[place])
    # Too few blocks to judge the noise floor: the point estimate is shown, without an interval.
    cosine = float(value.cosine.value[place]) if resolved or not value.u.judged else math.nan
    return {
        "corrected": cosine,
        "low": float(value.cosine.low[place]) if resolved else math.nan,
        "high": float(value.cosine.high[place]) if resolved else math.nan,
        "inner": float(value.inner.value[place]),
        "inner_low": float(value.inner.low[place]),
        "inner_high": float(value.inner.high[place]),
        "dissimilarity": 1 - cosine,
        "resolved": resolved,
        "conflict": bool(value.conflict[place]),
    }


def conflict_rows(
    pair: Pair, sites: Sequence[Site], value: Agreement, weights: str
) -> Iterator[dict[str, Any]]:
    """The rows of one pair under `CONFLICT_COLUMNS`."""
    for place, site in enumerate(sites):
        yield {
            "task_a": pair[0],
            "task_b": pair[1],
            "weights": weights,
            **site_cells(site),
            **interval_cells(value, place),
            "verdict": _verdict(value, place),
            "naive": float(value.naive_cosine[place]),
            **{name: float(getattr(value, name)[place]) for name in _PER_SITE},
            "blocks": value.u.sizes[0],
            "note": "" if site.factor is None else GAUGE_NOTE,
        }


def _measured(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Any],
    settings: AgreementSettings,
) -> Table:
    check_finite(model)
    blocks = choose_blocks(model, tokenizer, rows, settings)
    comparison = Comparison.prepare(model, tokenizer, rows, settings, blocks)
    sums = comparison.sums(model)["current"]
    found = {pair: agreement(value, settings.level) for pair, value in sums.items()}
    return Table(
        "conflict",
        CONFLICT_COLUMNS,
        (
            row
            for pair, value in found.items()
            for row in conflict_rows(pair, comparison.sites, value, settings.weights)
        ),
    )


def _verdict(value: Agreement, place: int) -> str:
    if float(value.norm_a[place]) == 0 or float(value.norm_b[place]) == 0:
        return "undefined: a gradient is exactly zero"
    if not value.u.judged:
        return "too few blocks for an interval"
    if not bool(value.resolved[place]):
        return "below noise floor"
    if bool(value.conflict[place]):
        return "conflict at one state"
    if bool(value.agree[place]):
        return "agreement at one state"
    return "neither shown at one state"
