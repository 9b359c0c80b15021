"""One model's hidden states put into another: what the two share, closed forms of a map, and what arrives.

`moments` are sums over rows of both, by document: similarity, ranks and all that `maps` are made of and judged by. `pairs` are a text as two models
read it, `channel` hands keys and values over, `wire` does both and holds the result against its rivals, `verdict` says what it means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.wiring.maps import LinearMap, ridge_by_folds
    from crosstune.wiring.moments import PairMoments
    from crosstune.wiring.verdict import WireVerdict
    from crosstune.wiring.wire import Wire

__all__ = ["LinearMap", "PairMoments", "Wire", "WireVerdict", "ridge_by_folds"]

__getattr__ = _fetched_from(
    __name__,
    {
        "maps": "LinearMap ridge_by_folds",
        "moments": "PairMoments",
        "verdict": "WireVerdict",
        "wire": "Wire",
    },
)
