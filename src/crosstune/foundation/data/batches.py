"""Encoded rows as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from crosstune.foundation.data.tokens import UNSCORED, Encoded
from crosstune.foundation.errors import DataError
from crosstune.foundation.settings.options import one_of


def collate(
    encoded: Sequence[Encoded], pad_id: int, *, side: Literal["right", "left"] = "right"
) -> dict[str, torch.Tensor]:
    """Sequences side by side, padded to the longest.

    Shapes:
        Every tensor is [B, T], int64; `attention_mask` is 1 on real tokens and 0 on padding, `position_ids` begin
        anew at each row of a packed sequence and at padding.

    Args:
        encoded: At least one sequence.
        pad_id: What stands on padding; it may be a real token's id, since padding is known by its place.
        side: Where the padding goes.

    Returns:
        `input_ids`, `attention_mask` and `labels` (−100 on padding), with packed rows also `position_ids`; a model reads
        them by `models.model_inputs`, since it keeps packed rows apart only where it is given positions and no mask.

    Raises:
        DataError: There is no sequence.
        SettingsError: `side` is neither right nor left.
    """
    if not encoded:
        raise DataError(
            "encoded", law="must have a sequence", found="none", remedy="Give at least one row."
        )
    one_of("side", side, ("right", "left"))
    shape = (len(encoded), max(len(item.input_ids) for item in encoded))
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    attention_mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, UNSCORED, dtype=torch.int64)
    for index, item in enumerate(encoded):
        size = len(item.input_ids)
        place = slice(0, size) if side == "right" else slice(shape[1] - size, shape[1])
        input_ids[index, place] = torch.tensor(item.input_ids)
        attention_mask[index, place] = 1
        labels[index, place] = torch.tensor(item.labels)
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
    if any(item.lengths for item in encoded):
        batch["position_ids"] = torch.stack([_positions(item, shape[1], side) for item in encoded])
    return batch


def _positions(item: Encoded, width: int, side: str) -> torch.Tensor:
    """The place of each token in its row, and of padding in the padding; [T]."""
    sizes, padding = item.lengths or (len(item.input_ids),), width - len(item.input_ids)
    runs = (*sizes, padding) if side == "right" else (padding, *sizes)
    return torch.cat([torch.arange(size) for size in runs])
