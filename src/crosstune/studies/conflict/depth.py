"""Where along depth two tasks are most dissimilar over a whole stage, and whether that moved, over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from crosstune.foundation.records import Column, Table
from crosstune.interference.conflict.depth import (
    Profiles,
    movement_of_run,
    peak_cells,
    scopes,
)
from crosstune.interference.conflict.movement import (
    Movement,
    always_resolved,
    movement_across_seeds,
    too_few,
)
from crosstune.interference.conflict.peaks import find_peak
from crosstune.interference.conflict.rows import WEIGHTS
from crosstune.studies.conflict.agreement import PAIR, PAIR_JOINT, Pair, StageProbe
from crosstune.studies.conflict.tables import STAGE
from crosstune.studies.frame.over_seeds import PLAIN

_PEAKS = (
    STAGE,
    PAIR,
    WEIGHTS,
    Column.axis("scope", about="One component across layers, or all sites."),
    Column.label("kind"),
    Column.value("peak_confidence", about="Top − second dissimilarity; 0 when flat."),
    Column.label("p", "float64"),
    Column.label("words"),
    Column.label("indistinguishable"),
    Column.label("seeds", "int64"),
)
_SLOPE = "cosine per layer"
_MOVEMENT = (
    STAGE,
    PAIR,
    WEIGHTS,
    Column.label("verdict"),
    *Column.interval(
        "change", names=PLAIN, unit=_SLOPE, about="Of the slope on depth over the stage."
    ),
    Column.label("excluded_above", "float64", unit=_SLOPE),
    Column.label("needs_seeds", "float64", about="To exclude it; NaN where unknown."),
    Column.label("probes", "int64"),
    Column.label("sites", "int64"),
    Column.label("seeds", "int64"),
    Column.label("words"),
)


def peaks(probes: Sequence[StageProbe]) -> Table:
    """The table `peaks_over_seeds`: where two tasks are most dissimilar over a whole stage, if that can be told."""
    rows = (row for probe in probes if probe.has_probes for row in _peaks(probe))
    return Table("peaks_over_seeds", _PEAKS, rows)


def _peaks(probe: StageProbe) -> Iterator[dict[str, Any]]:
    shown = {"kind", "peak_confidence", "p", "words", "indistinguishable"}
    settings = probe.histories[0].settings
    for pair in probe.pairs:
        found = probe.over_seeds(None, pair)
        blocks = min(probe.histories[0].states[0].sums["current"][pair].sizes)
        for scope, places in scopes(probe.sites):
            peak = find_peak(
                found.cosine.value[places],
                [type(s)(s.rows[:, places], s.df) for s in found.spreads_cosine],
                found.resolved[places],
                found.conflict[places],
                settings.level,
            )
            names = [str(probe.sites[place]) for place in places]
            cells = peak_cells(peak, names, blocks)
            yield {
                "stage": probe.stage,
                "pair": PAIR_JOINT.join(pair),
                "weights": probe.weights,
                "scope": scope,
                **{name: cells[name] for name in shown},
                "seeds": found.seeds,
            }


def movement(probes: Sequence[StageProbe]) -> Table:
    """The table `movement_over_seeds`: whether agreement moved through depth; with one seed, in that run alone."""
    rows = (
        {
            "stage": probe.stage,
            "pair": PAIR_JOINT.join(pair),
            "weights": probe.weights,
            **{column.name: getattr(found, column.name) for column in _MOVEMENT[3:]},
        }
        for probe in probes
        for pair in probe.pairs
        for found in [_moved(probe, pair)]
    )
    return Table("movement_over_seeds", _MOVEMENT, rows)


def _moved(probe: StageProbe, pair: Pair) -> Movement:
    """Over seeds where there are several; sites below the noise floor at any probe of any seed take no part."""
    if not probe.has_probes:
        return too_few(len(probe.histories))
    first, *others = probe.histories
    if not others:
        return movement_of_run(first, probe.sites, "current", pair)
    profiles = [Profiles.of(history, probe.sites, "current", pair) for history in probe.histories]
    depth, steps = profiles[0].depth, profiles[0].steps
    kept = always_resolved(torch.stack([one.resolved for one in profiles])) & (depth >= 0)
    cosines = torch.stack([one.cosine for one in profiles])[..., kept]
    return movement_across_seeds(cosines, depth[kept], steps, level=first.settings.level)
