"""The rows of agreement: at one state cosines with intervals and no verdict; over a window of states also a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from crosstune.foundation.models import Site
from crosstune.foundation.records import Column
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells
from crosstune.interference.conflict.cosine import Agreement
from crosstune.interference.conflict.windows import WindowAgreement

WEIGHTS = Column.label(
    "weights",
    about="trained: gradients of what moves; effective: of the weight an adapter adds to.",
)
PAIR_COLUMNS = (
    Column.axis("task_a", about="The first task of the pair."),
    Column.axis("task_b", about="The second task of the pair."),
    WEIGHTS,
)
_FIGURES = (
    *Column.interval(
        "corrected", names=("low", "high"), about="Cosine of the true gradients, noise removed."
    ),
    *Column.interval(
        "inner", about="U_AB: −ε·U_AB is A's first-order loss change from a step ε on B."
    ),
    Column.value("dissimilarity", about="1 − corrected; near 1 is orthogonal, above it opposed."),
    Column.mask("resolved", of="corrected", about="Both gradients stand out of their noise."),
)
_BLOCKS = Column.label("blocks", "int64", unit="blocks", about="Blocks per task.")
STATE_COLUMNS = (
    *SITE_COLUMNS,
    *_FIGURES,
    Column.value("naive", about="Cosine of the mean gradients, pulled to 0 by noise."),
    Column.value("reliability_a", about="Share of ‖mean gradient‖² that is not noise."),
    Column.value("reliability_b"),
    Column.value("norm_a", unit="nats per token", about="‖mean gradient‖ with its noise."),
    Column.value("norm_b", unit="nats per token"),
    Column.value("signal_to_noise_a", about="U_AA over the mean's noise energy."),
    Column.value("signal_to_noise_b"),
    Column.value("noise_scale_a", unit="blocks", about="Blocks at which noise equals signal."),
    Column.value("noise_scale_b", unit="blocks"),
    _BLOCKS,
    Column.label(
        "blocks_needed", "float64", unit="blocks", about="Blocks that would resolve the site."
    ),
    Column.label("note", about="Why there is no cosine, and cautions; or empty."),
)
WINDOW_COLUMNS = (
    *SITE_COLUMNS,
    *_FIGURES,
    Column.label("conflict", "bool", about="U_AB below 0 after Holm over the sites."),
    Column.label("verdict", about="The same in words."),
    Column.value("conflict_p", about="One-sided p of the conflict, Holm-adjusted."),
    Column.label("agree", "bool", about="Lower bound of U_AB above 0 after Holm over the sites."),
    Column.value("sd_states", about="Spread of the one-state cosines in the window."),
    Column.value("sd_states_inner", about="Spread of the one-state U_AB."),
    Column.label("states", "int64", unit="states"),
    Column.label("effective_states", "float64", unit="states", about="Worth as independent ones."),
    _BLOCKS,
)
_PER_SITE = tuple(
    c.name for c in STATE_COLUMNS if c.name.endswith(("_a", "_b")) or c.name == "blocks_needed"
)

GAUGE_NOTE = "gauge-dependent: R·A and B·R⁻¹ are the same function and another cosine"
UNDEFINED = "undefined: a gradient is exactly zero"
BELOW_NOISE = "below noise floor"

Row = dict[str, Any]


def state_rows(sites: Sequence[Site], found: Agreement) -> Iterator[Row]:
    """The rows of one pair at one state, under `STATE_COLUMNS`."""
    for place, site in enumerate(sites):
        gauge = "" if site.factor is None else GAUGE_NOTE
        yield {
            **site_cells(site),
            **_figures(found, place),
            "naive": float(found.naive_cosine[place]),
            **{name: float(getattr(found, name)[place]) for name in _PER_SITE},
            "blocks": found.u.sizes[0],
            "note": "; ".join(filter(None, (_unjudged(found, place), gauge))),
        }


def window_rows(sites: Sequence[Site], found: WindowAgreement, caution: str = "") -> Iterator[Row]:
    """The rows of one pair over one window, under `WINDOW_COLUMNS`."""
    for place, site in enumerate(sites):
        yield {
            **site_cells(site),
            **_figures(found, place),
            "conflict": bool(found.conflict[place]),
            "verdict": _unjudged(found, place) or _verdict(found, place, caution),
            "conflict_p": float(found.conflict_p[place]),
            "agree": bool(found.agree[place]),
            "sd_states": float(found.state_sd_cosine[place]),
            "sd_states_inner": float(found.state_sd_inner[place]),
            "states": found.states,
            "effective_states": float(found.effective_states[place]),
            "blocks": found.u.sizes[0],
        }


def _figures(found: Agreement | WindowAgreement, place: int) -> Row:
    """The cells of `_FIGURES` at one site; the cosine is NaN where it cannot be told from noise."""
    resolved = bool(found.resolved[place])
    # Too few blocks to judge the noise floor: the point estimate is shown, without an interval.
    cosine = float(found.cosine.value[place]) if resolved or not found.u.judged else math.nan
    return {
        "corrected": cosine,
        "low": float(found.cosine.low[place]) if resolved else math.nan,
        "high": float(found.cosine.high[place]) if resolved else math.nan,
        "inner": float(found.inner.value[place]),
        "inner_low": float(found.inner.low[place]),
        "inner_high": float(found.inner.high[place]),
        "dissimilarity": 1 - cosine,
        "resolved": resolved,
    }


def _unjudged(found: Agreement | WindowAgreement, place: int) -> str:
    """Why nothing can be said at a site; empty where it can."""
    if float(found.u.aa[place]) == 0 or float(found.u.bb[place]) == 0:
        return UNDEFINED
    if math.isnan(float(found.inner.low[place])):
        few = "blocks" if isinstance(found, Agreement) else "blocks or states"
        return f"too few {few} for an interval"
    return "" if bool(found.resolved[place]) else BELOW_NOISE


def _verdict(found: WindowAgreement, place: int, caution: str) -> str:
    shown = "conflict" if found.conflict[place] else "agreement" if found.agree[place] else ""
    if not shown:
        return "neither shown"
    return f"{shown}; {caution}" if caution else shown
