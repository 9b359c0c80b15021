"""The straight line from before to after: one coefficient for every change, and the ledger L(1) − L(0) = Σ ∫ ⟨g_s, Δθ_s⟩ dt.

Its models are the rival of every finer cut (WiSE-FT), and where every search starts. The ledger allocates the loss change along
this line, not along the path that training took; where the path is known, the forgetting ledger is the better account.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from crosstune.foundation.records import Table
from crosstune.foundation.records.sites import site_cells
from crosstune.merging import tables
from crosstune.merging.points import Point
from crosstune.merging.scoring import LINE_STEPS, line_shares
from crosstune.merging.session import Session


@dataclass(frozen=True)
class Line:
    """The account of the straight line.

    Shapes:
        contributions: [K, P] nats per token; measured, residual: [K].
    """

    contributions: np.ndarray
    measured: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What the account misses, per task."""
        return np.asarray(self.contributions.sum(axis=1) - self.measured)


def integrate(session: Session, steps: int = LINE_STEPS) -> Line:
    """The account by composite Simpson over an even number of steps, whose points are the line's own."""
    weights = np.ones(steps + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    weights /= 3 * steps
    found = [session.evaluator(at_share(session, at / steps)) for at in range(steps + 1)]
    slopes = [weight * one.loss_slopes()[:, -1] for weight, one in zip(weights, found, strict=True)]
    return Line(np.sum(slopes, axis=0), found[-1].losses() - found[0].losses())


def at_share(session: Session, share: float) -> np.ndarray:
    """The values [J, P] of the model that keeps one share of every change to the last checkpoint."""
    values = np.zeros(session.space.shape)
    values[-1] = share
    return values


def line_points(session: Session) -> list[Point]:
    """The line's models, as the validation rows see them; all but before and after, which every method has."""
    points = []
    for share in line_shares(session.settings):
        if share not in (0.0, 1.0):
            values = at_share(session, share)
            losses = session.evaluator(values).losses()
            point = Point(
                "global",
                "line",
                share=share,
                validation=dict(zip(session.roles.tasks, map(float, losses), strict=True)),
                coefficients=torch.from_numpy(values),
                coordinates=1,
            )
            points.append(point)
    return points


def line_table(session: Session, line: Line) -> Table:
    """The account by component."""
    rows = []
    for task, name in enumerate(session.roles.tasks):
        by_site: dict[tuple[object, ...], dict[str, object]] = {}
        for at, group in enumerate(session.groups):
            cells = site_cells(group.site)
            row = by_site.setdefault(tuple(cells.values()), {**cells, "task": name, "nats": 0.0})
            row["nats"] += float(line.contributions[task, at])  # type: ignore[operator]
        for row in by_site.values():
            row |= {"measured": float(line.measured[task]), "residual": float(line.residual[task])}
            rows.append(row)
    return Table(tables.LINE, tables.LINE_COLUMNS, rows)
