"""The table of coefficients: what share of each piece's change a point keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from crosstune.foundation.records import Table
from crosstune.interference.places import site_cells
from crosstune.interference.repair import tables
from crosstune.interference.repair.points import Point
from crosstune.interference.repair.search.soup import shares
from crosstune.interference.repair.session import Session


def coefficients_table(session: Session, points: Sequence[tuple[int, Point]]) -> Table:
    """The coefficients of points in the box.

    Args:
        session: The search.
        points: Each point and its number in its method's list.

    Returns:
        The table `repair_coefficients`; singular directions have rows of their own where the method gives them
        coefficients of their own. Of several ends, the share of each end's change is told.
    """
    total = session.sizes.sum(axis=1, where=_elements(session)[None])
    rows = []
    for number, point in points:
        if point.coefficients is None:
            continue
        kept = shares(point.coefficients.numpy())
        for end, coefficients in enumerate(kept):
            for cells in _cells(session, point, coefficients, session.sizes[end] / total[end]):
                place = {"method": point.method, "point": number, "label": point.label}
                rows.append({**place, **cells, "checkpoint": end + 1})
    return Table(tables.COEFFICIENTS, tables.COEFFICIENTS_COLUMNS, rows)


def _elements(session: Session) -> np.ndarray:
    return np.array([piece.direction < 0 for piece in session.pieces])


def _cells(
    session: Session, point: Point, coefficients: np.ndarray, sizes: np.ndarray
) -> Iterator[dict[str, object]]:
    own = point.method == "singular"
    numbered = enumerate(session.pieces)
    for _, group in groupby(numbered, key=lambda item: item[1].part):
        places = list(group)
        inside, taken = (
            sum(sizes[at] for at, piece in places if (piece.direction >= 0) == is_direction)
            for is_direction in (False, True)
        )
        # Directions run through all rows of their matrix, so each class of rows gives up the same share to them.
        left = max(0.0, 1.0 - taken / inside) if own and inside else 1.0
        for at, piece in places:
            if piece.direction >= 0 and not own:
                continue
            share = sizes[at] if piece.direction >= 0 else sizes[at] * left
            yield {
                **site_cells(piece.site),
                "parameter": piece.part.parameter,
                "rows": piece.rows,
                "direction": piece.direction,
                "coefficient": float(coefficients[at]),
                "elements": session.box.count(piece),
                "delta_share": float(share),
            }
