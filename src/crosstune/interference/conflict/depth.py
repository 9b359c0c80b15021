"""Agreement along depth: among which sites a peak is searched, what is said of it, and what moved from probe to probe."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from crosstune.foundation.models import Site
from crosstune.foundation.statistics.reliability import corrected_cosine
from crosstune.interference.conflict.collect import Pair
from crosstune.interference.conflict.cosine import MIN_BLOCKS_FOR_PEAKS, Agreement
from crosstune.interference.conflict.history import ProbeHistory
from crosstune.interference.conflict.movement import (
    Movement,
    always_resolved,
    movement_within_run,
    too_few,
)
from crosstune.interference.conflict.peaks import NO_PEAK, PeakVerdict

ALL_SITES = "all sites"


def scopes(sites: Sequence[Site]) -> Iterator[tuple[str, list[int]]]:
    """The name and site indices of each scope: all sites, and each component (and factor of an adapter) found in two layers or more."""
    yield ALL_SITES, list(range(len(sites)))
    kinds: dict[str, list[int]] = {}
    for place, site in enumerate(sites):
        if site.layer is not None and site.expert is None:
            kinds.setdefault(str(replace(site.whole, layer=None)), []).append(place)
    yield from ((kind, places) for kind, places in kinds.items() if len(places) > 1)


def peak_cells(
    peak: PeakVerdict, names: Sequence[str], blocks: int, caution: str = ""
) -> dict[str, Any]:
    """What is said of a peak, or that there are too few blocks to say it."""
    words = f"{peak.words(names)} Caution: {caution}." if caution else peak.words(names)
    if blocks < MIN_BLOCKS_FOR_PEAKS:
        peak = PeakVerdict(NO_PEAK, "too few blocks", NO_PEAK, math.nan, math.nan, ())
        words = f"Peak cannot be judged: it takes {MIN_BLOCKS_FOR_PEAKS} blocks per task."
    return {
        "site": site_name(names, peak.site),
        "kind": peak.kind,
        "peak_confidence": peak.confidence,
        "p": peak.p,
        "leader": site_name(names, peak.leader),
        "indistinguishable": ", ".join(names[i] for i in peak.indistinguishable),
        "words": words,
    }


def site_name(names: Sequence[str], place: int) -> str:
    """The name of a site; empty for −1, which is none."""
    return "" if place == NO_PEAK else names[place]


@dataclass(frozen=True)
class Profiles:
    """One pair's agreement at every whole burst of a run, along depth: T probes, S sites, D blocks left out."""

    bursts: tuple[tuple[Agreement, ...], ...]
    steps: Tensor  # optimizer step at which each probe began, [T]
    depth: Tensor  # layer of each site, −1 outside the layers, [S]

    @classmethod
    def of(
        cls, history: ProbeHistory, sites: Sequence[Site], reference: str, pair: Pair
    ) -> Profiles:
        """The profiles of a pair."""
        level = history.settings.level
        probes = history.probes()
        return cls(
            tuple(
                tuple(state.agreement(reference, pair, level) for state in states)
                for states in probes
            ),
            torch.tensor([states[0].step for states in probes]),
            torch.tensor([-1 if site.layer is None else site.layer for site in sites]),
        )

    @property
    def cosine(self) -> Tensor:
        """The corrected cosine of each probe's mean products, [T, S]."""
        return torch.stack([corrected_cosine(*mean_products(burst)) for burst in self.bursts])

    @property
    def cosine_without(self) -> Tensor:
        """The same without each block, [D, T, S]."""
        probes = []
        for burst in self.bursts:
            us = [value.u for value in burst]
            products = [torch.stack([u.aa_without, u.bb_without, u.ab_without]) for u in us]
            probes.append(corrected_cosine(*torch.stack(products).mean(0)))
        return torch.stack(probes, 1)

    @property
    def resolved(self) -> Tensor:
        """Sites above the noise floor at every state of a probe, [T, S]."""
        return torch.stack([resolved_throughout(burst) for burst in self.bursts])


def mean_products(burst: Sequence[Agreement]) -> Tensor:
    """U_AA, U_BB and U_AB, averaged over the states of a burst, [3, S]."""
    return torch.stack([torch.stack([v.u.aa, v.u.bb, v.u.ab]) for v in burst]).mean(0)


def resolved_throughout(burst: Sequence[Agreement]) -> Tensor:
    """Sites above the noise floor at every state of a burst, [S]."""
    return torch.stack([value.resolved for value in burst]).all(0)


def movement_of_run(
    history: ProbeHistory, sites: Sequence[Site], reference: str, pair: Pair
) -> Movement:
    """The verdict on movement of one pair in this run alone; bursts that were cut short are left out."""
    profiles = Profiles.of(history, sites, reference, pair)
    if not profiles.bursts:
        return too_few(seeds=1)
    kept = always_resolved(profiles.resolved) & (profiles.depth >= 0)
    u = profiles.bursts[0][0].u
    return movement_within_run(
        profiles.cosine[:, kept],
        profiles.cosine_without[..., kept],
        profiles.depth[kept],
        profiles.steps,
        sizes=u.sizes,
        shared=u.shared,
        level=history.settings.level,
    )
