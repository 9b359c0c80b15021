"""Blocks: the statistical units of every interval; rows placed by what they say, never by order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crosstune.foundation.data import Encoded, Row, Task, as_rows, encode
from crosstune.foundation.errors import DataError
from crosstune.foundation.gradients.settings import BlockSettings
from crosstune.foundation.seeds import content_key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Block:
    """Rows of one task that are measured together and left out together.

    Attributes:
        task: The task's name.
        index: The block's place, 0..K−1.
        rows: The encoded rows.
        groups: What the block holds, by unit and by wording; two blocks that meet in one of
            these share noise.
        expected_tokens: The mean scored tokens of the task's K blocks: the one constant by which
            every block's summed loss is divided.
        pad_id: The token id that fills padding; it is never scored.
    """

    task: str
    index: int
    rows: tuple[Encoded, ...]
    groups: frozenset[str]
    expected_tokens: float
    pad_id: int

    @property
    def tokens(self) -> int:
        """The scored tokens of the block."""
        return sum(row.scored_tokens for row in self.rows)


def make_blocks(
    task: str,
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    settings: BlockSettings,
    *,
    argument: str | None = None,
) -> tuple[Block, ...]:
    """Blocks that depend on what the rows say and on the seed, never on the order of the rows.

    Units (`Row.unit`: groups, and rows that say the same) are ordered by a seeded hash of their name,
    which does not know the task: parallel tasks put translations of one sentence into the same block,
    so that the fewest pairs of blocks share noise. A unit never spans two blocks, so blocks are
    independent draws however often a text is given; what does not fit its block is left out.

    Args:
        task: The task's name.
        rows: The rows to choose from.
        tokenizer: Encodes the rows.
        settings: How many blocks, of how many rows, of which length, by which seed.
        argument: The name of the rows in error messages; `tasks['<task>']` by default.

    Returns:
        The blocks, in order of their index.

    Raises:
        DataError: There are too few rows or groups, or a block has nothing to score.
    """
    argument = argument or f"tasks[{task!r}]"
    chosen = _choose(argument, rows, settings)
    encoded = [
        tuple(encode(part, tokenizer, settings.length, window=settings.window)) for part in chosen
    ]
    counts = [sum(row.scored_tokens for row in block) for block in encoded]
    if min(counts) == 0:
        raise DataError(
            argument,
            law="must have something to score in every block",
            found=f"block {counts.index(0)} with 0 scored tokens",
            remedy="Leave out empty rows, or raise `length` if prompts fill it.",
        )
    expected = sum(counts) / len(counts)
    return tuple(
        Block(task, index, block, _groups(part), expected, pad_id(tokenizer))
        for index, (part, block) in enumerate(zip(chosen, encoded, strict=True))
    )


def _choose(argument: str, rows: Sequence[Row], settings: BlockSettings) -> list[list[Row]]:
    wanted = settings.blocks * settings.rows_per_block
    by_unit: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_unit[row.unit].append(row)
    ordered = sorted(by_unit, key=lambda u: (content_key(f"group:{u}", "blocks", settings.seed), u))
    blocks: list[list[Row]] = [[]]
    for unit in ordered:
        if len(blocks[-1]) == settings.rows_per_block:
            if len(blocks) == settings.blocks:
                break
            blocks.append([])
        members = sorted(by_unit[unit], key=lambda row: (row.prompt, row.text, row.id))
        room = settings.rows_per_block - len(blocks[-1])
        blocks[-1].extend(members[:room])
    usable = sum(len(block) for block in blocks)
    if usable < wanted:
        raise DataError(
            argument,
            law=f"must fill {settings.blocks} blocks of {settings.rows_per_block} rows ({wanted} "
            "rows, no group or copied text in two blocks)",
            found=f"{len(rows)} rows in {len(by_unit)} groups, of which {usable} can be placed",
            remedy="Give more rows, or ask for fewer blocks or fewer rows per block.",
        )
    return blocks


def _groups(rows: Sequence[Row]) -> frozenset[str]:
    return frozenset(name for row in rows for name in (row.unit, row.wording))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills padding and is never scored: the padding token, else the end-of-text token, else 0."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    return 0


def shared_pairs(blocks_a: Sequence[Block], blocks_b: Sequence[Block]) -> Tensor:
    """True where block i of A and block j of B share a unit or a wording, hence noise, [K_A, K_B]; a block shares with itself."""
    return torch.tensor(
        [[not a.groups.isdisjoint(b.groups) for b in blocks_b] for a in blocks_a], dtype=torch.bool
    )


def sides_of(value: object, argument: str) -> dict[str, tuple[Row, ...]]:
    """The rows of each side of what a user gives as a task."""
    if isinstance(value, Task):
        return {"train": value.train, "test": value.test}
    return {"train": as_rows(value, argument)}
