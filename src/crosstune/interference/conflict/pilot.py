"""A pilot run at the first state: how many blocks give the corrected cosine an interval of the wanted width?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from crosstune.foundation.data import Row
from crosstune.interference.conflict.comparison import Comparison
from crosstune.interference.conflict.cosine import MIN_BLOCKS_FOR_INTERVALS, agreement
from crosstune.interference.conflict.settings import AgreementSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def choose_blocks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Sequence[Row]],
    settings: AgreementSettings,
) -> int:
    """The number of blocks per task: the given one, or what a pilot run of 8 blocks says, as far as rows and budget allow.

    The pilot's median interval width over the resolved sites of all pairs is taken to shrink as 1/√K, the slowest it can;
    where no site is resolved the whole budget is used.
    """
    if settings.blocks != "auto":
        return settings.blocks
    pilot = MIN_BLOCKS_FOR_INTERVALS
    comparison = Comparison.prepare(model, tokenizer, tasks, settings, pilot)
    found = comparison.sums(model)["current"].values()
    values = [agreement(sums, settings.level) for sums in found]
    widths = torch.cat([(v.cosine.high - v.cosine.low)[v.resolved] for v in values])
    budget = min(settings.max_blocks, *(_fillable(rows, settings) for rows in tasks.values()))
    if widths.numel() == 0:
        return max(pilot, budget)
    enough = math.ceil(pilot * (float(widths.median()) / settings.interval_width) ** 2)
    return max(pilot, min(budget, enough))


def _fillable(rows: Sequence[Row], settings: AgreementSettings) -> int:
    """Blocks that can surely be filled: every group gives at least one row."""
    groups = {row.content if row.group is None else row.group for row in rows}
    return len(groups) // settings.rows_per_block
