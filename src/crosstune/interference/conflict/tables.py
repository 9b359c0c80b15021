"""The probe's tables: agreement at single states and over windows, peaks, movement, and scalars for trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from crosstune.foundation.models import Site
from crosstune.foundation.records import Column, Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.reliability import corrected_cosine
from crosstune.interference.conflict.collect import Pair, over_groups
from crosstune.interference.conflict.cosine import agreement
from crosstune.interference.conflict.depth import (
    mean_products,
    movement_of_run,
    peak_cells,
    resolved_throughout,
    scopes,
    site_name,
)
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.peaks import find_peak, heuristics
from crosstune.interference.conflict.rows import (
    PAIR_COLUMNS,
    STATE_COLUMNS,
    WINDOW_COLUMNS,
    Row,
    state_rows,
    window_rows,
)
from crosstune.interference.conflict.windows import WindowAgreement, window_of

_STAGE = Column.axis("stage")
_REFERENCE = Column.axis("reference", about="frozen: task_a's gradient is that of the first state.")
_SPAN = (
    Column.axis("start_step", "int64", unit="optimizer steps"),
    Column.axis("stop_step", "int64", unit="optimizer steps"),
)

ONE_STATE = (
    "At one state: cosines with intervals over rows, and no verdict. Both gradients ride the optimizer's oscillation: in "
    "real runs a verdict at one state would have been given at 49% of places, and 40% of those had the opposite sign of "
    "the mean of the 64 states around (docs/oscillation.md). A verdict takes several states: `burst=64`, checkpoints, "
    "or a probe's windows."
)


STATES_COLUMNS = (
    _STAGE,
    Column.axis("step", "int64", unit="optimizer steps"),
    _REFERENCE,
    *PAIR_COLUMNS,
    *STATE_COLUMNS,
)
WINDOWS_COLUMNS = (_STAGE, *_SPAN, _REFERENCE, *PAIR_COLUMNS, *WINDOW_COLUMNS)
PEAKS_COLUMNS = (
    _STAGE,
    *_SPAN,
    _REFERENCE,
    *PAIR_COLUMNS,
    Column.axis("scope", about="One component across layers, or all sites."),
    Column.label("site", about="The peak; empty where there is none."),
    Column.label("kind"),
    Column.value("peak_confidence", about="Top − second dissimilarity; 0 when flat."),
    Column.value("p", about="Two-sided p of the smallest standardised difference."),
    Column.label("leader", about="The largest dissimilarity, peak or not."),
    Column.label("indistinguishable", about="Sites that may be the largest."),
    Column.label("gap_site", about="Heuristic: top above 1.1 × second at the last state."),
    Column.label("windowed_site", about="Heuristic: top of the mean over the states."),
    Column.label("weighted_site", about="Heuristic: top of (1 − cos)·‖g‖."),
    Column.label("words"),
)
MOVEMENT_COLUMNS = (
    _STAGE,
    _REFERENCE,
    *PAIR_COLUMNS,
    Column.label("verdict"),
    Column.value("change", unit="cosine per layer", about="Of the slope on depth."),
    *Column.bounds("change", names=("low", "high")),
    Column.value("excluded_above", unit="cosine per layer"),
    Column.value("relevant", unit="cosine per layer"),
    Column.label("seeds", "int64"),
    Column.label("probes", "int64"),
    Column.label("sites", "int64"),
    Column.label("words"),
)

_RowsOf = Callable[[ProbeHistory, Sequence[Site], Sequence[State], tuple[str, Pair]], Iterator[Row]]


def states_table(history: ProbeHistory, sites: Sequence[Site], states: Iterable[State]) -> Table:
    """The table ``agreement_states``: what each single state says, labelled so."""
    level = history.settings.level
    rows = (
        {**_of(history, reference, pair), "step": state.step, **row}
        for state in states
        for reference, pair in history.series()
        for row in state_rows(sites, state.agreement(reference, pair, level))
    )
    return Table("agreement_states", STATES_COLUMNS, rows, note=ONE_STATE)


def windows_table(
    history: ProbeHistory, sites: Sequence[Site], windows: Iterable[Sequence[State]]
) -> Table:
    """The table ``agreement_windows``: means over the states of each window."""
    return Table("agreement_windows", WINDOWS_COLUMNS, _rows(history, sites, windows, _window_rows))


def peaks_table(
    history: ProbeHistory, sites: Sequence[Site], windows: Iterable[Sequence[State]]
) -> Table:
    """The table ``peaks``: at which site each window's tasks are most dissimilar, if one can be named."""
    return Table("peaks", PEAKS_COLUMNS, _rows(history, sites, windows, _peak_rows))


def movement_table(history: ProbeHistory, sites: Sequence[Site]) -> Table:
    """The table ``movement``: whether each pair's agreement moved through depth in this run."""
    names = [column.name for column in MOVEMENT_COLUMNS[2 + len(PAIR_COLUMNS) :]]
    rows = []
    for reference, pair in history.series():
        found = movement_of_run(history, sites, reference, pair)
        cells = {name: getattr(found, name) for name in names}
        rows.append({**_of(history, reference, pair), **cells})
    return Table("movement", MOVEMENT_COLUMNS, rows)


def window_agreement(
    history: ProbeHistory, states: Sequence[State], reference: str, pair: Pair
) -> WindowAgreement:
    """The agreement of a pair over a window; its bootstrap draws are named, hence repeatable."""
    settings = history.settings
    generator = Seeds(settings.seed).torch(
        "window", settings.stage, states[0].step, reference, *pair
    )
    found = [state.agreement(reference, pair, settings.level) for state in states]
    return window_of(found, generator, settings.level, settings.states_a_burst)


def burst_scalars(
    history: ProbeHistory, sites: Sequence[Site], states: Sequence[State]
) -> dict[str, float]:
    """What trackers get of one probe: per pair, corrected cosines of the whole model and of each layer.

    Inner products add up over sites, so a layer's cosine is that of its summed products. Only finite figures above the
    noise floor are sent.
    """
    names, groups = _groups(sites)
    level = history.settings.level
    scalars: dict[str, float] = {}
    for a, b in history.pairs:
        key = f"conflict/{a}-{b}"
        single = [state.agreement("current", (a, b), level) for state in states]
        grouped = [
            agreement(over_groups(state.sums["current"][a, b], groups), level) for state in states
        ]
        scalars[f"{key}/resolved_share"] = float(resolved_throughout(single).double().mean())
        cosine = corrected_cosine(*mean_products(grouped))
        shown = resolved_throughout(grouped) if grouped[0].u.judged else ~cosine.isnan()
        for name, value, is_shown in zip(names, cosine.tolist(), shown.tolist(), strict=True):
            if is_shown and math.isfinite(value):
                scalars[f"{key}/cosine/{name}"] = value
    return scalars


def _rows(
    history: ProbeHistory, sites: Sequence[Site], windows: Iterable[Sequence[State]], of: _RowsOf
) -> Iterator[Row]:
    """The rows of every window, reference and pair."""
    for states in windows:
        span = {"start_step": states[0].step, "stop_step": states[-1].step}
        for reference, pair in history.series():
            where = {**_of(history, reference, pair), **span}
            yield from ({**where, **row} for row in of(history, sites, states, (reference, pair)))


def _of(history: ProbeHistory, reference: str, pair: Pair) -> Row:
    return {
        "stage": history.settings.stage,
        "reference": reference,
        "task_a": pair[0],
        "task_b": pair[1],
        "weights": history.settings.weights,
    }


def _window_rows(
    history: ProbeHistory, sites: Sequence[Site], states: Sequence[State], series: tuple[str, Pair]
) -> Iterator[Row]:
    yield from window_rows(
        sites, window_agreement(history, states, *series), history.settings.caution
    )


def _peak_rows(
    history: ProbeHistory, sites: Sequence[Site], states: Sequence[State], series: tuple[str, Pair]
) -> Iterator[Row]:
    reference, pair = series
    level = history.settings.level
    found = window_agreement(history, states, reference, pair)
    single = [state.agreement(reference, pair, level) for state in states]
    cosines = torch.stack([value.cosine.value for value in single])
    cosines[~torch.stack([value.resolved for value in single])] = math.nan
    for scope, places in scopes(sites):
        names = [str(sites[place]) for place in places]
        spreads = [type(s)(s.rows[:, places], s.df) for s in found.spreads_cosine]
        peak = find_peak(
            found.cosine.value[places],
            spreads,
            found.resolved[places],
            found.conflict[places],
            level,
        )
        rules = heuristics(cosines[:, places], single[-1].norm_b[places])
        yield {
            "scope": scope,
            **peak_cells(peak, names, min(found.u.sizes), history.settings.caution),
            **{column: site_name(names, place) for column, place in rules.items()},
        }


def _groups(sites: Sequence[Site]) -> tuple[list[str], Tensor]:
    """The whole model and each layer: their names, and which sites belong to them, [S, G]."""
    layers = sorted({site.layer for site in sites if site.layer is not None})
    members = [[True] * len(sites), *[[site.layer == layer for site in sites] for layer in layers]]
    return ["all", *[f"L{layer}" for layer in layers]], torch.tensor(members).double().T
