"""One model's hidden states put into another: what the two share, and every closed form of a map between them.

`moments` are sums over rows of both, by document: similarity, ranks and all that `maps` are made of and judged by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.wiring.maps import LinearMap, ridge_by_folds
    from crosstune.wiring.moments import PairMoments

__all__ = ["LinearMap", "PairMoments", "ridge_by_folds"]

__getattr__ = _fetched_from(
    __name__, {"maps": "LinearMap ridge_by_folds", "moments": "PairMoments"}
)
