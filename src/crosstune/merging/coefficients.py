"""Tables of coefficients: what share of each group's change a point keeps, and of each attention head's, as other tools take it.

0 puts a group back to before, 1 leaves it as after. So a mask of heads says where to keep what a fine-tune changed; it
does not say which heads to prune.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.models import Anatomy, HeadGeometry, Site
from crosstune.foundation.records import Table
from crosstune.foundation.records.sites import site_cells, site_of
from crosstune.merging import tables
from crosstune.merging.groups import ParameterGroup
from crosstune.merging.optimise.archive import shares
from crosstune.merging.points import Point
from crosstune.merging.session import Session
from crosstune.merging.settings import BY_HEAD

COMPONENTS = ("attn.q", "attn.k", "attn.v", "attn.o")
KEPT_FROM = 0.5  # share of its change from which on a head counts as kept


def coefficients_table(session: Session, points: Sequence[tuple[int, Point]]) -> Table:
    """The table `repair_coefficients` of points in the space; of several checkpoints, the share of each one's change.

    Heads and singular directions have rows of their own where the method gives them coefficients of their own.
    """
    elements = np.array([group.direction < 0 for group in session.groups])
    total = session.sizes.sum(axis=1, where=elements[None])
    rows = []
    for number, point in points:
        if point.coefficients is None:
            continue
        for end, coefficients in enumerate(shares(point.coefficients.numpy())):
            for cells in _cells(session, point, coefficients, session.sizes[end] / total[end]):
                place = {"method": point.method, "point": number, "label": point.label}
                rows.append({**place, **cells, "checkpoint": end + 1})
    return Table(tables.COEFFICIENTS, tables.COEFFICIENTS_COLUMNS, rows)


def _cells(
    session: Session, point: Point, coefficients: np.ndarray, sizes: np.ndarray
) -> Iterator[dict[str, object]]:
    own = point.method == "singular"
    by_head = point.method in BY_HEAD

    def subject(item: tuple[int, ParameterGroup]) -> tuple[Site, str, int]:
        """What a row of the table is about: heads that cannot differ are one component."""
        group = item[1]
        return (group.site if by_head else group.site.whole, group.rows, group.direction)

    for part, numbered in groupby(enumerate(session.groups), key=lambda item: item[1].part):
        places = list(numbered)
        inside, taken = (
            sum(sizes[at] for at, group in places if (group.direction >= 0) == is_direction)
            for is_direction in (False, True)
        )
        # Directions run through all rows of their matrix, so each class of rows gives up the same share to them.
        left = max(0.0, 1.0 - taken / inside) if own and inside else 1.0
        for (site, rows, direction), alike in groupby(places, key=subject):
            if direction >= 0 and not own:
                continue
            at, groups = zip(*alike, strict=True)
            share = sizes[list(at)].sum()
            yield {
                **site_cells(site),
                "parameter": part.parameter,
                "rows": rows,
                "direction": direction,
                "coefficient": float(coefficients[at[0]]),
                "elements": sum(session.space.count(group) for group in groups),
                "delta_share": float(share if direction >= 0 else share * left),
            }


def merge_weights(session: Session | None, point: Point) -> Table:
    """The table `repair_heads`: a row for each head of each projection that changed, and each checkpoint.

    Heads that share a coefficient have the same; a head's weight and bias are averaged by their elements.
    """
    if session is None or point.coefficients is None or point.method == "singular":
        raise MeasurementError(
            "pick",
            law="must have coefficients that a head can have",
            found=f"method {point.method}",
            remedy="Pick a point of another granularity, such as `head`.",
        )
    heads = Anatomy.of(session.ends.model).heads
    sums: dict[tuple[Site, int], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for end, coefficients in enumerate(shares(point.coefficients.numpy())):
        for at, group in enumerate(session.groups):
            for site in _heads_of(group, heads):
                count = session.space.count(group)
                sums[site, end + 1] += count * np.array([coefficients[at], 1.0])
    rows = [
        {**site_cells(site), "checkpoint": checkpoint, "coefficient": float(weighted / elements)}
        for (site, checkpoint), (weighted, elements) in sums.items()
    ]
    rows.sort(key=lambda row: (row["checkpoint"], site_of(row).depth_order))
    return Table(tables.HEADS, tables.HEADS_COLUMNS, rows)


def _heads_of(group: ParameterGroup, heads: HeadGeometry) -> Iterator[Site]:
    """The heads that a group's coefficient scales: one, or all of its component."""
    site = group.site
    if site.component not in COMPONENTS or group.direction >= 0:
        return
    if group.head is not None:
        yield site
    elif not (site.component == "attn.o" and len(group.part.shape) == 1):  # its bias is no head's
        yield from (site.of_head(head) for head in range(heads.count(site.component)))


def nested(weights: Table, anatomy: Anatomy) -> dict[str, list[list[list[float | None]]]]:
    """The table as lists: component → checkpoints × layers × heads (key-value heads for k and v), None if unchanged."""
    known = {(row["checkpoint"], site_of(row)): row["coefficient"] for row in weights.rows()}
    return {
        component: [
            [[known.get((end, site)) for site in layer] for layer in _places(component, anatomy)]
            for end in sorted(set(weights.column("checkpoint")))
        ]
        for component in COMPONENTS
    }


def head_masks(weights: Table, anatomy: Anatomy, threshold: float) -> dict[str, list[list[bool]]]:
    """Which heads keep at least so much of their change, over all checkpoints: component → layers × heads.

    A head that did not change keeps all there is.
    """
    kept: dict[Site, float] = defaultdict(float)
    for row in weights.rows():
        kept[site_of(row)] += row["coefficient"]
    return {
        component: [
            [kept.get(site, 1.0) >= threshold for site in layer]
            for layer in _places(component, anatomy)
        ]
        for component in COMPONENTS
    }


def _places(component: str, anatomy: Anatomy) -> Iterator[list[Site]]:
    """The heads of a component, layer by layer."""
    for layer in range(anatomy.num_layers):
        heads = range(anatomy.heads.count(component))
        yield [Site(layer, component).of_head(head) for head in heads]
