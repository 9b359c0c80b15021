"""The straight-line ledger: what each component contributes on the way from before to after, L(1) − L(0) = Σ ∫ ⟨g_s, Δθ_s⟩ dt.

It allocates the loss change along the straight line between two checkpoints, not along the path that training took;
where the path is known, the forgetting ledger is the better account.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crosstune.foundation.records import Table
from crosstune.foundation.records.sites import site_cells
from crosstune.merging import tables
from crosstune.merging.session import Session

FIRST_PANELS, MOST_PANELS = 2, 8
CLOSES = 0.01  # share of a task's change that may be missed before panels are halved
NEGLIGIBLE = 1e-4  # nats per token


@dataclass(frozen=True)
class Line:
    """The account of the straight line.

    Shapes:
        contributions: [K, P] nats per token; measured, residual: [K].
    """

    contributions: np.ndarray
    measured: np.ndarray
    panels: int

    @property
    def residual(self) -> np.ndarray:
        """What the account misses, per task."""
        return np.asarray(self.contributions.sum(axis=1) - self.measured)


def integrate(session: Session) -> Line:
    """The account by composite Simpson, with panels halved until it closes to 1 % or 8 panels are reached."""
    panels = FIRST_PANELS
    line = _simpson(session, panels)
    while panels < MOST_PANELS:
        allowed = np.maximum(CLOSES * np.abs(line.measured), NEGLIGIBLE)
        if (np.abs(line.residual) <= allowed).all():
            break
        panels *= 2
        line = _simpson(session, panels)
    return line


def _simpson(session: Session, panels: int) -> Line:
    count = 2 * panels
    weights = np.ones(count + 1)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    weights /= 3 * count
    ends, groups = session.space.shape
    contributions = np.zeros((len(session.roles.tasks), groups))
    losses = []
    for at, weight in enumerate(weights):
        values = np.zeros((ends, groups))
        values[-1] = at / count
        found = session.evaluator(values)
        contributions = contributions + weight * found.loss_slopes()[:, -1]
        losses.append(found.losses())
    return Line(contributions, losses[-1] - losses[0], panels)


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
