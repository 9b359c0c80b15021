"""New rows one by one: a p of each row, or token, against known skills, and a queue that hands out like novel rows together.

Conformal: a row drawn as a skill's were is as likely as each of them to lie furthest out; one row says less than a batch.

Source: Vovk, Gammerman and Shafer (2005), *Algorithmic Learning in a Random World*, §2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from crosstune.experts.novelty import Library, final_states
from crosstune.experts.routing.passes import batches
from crosstune.experts.settings import NoveltySettings
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import DataError, hold
from crosstune.foundation.seeds import Seeds

Item = TypeVar("Item")


def row_p(rows: Tensor, known: Tensor) -> Tensor:
    """The share of known rows and the row itself that lie as far as it does from their mean, in units of their spread.

    Shapes: ``rows`` [m, H], ``known`` [n, H]; [m], float64, at least 1 / (n + 1). From the mean of all others the order is the same.
    """
    found = []
    for row in rows.double():
        joint = torch.cat([known.double(), row[None]])
        spread = joint.std(0)
        far = torch.where(spread > 0, (joint - joint.mean(0)) / spread, 0.0).norm(dim=1)
        found.append((far >= far[-1] * (1 - 1e-9)).double().mean())  # equal ones differ by rounding
    return torch.stack(found)


@dataclass
class NoveltyQueue(Generic[Item]):
    """Novel rows that wait for others like them."""

    library: Library
    """The known skills, as `ExpertMixture.library`; what joins it is known from then on."""
    settings: NoveltySettings
    """`level`: how often a row of a known skill may be queued; `min_rows`: the fewest of a burst."""
    waiting: list[tuple[Item, Tensor]] = field(default_factory=list)
    """The queued rows with their embeddings."""

    def add(self, items: Sequence[Item], rows: Tensor) -> list[tuple[Item, str]]:
        """Queue rows of `embed_rows`, each called by an item, that are strange to every known skill; those that waited are judged anew.

        Returns:
            The others, each with the skill in which it is least strange.
        """
        found = f"{len(items)} for {len(rows)}"
        words = "must be one for each embedded row", found, "Name copies of a row once."
        hold(len(items) == len(rows), DataError, "items", words)
        every = [*self.waiting, *zip(items, rows, strict=True)]
        joint, names = torch.stack([row for _, row in every]), list(self.library)
        by_skill = [row_p(joint, self.library[name]) for name in names]
        p = torch.stack(by_skill, dim=1) if names else torch.zeros(len(every), 1)
        is_new, nearest = (p.amax(dim=1) <= self.settings.level).tolist(), p.argmax(dim=1).tolist()
        self.waiting = list(compress(every, is_new))
        others = compress(zip(every, nearest, strict=True), [not one for one in is_new])
        return [(item, names[at]) for (item, _), at in others]

    def burst(self) -> list[Item]:
        """The largest group of like rows, taken from the queue; none where it has fewer than `min_rows`.

        Like: joined by steps (single linkage) as short as join all but `level` of `min_rows` rows of the known skills.
        """
        least = self.settings.min_rows
        if len(self.waiting) < least:
            return []
        own = [rows.double() - rows.double().mean(0) for rows in self.library.values()]
        spread = torch.cat(own).std(0).clamp_min(1e-9) if own else torch.tensor(1.0)
        joins = [linkage(rows[:least] / spread, "single")[:, 2] for rows in own]
        step = np.quantile(np.concatenate(joins), 1 - self.settings.level) if own else np.inf
        rows = torch.stack([row for _, row in self.waiting]).double() / spread
        groups = fcluster(linkage(rows, "single"), step, "distance")
        chosen = (groups == np.bincount(groups).argmax()).tolist()
        if sum(chosen) < least:
            return []
        taken = [item for item, _ in compress(self.waiting, chosen)]
        self.waiting = list(compress(self.waiting, [not one for one in chosen]))
        return taken


def token_surprise(model: Any, row: Encoded, known: Sequence[Encoded], seed: int = 0) -> Tensor:
    """−log p of each scored token's state after the final norm, against one token drawn from each known row; [tokens], nats."""
    draw = Seeds(seed).torch("tokens")
    apart = (next(batches(model, [item]))[1] for item in (row, *known))
    first, *others = (final_states(model, batch) for batch in apart)
    drawn = [one[int(torch.randint(len(one), (1,), generator=draw))] for one in others if len(one)]
    return -row_p(first, torch.stack(drawn)).log()
