"""Labels: those of the text, or drawn from the model's own predictions, for the true Fisher.

A drawn label depends on the seed, on what its row says and on the model; not on the batch, nor on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.storage import fingerprint

Labels = Literal["text", "sampled"]

# Cumulative probabilities in float64 of so many entries are held at once (64 MiB).
_CHUNK = 2**23


def draws(rows: Sequence[Encoded], seed: int, width: int) -> Tensor:
    """Where in the distribution of each next token the label lies, [b, width] in [0, 1): the same for a row in any batch."""
    found = torch.zeros(len(rows), width, dtype=torch.float64)
    for index, row in enumerate(rows):
        content = fingerprint([row.input_ids, row.labels])
        size = len(row.input_ids) - 1
        generator = Seeds(seed).torch("circuits", "labels", content)
        found[index, :size] = torch.rand(size, generator=generator, dtype=torch.float64)
    return found


def sampled(logits: Tensor, targets: Tensor, at: Tensor) -> Tensor:
    """The next token of the model's own distribution at each scored place: logits [b, T, V], targets and `at` [b, T] → [b, T]."""
    places = targets != UNSCORED
    found = targets.clone()
    chosen, where = logits.detach()[places], at.to(logits.device)[places]
    size = max(1, _CHUNK // logits.shape[-1])
    parts = [
        _by_inversion(some, these)
        for some, these in zip(chosen.split(size), where.split(size), strict=True)
    ]
    found[places] = torch.cat(parts)
    return found


def _by_inversion(logits: Tensor, at: Tensor) -> Tensor:
    """The token at which the cumulative probability passes a number: [N, V], [N] → [N]."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    passed = torch.searchsorted(cumulative, (at * cumulative[:, -1])[:, None], right=True)
    return passed[:, 0].clamp(max=logits.shape[-1] - 1)
