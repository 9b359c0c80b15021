"""The table of coefficients: what share of each piece's change a point keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from crosstune.foundation.models import Site
from crosstune.foundation.records import Table
from crosstune.foundation.records.sites import site_cells
from crosstune.merging import tables
from crosstune.merging.groups import Piece
from crosstune.merging.optimise.archive import shares
from crosstune.merging.points import Point
from crosstune.merging.session import Session
from crosstune.merging.settings import BY_HEAD


def coefficients_table(session: Session, points: Sequence[tuple[int, Point]]) -> Table:
    """The coefficients of points in the box.

    Returns:
        The table `repair_coefficients`; heads and singular directions have rows of their own where the method gives
        them coefficients of their own. Of several ends, the share of each end's change is told.
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
    by_head = point.method in BY_HEAD

    def told(item: tuple[int, Piece]) -> tuple[Site, str, int]:
        """What a row of the table is about: heads that cannot differ are told as their component."""
        piece = item[1]
        return (piece.site if by_head else piece.site.whole, piece.rows, piece.direction)

    numbered = enumerate(session.pieces)
    for part, group in groupby(numbered, key=lambda item: item[1].part):
        places = list(group)
        inside, taken = (
            sum(sizes[at] for at, piece in places if (piece.direction >= 0) == is_direction)
            for is_direction in (False, True)
        )
        # Directions run through all rows of their matrix, so each class of rows gives up the same share to them.
        left = max(0.0, 1.0 - taken / inside) if own and inside else 1.0
        for (site, rows, direction), alike in groupby(places, key=told):
            if direction >= 0 and not own:
                continue
            at, pieces = zip(*alike, strict=True)
            share = sizes[list(at)].sum()
            yield {
                **site_cells(site),
                "parameter": part.parameter,
                "rows": rows,
                "direction": direction,
                "coefficient": float(coefficients[at[0]]),
                "elements": sum(session.box.count(piece) for piece in pieces),
                "delta_share": float(share if direction >= 0 else share * left),
            }
