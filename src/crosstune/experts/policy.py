"""When experts are born, grow, stop in part, become one and go: numbers in, decisions out, a birth's with a sentence that says why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from crosstune.experts.bank.exports import weighed
from crosstune.experts.bank.log import Bank, Event
from crosstune.experts.gated import GatedLinear
from crosstune.experts.lifecycle import Lifecycle
from crosstune.experts.novelty import Novelty
from crosstune.experts.settings import PolicySettings
from crosstune.foundation.seeds import Seeds

_NOISE = 0.1  # nats per token: how far a gain lies from what the bandit expects of it


def may_spawn(
    settings: PolicySettings,
    novelty: Novelty,
    bank: Bank,
    *,
    since: float,
    parameters: int,
    gain: float | None = None,
) -> tuple[bool, str]:
    """Whether rows get an expert of so many parameters, `since` steps after the last birth, and why; `gain` is their probe's, if it ran."""
    wanted = novelty.is_new, novelty.why
    if settings.spawn == "bandit" and novelty.similarity is not None:
        wanted = bandit(bank.events, float(novelty.similarity.value), parameters)
    if not wanted[0]:
        return wanted
    if since < settings.cooldown:
        return False, f"{since:g} steps after a birth, of {settings.cooldown} at least"
    if settings.max_experts is not None and len(bank.experts) >= settings.max_experts:
        return False, f"there are {len(bank.experts)} experts, and no more may be"
    if settings.max_parameters is not None and parameters > settings.max_parameters:
        return False, f"{parameters} parameters, and no more than {settings.max_parameters} may be"
    if gain is not None and not gain >= settings.min_gain:
        return False, f"a probe won {gain:.3g} nats per token, not {settings.min_gain:g}"
    return wanted


def bandit(events: Iterable[Event], similarity: float, parameters: int) -> tuple[bool, str]:
    """Whether an expert's birth is worth its parameters, against going on with the nearest one.

    For both, what is won is a line in the similarity, drawn from its posterior under a normal prior. A birth must be ahead by
    what as many parameters have won on average so far: then the ratio of the sums rises. It learns from registrations whose
    figures are `gain` (held-out nats per token won, losses elsewhere taken off), `similarity` (at the assessment) and
    `parameters` (those added: 0 where an expert went on), and draws anew at each.

    Source: Thompson 1933 (the draw); Dinkelbach 1967 (a ratio of sums as a price).
    """
    figures = {"gain", "similarity", "parameters"}
    log = [e.figures for e in events if e.kind == "register" and figures <= e.figures.keys()]
    draws, seen = Seeds(len(log)).numpy("bandit"), np.array([1.0, similarity])
    worth = []
    for spawned in (True, False):
        past = [f for f in log if (f["parameters"] > 0) == spawned]
        x = np.array([[1.0, f["similarity"]] for f in past]).reshape(-1, 2)
        spread = np.linalg.inv(np.eye(2) + x.T @ x / _NOISE**2)
        mean = spread @ x.T @ np.array([f["gain"] for f in past]) / _NOISE**2
        worth.append(float(seen @ draws.multivariate_normal(mean, spread)))
    spent = sum(f["parameters"] for f in log)
    price = parameters * sum(f["gain"] for f in log) / spent if spent else 0.0
    words = f"a birth is taken to win {worth[0]:.3g}, going on {worth[1]:.3g}"
    return worth[0] - worth[1] > price, f"{words}, at a price of {price:.3g} nats per token"


def may_grow(settings: PolicySettings, losses: Sequence[float], rank: int) -> bool:
    """Whether the expert that learns doubles its rank, by its held-out losses so far."""
    if settings.grow_below is None or len(losses) < 2:
        return False
    return losses[-2] - losses[-1] < settings.grow_below and 2 * rank <= settings.max_rank


def to_freeze(settings: PolicySettings, steps: Mapping[str, float]) -> tuple[str, ...]:
    """The projections that have converged, by the length of a step over that of their update; not the last: something must learn."""
    order = sorted(steps, key=lambda name: steps[name])[:-1]
    return tuple(name for name in order if steps[name] < (settings.freeze_below or 0.0))


def to_merge(
    settings: PolicySettings, skills: int, usage: Mapping[str, float], cosines: Tensor
) -> tuple[tuple[str, ...], ...]:
    """Which experts become one after so many skills: of little use, and alike by average linkage; `cosines` [K, K] are as `usage`."""
    low = [at for at, share in enumerate(usage.values()) if share < settings.merge_usage]
    if settings.merge_every is None or skills % settings.merge_every or len(low) < 2:
        return ()
    far = (1 - cosines.double())[low][:, low].clamp_min(0).numpy()
    tree = linkage(squareform(far, checks=False), "average")
    labels = fcluster(tree, 1 - settings.merge_similarity, "distance")
    names = np.array(list(usage))[low]
    groups = [tuple(map(str, names[labels == label])) for label in np.unique(labels)]
    return tuple(group for group in groups if len(group) > 1)


def to_evict(
    settings: PolicySettings, usage: Mapping[str, float], parameters: Mapping[str, int]
) -> tuple[str, ...]:
    """Who goes, the least used first, until what is left has no more parameters than may be."""
    left, gone = sum(parameters.values()), []
    most = left if settings.max_parameters is None else settings.max_parameters
    for name in sorted(parameters, key=lambda name: (usage[name], name)):
        if left > most:
            gone.append(name)
            left -= parameters[name]
    return tuple(gone)


def update_cosines(mixture: Lifecycle) -> Tensor:
    """The cosines of the experts' updates over all layers, [K, K] as in the bank, 0 for an update of 0.

    From factors alone: ⟨B₁A₁, B₂A₂⟩ is the sum over B₁ᵀB₂ ∘ A₁A₂ᵀ.
    """
    experts = list(mixture.bank.experts.values())
    owner = torch.arange(len(experts)).repeat_interleave(torch.tensor([e.rank for e in experts]))
    inner = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    for layer in mixture.modules():
        if isinstance(layer, GatedLinear):
            narrow, wide = (f.double().cpu() for f in weighed(layer, dict.fromkeys(experts, 1.0)))
            both = (wide.T @ wide) * (narrow @ narrow.T)
            rows = torch.zeros(len(experts), len(both), dtype=torch.float64)
            inner.index_add_(1, owner, rows.index_add_(0, owner, both))
    length = inner.diagonal().sqrt()
    return inner / (length[:, None] * length).clamp_min(1e-300)
