"""What `repair.json` says of a repaired model: how it was chosen, on which rows, its coefficients and its trade."""

from __future__ import annotations

from crosstune.foundation.models import Anatomy
from crosstune.foundation.records import Table
from crosstune.foundation.settings import to_yaml
from crosstune.foundation.storage import fingerprint
from crosstune.merging.coefficients import coefficients_table
from crosstune.merging.findings.sentences import CHOSEN_BY
from crosstune.merging.heads import KEPT_FROM, head_masks, merge_weights, nested
from crosstune.merging.points import Point
from crosstune.merging.selection import Rows
from crosstune.merging.session import Session
from crosstune.merging.settings import BY_HEAD, RepairSettings


def manifest_of(
    point: Point,
    tasks: Table,
    rows: Rows,
    settings: RepairSettings,
    session: Session | None,
) -> dict[str, object]:
    """What is known of the model at one point.

    Args:
        rows: The rows that chose and the rows that report; only their fingerprints are told.
    """
    sides = {"selection": rows.selection, "reported": rows.reported}
    return {
        "method": point.method,
        "asked": point.label,
        "chosen_by": CHOSEN_BY[settings.target],
        "penalty": _plain(point.penalty),
        **({"coefficients": []} if session is None else _coefficients(session, point)),
        "rows": {
            side: {
                task: fingerprint([row.input_ids for row in given]) for task, given in of.items()
            }
            for side, of in sides.items()
        },
        "trade": [{key: _plain(value) for key, value in row.items()} for row in tasks.rows()],
        "settings": to_yaml(settings),
    }


def _coefficients(session: Session, point: Point) -> dict[str, object]:
    kept = ("where", "parameter", "rows", "direction", "checkpoint", "coefficient")
    told = coefficients_table(session, [(0, point)]).rows()
    found: dict[str, object] = {
        "coefficients": [{name: row[name] for name in kept} for row in told]
    }
    if point.method in BY_HEAD:
        anatomy = Anatomy.of(session.ends.model)
        weights = merge_weights(session, point)
        found["heads"] = {
            "merge_weights": nested(weights, anatomy),
            "kept": head_masks(weights, anatomy, KEPT_FROM),
            "kept_from": KEPT_FROM,
        }
    return found


def _plain(value: object) -> object:
    """A cell as JSON has it: NaN is null."""
    return None if isinstance(value, float) and value != value else value
