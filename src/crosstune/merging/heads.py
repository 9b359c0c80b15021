"""Coefficients head by head, as other tools take them: a table of merge weights, and which heads keep their change.

A coefficient of a head is the share of its change that is kept: 0 puts the head back to before, 1 leaves it as after.
So a mask of heads says where to keep what a fine-tune changed; it does not say which heads to prune.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.models import Anatomy, HeadGeometry, Site
from crosstune.foundation.records import Table
from crosstune.foundation.records.sites import site_cells, site_of
from crosstune.merging import tables
from crosstune.merging.groups import Piece
from crosstune.merging.optimise.archive import shares
from crosstune.merging.points import Point
from crosstune.merging.session import Session

COMPONENTS = ("attn.q", "attn.k", "attn.v", "attn.o")
KEPT_FROM = 0.5  # share of its change from which on a head counts as kept


def merge_weights(session: Session | None, point: Point) -> Table:
    """The share of the change that each attention head keeps at one point.

    Args:
        session: The search; None where there was nothing to search.
        point: A point in the box.

    Returns:
        The table `repair_heads`: a row for each head of each projection that changed, and each checkpoint. Heads
        that share a coefficient have the same; a head's weight and bias are averaged by their elements.

    Raises:
        MeasurementError: The point has no coefficient for a head: it is outside the box, or of singular directions.
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
        for at, piece in enumerate(session.pieces):
            for site in _heads_of(piece, heads):
                count = session.box.count(piece)
                sums[site, end + 1] += count * np.array([coefficients[at], 1.0])
    rows = [
        {**site_cells(site), "checkpoint": checkpoint, "coefficient": float(weighted / elements)}
        for (site, checkpoint), (weighted, elements) in sums.items()
    ]
    rows.sort(key=lambda row: (row["checkpoint"], site_of(row).depth_order))
    return Table(tables.HEADS, tables.HEADS_COLUMNS, rows)


def _heads_of(piece: Piece, heads: HeadGeometry) -> Iterator[Site]:
    """The heads that a piece's coefficient scales: one, or all of its component."""
    site = piece.site
    if site.component not in COMPONENTS or piece.direction >= 0:
        return
    if piece.head is not None:
        yield site
    elif not (site.component == "attn.o" and len(piece.part.shape) == 1):  # its bias is no head's
        yield from (site.of_head(head) for head in range(heads.count(site.component)))


def nested(weights: Table, anatomy: Anatomy) -> dict[str, list[list[list[float | None]]]]:
    """The same as lists: component → checkpoints × layers × heads, None where nothing changed.

    Returns:
        Key-value heads stand under keys and values, query heads under queries and the output projection.
    """
    known = {(row["checkpoint"], site_of(row)): row["coefficient"] for row in weights.rows()}
    return {
        component: [
            [[known.get((end, site)) for site in layer] for layer in _places(component, anatomy)]
            for end in sorted(set(weights.column("checkpoint")))
        ]
        for component in COMPONENTS
    }


def head_masks(weights: Table, anatomy: Anatomy, threshold: float) -> dict[str, list[list[bool]]]:
    """Which heads keep at least so much of their change.

    Args:
        weights: What `merge_weights` returned.
        anatomy: The model's anatomy.
        threshold: The share from which on a head counts as kept; those of several checkpoints add up.

    Returns:
        Component → layers × heads; a head that did not change keeps all there is.
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
