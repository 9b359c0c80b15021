"""Agreement over windows, states and seeds: only of window means may a study say conflict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crosstune.foundation.models import Site
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.sites import site_cells, site_of
from crosstune.interference.conflict.cosine import Agreement
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.rows import WEIGHTS
from crosstune.interference.conflict.tables import window_agreement
from crosstune.interference.conflict.windows import SeedAgreement, across_seeds
from crosstune.studies.conflict.accounts import COMPONENT, LAYER, WHERE
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.tables import STAGE
from crosstune.studies.frame.over_seeds import PLAIN

PROBE_FOLDER = "probe"
WINDOW, WHOLE = "window", "whole stage"
PAIR_JOINT = " – "
PAIR = Column.axis("pair", about="The two tasks.")
_SCOPE = Column.axis("scope", about="One window of probes, or the whole stage.")
_START = Column.axis("start_step", "int64", unit="optimizer steps")
_STOP = Column.axis("stop_step", "int64", unit="optimizer steps")
_SITE = (WHERE, LAYER, COMPONENT)
_AGREEMENT = (
    *(STAGE, _SCOPE, _START, _STOP, PAIR, WEIGHTS, *_SITE),
    *Column.interval(
        "corrected",
        names=PLAIN,
        about="Cosine of the window means, mean over seeds.",
        bounds="Over rows, states and seeds.",
    ),
    Column.value(
        "naive", about="Cosine of the same window means with their noise, mean over seeds."
    ),
    *Column.interval("inner", about="U_AB, mean over seeds."),
    Column.mask("resolved", of="corrected", about="Above the noise floor at every seed."),
    Column.label(
        "conflict", "bool", about="Upper bound of U_AB below 0 after Holm over the sites."
    ),
    Column.label("agree", "bool", about="Lower bound of U_AB above 0 after Holm over the sites."),
    Column.label("conflict_p", "float64", about="One-sided, Holm-adjusted over the sites."),
    Column.value("sd_states", about="Spread of the one-state cosines, mean over seeds."),
    Column.label("states", "int64", about="States a seed."),
    Column.label("blocks", "int64", about="Blocks a task."),
    Column.label("seeds", "int64"),
)
_CORRECTED = [column for column in _AGREEMENT if column.name in ("corrected", "resolved")]
_AT_ONE_STATE = (STAGE, _SCOPE, _STOP, PAIR, WEIGHTS, *_SITE, *_CORRECTED)
Pair = tuple[str, str]


@dataclass(frozen=True)
class StageProbe:
    """The probes of one stage at all seeds: one history a seed, and the sites in the histories' order."""

    stage: str
    histories: tuple[ProbeHistory, ...]
    sites: tuple[Site, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of tasks."""
        return self.histories[0].pairs

    @property
    def weights(self) -> str:
        """Whose gradients were compared: `trained` or `effective`."""
        return self.histories[0].settings.weights

    @property
    def has_probes(self) -> bool:
        """Some burst was measured to its end; with none there is nothing to take means of."""
        return bool(self.histories[0].probes())

    def over_seeds(self, window: int | None, pair: Pair) -> SeedAgreement:
        """Means over the seeds' windows with intervals over rows and seeds; for one seed, over rows and states."""
        found = [
            window_agreement(history, _states(history, window), "current", pair)
            for history in self.histories
        ]
        if len(found) > 1:
            return across_seeds(found, self.histories[0].settings.level)
        only = found[0]
        return SeedAgreement(
            seeds=1,
            cosine=only.cosine,
            inner=only.inner,
            spreads_cosine=only.spreads_cosine,
            resolved=only.resolved,
            conflict=only.conflict,
            conflict_p=only.conflict_p,
            agree=only.agree,
        )


def read_probes(cells: Sequence[Run], settings: ConflictSettings) -> list[StageProbe]:
    """What the probes of all seeds measured, stage by stage; nothing where the study has no probe."""
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
    """The table `agreement`: every window and the whole stage, for each pair and site, over seeds."""
    rows = (row for probe in probes if probe.has_probes for row in _agreement(probe))
    return Table("agreement", _AGREEMENT, rows)


def _agreement(probe: StageProbe) -> Iterator[dict[str, Any]]:
    windows: list[int | None] = [*range(len(probe.histories[0].windows())), None]
    for window in windows:
        states = [_states(history, window) for history in probe.histories]
        span = {"start_step": states[0][0].step, "stop_step": states[0][-1].step}
        for pair in probe.pairs:
            found = probe.over_seeds(window, pair)
            naive, spread = _naive_and_spread(probe, states, pair)
            for place, site in enumerate(probe.sites):
                yield {
                    "stage": probe.stage,
                    "scope": WHOLE if window is None else WINDOW,
                    **span,
                    "pair": PAIR_JOINT.join(pair),
                    "weights": probe.weights,
                    **_cells(site),
                    **_figures(found, place),
                    "naive": float(naive[place]),
                    "sd_states": float(spread[place]),
                    "states": len(states[0]),
                    "blocks": states[0][0].sums["current"][pair].sizes[0],
                    "seeds": found.seeds,
                }


def at_one_state(probes: Sequence[StageProbe]) -> Table:
    """The table `agreement_at_one_state`: what single states of the first seed said, for a thin line behind the means."""
    rows = (row for probe in probes for row in _states_of(probe))
    return Table("agreement_at_one_state", _AT_ONE_STATE, rows)


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
                    "pair": PAIR_JOINT.join(pair),
                    "weights": probe.weights,
                    **_cells(site),
                    "corrected": float(found.cosine.value[place]),
                    "resolved": bool(found.resolved[place]),
                }


def _figures(found: SeedAgreement, place: int) -> dict[str, Any]:
    figures = {
        "corrected": found.cosine.value,
        "low": found.cosine.low,
        "high": found.cosine.high,
        "inner": found.inner.value,
        "inner_low": found.inner.low,
        "inner_high": found.inner.high,
        "resolved": found.resolved,
        "conflict": found.conflict,
        "agree": found.agree,
        "conflict_p": found.conflict_p,
    }
    return {name: values[place].item() for name, values in figures.items()}


def _naive_and_spread(
    probe: StageProbe, states: Sequence[Sequence[State]], pair: Pair
) -> tuple[torch.Tensor, torch.Tensor]:
    """Naive cosine of window means, and standard deviation of one-state cosines, means over seeds, [S] each."""
    level = probe.histories[0].settings.level
    naive, spreads = [], []
    for seed_states in states:
        found = [state.agreement("current", pair, level) for state in seed_states]
        naive.append(naive_of_means(found))
        cosines = torch.stack([one.cosine.value for one in found])
        spreads.append(cosines.std(0) if len(found) > 1 else torch.full_like(cosines[0], torch.nan))
    return torch.stack(naive).mean(0), torch.stack(spreads).mean(0)


def naive_of_means(states: Sequence[Agreement]) -> torch.Tensor:
    """The naive twin of a window's corrected cosine: the same window means, with the noise left in.

    A mean of the states' own cosines would weigh states alike, where the corrected cosine weighs them by their
    gradients: the two would differ without any noise.

    Shapes: mean ⟨ḡ_A, ḡ_B⟩ / √(mean ‖ḡ_A‖² · mean ‖ḡ_B‖²), [S].
    """
    norms_a = torch.stack([one.norm_a for one in states])
    norms_b = torch.stack([one.norm_b for one in states])
    inner = torch.stack([one.naive_cosine for one in states]) * norms_a * norms_b
    return inner.mean(0) / (norms_a.square().mean(0) * norms_b.square().mean(0)).sqrt()


def _states(history: ProbeHistory, window: int | None) -> list[State]:
    return history.judged_states() if window is None else history.windows()[window]


def _sites(cell: Run, stage: str) -> tuple[Site, ...]:
    """The probe's sites in their order, which is that of the rows of any one state."""
    rows = [row for row in cell.table("agreement_states").rows() if row["stage"] == stage]
    same = ("step", "reference", "task_a", "task_b")
    return tuple(site_of(row) for row in rows if all(row[name] == rows[0][name] for name in same))


def _cells(site: Site) -> dict[str, object]:
    """Where a row belongs, without the columns that the study leaves to the cells' tables."""
    cells = site_cells(site)
    return {column.name: cells[column.name] for column in _SITE}
