"""Agreement over windows, states and seeds: only here may a study say conflict, peak or movement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crosstune.foundation.records import Column, Run, Table
from crosstune.interference.agreement import MIN_BLOCKS_FOR_PEAKS
from crosstune.interference.movement import Movement, movement_across_seeds
from crosstune.interference.peaks import Peak, find_peak
from crosstune.interference.probe_history import ProbeHistory, State
from crosstune.interference.probe_tables import window_agreement
from crosstune.interference.windows import SeedAgreement, across_seeds
from crosstune.studies.conflict.accounts import COMPONENT, LAYER, WHERE
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.tables import STAGE

PROBE_FOLDER = "probe"
WINDOW, WHOLE = "window", "whole stage"
PAIR_JOINT = " – "
_PAIR = Column("pair", "string", "axis", about="The two tasks.")
_SCOPE = Column("scope", "string", "axis", about="One window of probes, or the whole stage.")
_AGREEMENT = (
    STAGE,
    _SCOPE,
    Column("start_step", "int64", "axis", "optimizer steps"),
    Column("stop_step", "int64", "axis", "optimizer steps"),
    _PAIR,
    WHERE,
    LAYER,
    COMPONENT,
    Column("corrected", "float64", "value", about="Cosine of the window means, mean over seeds."),
    Column("low", "float64", "low", of="corrected", about="Over rows, states and seeds."),
    Column("high", "float64", "high", of="corrected"),
    Column(
        "naive", "float64", "value", about="Cosine of mean gradients, mean over states and seeds."
    ),
    Column("inner", "float64", "value", about="U_AB, mean over seeds."),
    Column("inner_low", "float64", "low", of="inner"),
    Column("inner_high", "float64", "high", of="inner"),
    Column(
        "resolved", "bool", "mask", of="corrected", about="Above the noise floor at every seed."
    ),
    Column(
        "conflict", "bool", "label", about="Upper bound of U_AB below 0 after Holm over the sites."
    ),
    Column("conflict_p", "float64", "label", about="One-sided, Holm-adjusted over the sites."),
    Column(
        "sd_states", "float64", "value", about="Spread of the one-state cosines, mean over seeds."
    ),
    Column("states", "int64", "label", about="States a seed."),
    Column("blocks", "int64", "label", about="Blocks a task."),
    Column("seeds", "int64", "label"),
)
_AT_ONE_STATE = tuple(
    column
    for column in _AGREEMENT
    if column.name
    in (
        "stage",
        "scope",
        "stop_step",
        "pair",
        "where",
        "layer",
        "component",
        "corrected",
        "resolved",
    )
)
_PEAKS = (
    STAGE,
    _PAIR,
    Column("scope", "string", "axis", about="One component across layers, or all sites."),
    Column("kind", "string", "label"),
    Column("peak_confidence", "float64", "value", about="Top − second dissimilarity; 0 when flat."),
    Column("p", "float64", "label"),
    Column("words", "string", "label"),
    Column("indistinguishable", "string", "label"),
    Column("seeds", "int64", "label"),
)
_MOVEMENT = (
    STAGE,
    _PAIR,
    Column("verdict", "string", "label"),
    Column(
        "change",
        "float64",
        "value",
        "cosine per layer",
        about="Of the slope on depth over the stage.",
    ),
    Column("low", "float64", "low", "cosine per layer", of="change"),
    Column("high", "float64", "high", "cosine per layer", of="change"),
    Column("excluded_above", "float64", "label", "cosine per layer"),
    Column("needs_seeds", "int64", "label"),
    Column("probes", "int64", "label"),
    Column("sites", "int64", "label"),
    Column("seeds", "int64", "label"),
    Column("words", "string", "label"),
)
Pair = tuple[str, str]


@dataclass(frozen=True)
class StageProbe:
    """The probes of one stage at all seeds.

    Attributes:
        stage: The stage.
        histories: One a seed.
        sites: `where`, `layer` and `component` of each site, in the histories' order.
    """

    stage: str
    histories: tuple[ProbeHistory, ...]
    sites: tuple[Mapping[str, Any], ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of tasks."""
        return self.histories[0].pairs

    def over_seeds(self, window: int | None, pair: Pair) -> SeedAgreement:
        """The agreement over the seeds' windows.

        Args:
            window: Which window; None for the whole stage.
            pair: The tasks.

        Returns:
            Means over seeds with intervals over rows and seeds; for one seed, over rows and states.
        """
        found = [
            window_agreement(history, _states(history, window), "current", pair)
            for history in self.histories
        ]
        if len(found) > 1:
            return across_seeds(found)
        only = found[0]
        return SeedAgreement(
            seeds=1,
            cosine=only.cosine,
            inner=only.inner,
            spreads_cosine=only.spreads_cosine,
            resolved=only.resolved,
            conflict=only.conflict,
            conflict_p=only.conflict_p,
        )


def read_probes(cells: Sequence[Run], settings: ConflictSettings) -> list[StageProbe]:
    """What the probes of all seeds measured.

    Args:
        cells: The finished cells.
        settings: The study's settings.

    Returns:
        One entry a stage; empty where the study has no probe.
    """
    probes = []
    for stage in settings.stage_names:
        chosen = settings.probe_settings(stage)
        if chosen is None:
            continue
        histories = []
        for cell in cells:
            history = ProbeHistory(chosen)
            history.load(cell.folder / PROBE_FOLDER / stage)
            histories.append(history)
        probes.append(StageProbe(stage, tuple(histories), _sites(cells[0], stage)))
    return probes


def agreement(probes: Sequence[StageProbe]) -> Table:
    """The table `agreement`: every window and the whole stage, over seeds.

    Args:
        probes: The probes of all stages.

    Returns:
        One row for each stage, window, pair and site.
    """
    return Table("agreement", _AGREEMENT, (row for probe in probes for row in _agreement(probe)))


def _agreement(probe: StageProbe) -> Iterator[dict[str, Any]]:
    windows: list[int | None] = [*range(len(probe.histories[0].windows())), None]
    for window in windows:
        states = [_states(history, window) for history in probe.histories]
        span = {"start_step": states[0][0].step, "stop_step": states[0][-1].step}
        for pair in probe.pairs:
            found = probe.over_seeds(window, pair)
            naive, spread = _one_state(probe, states, pair)
            for place, site in enumerate(probe.sites):
                yield {
                    "stage": probe.stage,
                    "scope": WHOLE if window is None else WINDOW,
                    **span,
                    "pair": pair_name(pair),
                    **site,
                    **_figures(found, place),
                    "naive": float(naive[place]),
                    "sd_states": float(spread[place]),
                    "states": len(states[0]),
                    "blocks": states[0][0].sums["current"][pair].sizes[0],
                    "seeds": found.seeds,
                }


def at_one_state(probes: Sequence[StageProbe]) -> Table:
    """The table `agreement_at_one_state`: what single states of the first seed said, for a thin line behind the means.

    Args:
        probes: The probes of all stages.

    Returns:
        One row for each stage, measured state, pair and site; NaN below the noise floor.
    """
    return Table(
        "agreement_at_one_state",
        _AT_ONE_STATE,
        (row for probe in probes for row in _states_of(probe)),
    )


def _states_of(probe: StageProbe) -> Iterator[dict[str, Any]]:
    first = probe.histories[0]
    for state in first.states:
        for pair in probe.pairs:
            found = state.agreement("current", pair, first.settings.level)
            for place, site in enumerate(probe.sites):
                yield {
                    "stage": probe.stage,
                    "scope": WINDOW,
                    "stop_step": state.step,
                    "pair": pair_name(pair),
                    **site,
                    "corrected": float(found.cosine.value[place]),
                    "resolved": bool(found.resolved[place]),
                }


def _figures(found: SeedAgreement, place: int) -> dict[str, Any]:
    return {
        "corrected": float(found.cosine.value[place]),
        "low": float(found.cosine.low[place]),
        "high": float(found.cosine.high[place]),
        "inner": float(found.inner.value[place]),
        "inner_low": float(found.inner.low[place]),
        "inner_high": float(found.inner.high[place]),
        "resolved": bool(found.resolved[place]),
        "conflict": bool(found.conflict[place]),
        "conflict_p": float(found.conflict_p[place]),
    }


def _one_state(
    probe: StageProbe, states: Sequence[Sequence[State]], pair: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean naive cosine and mean standard deviation of the corrected cosine between states, [S] each."""
    level = probe.histories[0].settings.level
    naive, spreads = [], []
    for seed_states in states:
        found = [state.agreement("current", pair, level) for state in seed_states]
        naive.append(torch.stack([one.naive_cosine for one in found]).mean(0))
        cosines = torch.stack([one.cosine.value for one in found])
        spreads.append(cosines.std(0) if len(found) > 1 else torch.full_like(cosines[0], torch.nan))
    return torch.stack(naive).mean(0), torch.stack(spreads).mean(0)


def peaks(probes: Sequence[StageProbe]) -> Table:
    """The table `peaks_over_seeds`: where two tasks are most dissimilar over a whole stage, if that can be told.

    Args:
        probes: The probes of all stages.

    Returns:
        One row for each stage, pair and scope.
    """
    return Table("peaks_over_seeds", _PEAKS, (row for probe in probes for row in _peaks(probe)))


def _peaks(probe: StageProbe) -> Iterator[dict[str, Any]]:
    for pair in probe.pairs:
        found = probe.over_seeds(None, pair)
        blocks = probe.histories[0].states[0].sums["current"][pair].sizes[0]
        for scope, places in _scopes(probe.sites):
            names = [str(probe.sites[place]["where"]) for place in places]
            peak = find_peak(
                found.cosine.value[places],
                [
                    type(spread)(spread.rows[:, places], spread.df)
                    for spread in found.spreads_cosine
                ],
                found.resolved[places],
                found.conflict[places],
            )
            yield {
                "stage": probe.stage,
                "pair": pair_name(pair),
                "scope": scope,
                **_peak_cells(peak, names, blocks),
                "seeds": found.seeds,
            }


def _peak_cells(peak: Peak, names: Sequence[str], blocks: int) -> dict[str, Any]:
    if blocks < MIN_BLOCKS_FOR_PEAKS:
        return {
            "kind": "too few blocks",
            "peak_confidence": torch.nan,
            "p": torch.nan,
            "words": f"Peak cannot be judged: it takes {MIN_BLOCKS_FOR_PEAKS} blocks a task.",
            "indistinguishable": "",
        }
    return {
        "kind": peak.kind,
        "peak_confidence": peak.confidence,
        "p": peak.p,
        "words": peak.words(names),
        "indistinguishable": ", ".join(names[place] for place in peak.indistinguishable),
    }


def _scopes(sites: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[int]]]:
    yield "all sites", list(range(len(sites)))
    kinds: dict[str, list[int]] = {}
    for place, site in enumerate(sites):
        if site["layer"] >= 0:
            kinds.setdefault(str(site["component"]), []).append(place)
    yield from ((kind, places) for kind, places in kinds.items() if len(places) > 1)


def movement(probes: Sequence[StageProbe]) -> Table:
    """The table `movement_over_seeds`: whether agreement moved through depth, over seeds.

    Args:
        probes: The probes of all stages.

    Returns:
        One row for each stage and pair.
    """
    rows = (
        {"stage": probe.stage, "pair": pair_name(pair), **_movement_cells(_moved(probe, pair))}
        for probe in probes
        for pair in probe.pairs
    )
    return Table("movement_over_seeds", _MOVEMENT, rows)


def _moved(probe: StageProbe, pair: Pair) -> Movement:
    level = probe.histories[0].settings.level
    cosines, resolved = [], []
    for history in probe.histories:
        bursts = [
            [state.agreement("current", pair, level) for state in states]
            for states in history.probes()
        ]
        means = [
            torch.stack([torch.stack([v.u.aa, v.u.bb, v.u.ab]) for v in burst]).mean(0)
            for burst in bursts
        ]
        cosines.append(torch.stack([ab / (aa * bb).clamp(min=0).sqrt() for aa, bb, ab in means]))
        resolved.append(
            torch.stack([torch.stack([v.resolved for v in burst]).all(0) for burst in bursts])
        )
    depth = torch.tensor([site["layer"] for site in probe.sites])
    kept = torch.stack(resolved).flatten(0, -2).all(0) & (depth >= 0)
    steps = torch.tensor([states[0].step for states in probe.histories[0].probes()])
    return movement_across_seeds(torch.stack(cosines)[..., kept], depth[kept], steps, level=level)


def _movement_cells(found: Movement) -> dict[str, Any]:
    return {column.name: getattr(found, column.name) for column in _MOVEMENT[2:]}


def pair_name(pair: Pair) -> str:
    """A pair of tasks as people write it."""
    return PAIR_JOINT.join(pair)


def _states(history: ProbeHistory, window: int | None) -> list[State]:
    return history.states if window is None else history.windows()[window]


def _sites(cell: Run, stage: str) -> tuple[Mapping[str, Any], ...]:
    """The probe's sites in their order, which is that of the rows of any one state."""
    table = cell.table("agreement_windows")
    first = next(row for row in table.rows() if row["stage"] == stage)
    same = ("stage", "start_step", "reference", "task_a", "task_b")
    return tuple(
        {name: row[name] for name in ("where", "layer", "component")}
        for row in table.rows()
        if all(row[name] == first[name] for name in same)
    )
