"""Every searched method against its rivals at the same price: how much more of the old it regains, on the same test rows.

Two models that cost differently cannot be compared by what they regain. So a rival is not one model but a path: of one
global coefficient the dense line from before to after, of a replay fine-tune its stops one after another. At the price
p that a method's point pays, the rival regains R(p) = max {regained(q) : q on its path, paid(q) ≤ p}; where even its cheapest
model costs more (often `after`, which costs nothing), R is that of the cheapest. All of it is read on the test rows and anew in each
leave-one-out replicate, the place on the path too. The rival's best is found with hindsight, which favours it a little.

Between two models of the line losses are read off a cubic spline in the share that is kept: near `after` the price
grows with the square of what is taken back, and a chord would make the rival poorer than it is. Between stops they are linear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import Interval
from crosstune.merging import tables
from crosstune.merging.findings.scored import ScoredPoints, cells
from crosstune.merging.points import Point

RIVALS = ("global", "replay")
_PARTS = 20  # of a step of the line, between which losses are linear


@dataclass(frozen=True)
class Path:
    """Models of a rival in their order, and what the losses along the path are made of.

    Shapes:
        places: [N] in `points`; mix: [F, N], whose rows add up to 1.
    """

    places: list[int]
    mix: Tensor


def rivals_table(scored: ScoredPoints) -> Table:
    """The table `repair_rivals`: each searched method at each question against `global` and `replay`, at the price it pays."""
    paths = {"global": _line(scored), "replay": list(_runs(scored))}
    asked = [
        at for at, point in enumerate(scored.points) if point.kind in ("budget", "rate", "asked")
    ]
    rows = []
    for rival in RIVALS:
        mine = [at for at in asked if scored.points[at].method != rival]
        if not (mine and paths[rival]):
            continue
        same = [rival == "global" and _is_global(scored.points[at]) for at in mine]
        figures = _figures(scored, mine, paths[rival], torch.tensor(same))
        for place, at in enumerate(mine):
            point = scored.points[at]
            row = {
                "method": point.method,
                "question": point.label,
                "rival": rival,
                "kind": point.kind,
                "rate": point.rate,
                "budget": point.budget,
                "same_model": same[place],
                **cells(figures, place),
                **scored.counted(scored.tasks),
            }
            rows.append(row)
    return Table(tables.RIVALS, tables.RIVALS_COLUMNS, rows)


def most_regained(prices: Tensor, paid: list[Tensor], regained: list[Tensor]) -> Tensor:
    """R(p) at prices [..., M] along paths that each paid and regained [..., F]; between neighbours both are linear."""
    cheapest = torch.stack([one.amin(-1) for one in paid]).amin(0)
    never = torch.tensor(-math.inf, dtype=torch.float64)
    found = []
    for price in torch.maximum(prices, cheapest[..., None]).unbind(-1):
        best = never.expand(price.shape)
        for costs, gains in zip(paid, regained, strict=True):
            afforded = costs <= price[..., None]
            crossed = afforded[..., 1:] != afforded[..., :-1]
            share = (price[..., None] - costs[..., :-1]) / costs.diff(dim=-1)
            between = gains[..., :-1] + share * gains.diff(dim=-1)
            within = torch.where(afforded, gains, never), torch.where(crossed, between, never)
            best = torch.maximum(best, torch.cat(within, dim=-1).amax(-1))
        found.append(best)
    return torch.stack(found, dim=-1)


def _line(scored: ScoredPoints) -> list[Path]:
    """The line with both endpoints; none where it was not drawn."""
    ends = {"before": 0.0, "after": 1.0}
    shares = {
        at: ends.get(point.kind, point.share)
        for at, point in enumerate(scored.points)
        if point.is_end or point.kind == "line"
    }
    places = sorted(shares, key=shares.__getitem__)
    if len(places) <= len(ends):
        return []
    knots = np.array([shares[at] for at in places])
    parts = np.arange(_PARTS) / _PARTS
    fine = np.append((knots[:-1, None] + np.diff(knots)[:, None] * parts).ravel(), knots[-1])
    mix = CubicSpline(knots, np.eye(len(knots)))(fine)
    mix[::_PARTS] = np.eye(len(knots))  # at the models themselves to the bit
    return [Path(places, torch.from_numpy(mix))]


def _runs(scored: ScoredPoints) -> Iterator[Path]:
    """The stops of each replay fine-tune, from `after` on."""
    runs: dict[float, list[int]] = {}
    for at, point in enumerate(scored.points):
        if point.kind == "replay":
            runs.setdefault(point.rate, []).append(at)
    for run in runs.values():
        places = sorted(run, key=lambda at: scored.points[at].step)
        yield Path(places, torch.eye(len(places), dtype=torch.float64))


def _figures(
    scored: ScoredPoints, mine: list[int], paths: list[Path], same: Tensor
) -> Mapping[str, Interval]:
    """What each point regained and paid, and how much more than the rival at that price; of the rival's own models 0."""
    old, new = scored.mean_loss(scored.forgotten), scored.mean_loss(scored.learned)

    def regained(losses: Tensor) -> Tensor:
        of = old(losses)
        return of[..., scored.after, None] - of

    def paid(losses: Tensor) -> Tensor:
        of = new(losses)
        return of - of[..., scored.after, None]

    def more(losses: Tensor) -> Tensor:
        gains, costs = regained(losses), paid(losses)
        theirs = most_regained(
            costs[..., mine],
            [costs[..., path.places] @ path.mix.T for path in paths],
            [gains[..., path.places] @ path.mix.T for path in paths],
        )
        return torch.where(same, 0.0, gains[..., mine] - theirs)

    return {
        "regained": scored.interval(lambda losses: regained(losses)[..., mine], scored.forgotten),
        "paid": scored.interval(lambda losses: paid(losses)[..., mine], scored.learned),
        "more_regained": scored.interval(more, scored.tasks),
    }


def _is_global(point: Point) -> bool:
    """Whether it keeps one share of every change to the last checkpoint, as the line's models do."""
    shares = point.coefficients
    if shares is None:
        return False
    # Coefficients of coarser granularities come back from a projection, to twelve digits.
    line = torch.zeros_like(shares)
    line[-1] = shares[-1, 0]
    return torch.allclose(shares, line, rtol=0.0, atol=1e-11)
