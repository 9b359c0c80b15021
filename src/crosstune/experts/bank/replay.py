"""Rows of earlier skills that are learned again beside new ones: which are kept hangs on what they say, not on when they came.

Of each skill the rows with the smallest keyed hashes stay (bottom-k), so that rows in two parts, or two skills that became one,
leave what all of them at once would leave. The hash is of tokens and labels: rows without ids of their own are numbered from 1.

Source: Cohen and Kaplan (2007), *Summarizing Data Using Bottom-k Sketches*, PODC; here all rows weigh alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, cycle
from typing import Any

import torch
from torch import Tensor

from crosstune.foundation.data import Encoded
from crosstune.foundation.data.tokens import refuse_packed
from crosstune.foundation.seeds import Seeds, content_key

_RECORDED = ("row_id", "scored_tokens", "scored_bytes", "cut", "group", "window", "unit")


class Replay:
    """A sample of at most `quota` rows of each skill; the seed changes which."""

    def __init__(self, quota: int = 0, seed: int = 0) -> None:
        self.quota, self.seed = quota, seed
        self.rows: dict[str, list[Encoded]] = {}

    def keep(self, skill: str, encoded: Sequence[Encoded]) -> None:
        """Sample a skill's rows, those that were kept before among them; of copies one."""
        refuse_packed("encoded", encoded)
        every = [replace(row, ends=()) for row in (*self.rows.get(skill, ()), *encoded)]
        said = [str((row.input_ids, row.labels)) for row in every]
        joint = {
            content_key(text, "replay", self.seed): row
            for text, row in zip(said, every, strict=True)
        }
        self.rows[skill] = [joint[key] for key in sorted(joint)[: self.quota]]

    def merge(self, names: Sequence[str], into: str) -> None:
        """Take the rows of several skills for those of one."""
        self.keep(into, list(chain.from_iterable(self.rows.pop(name, ()) for name in names)))

    def mixed(
        self, new: Sequence[Encoded], share: float, seed: int = 0
    ) -> tuple[list[Encoded], dict[str, str]]:
        """New rows in their order with kept ones spread evenly among them, skills alike, and the skill of each kept one by its new row id.

        So much that `share` of all rows are kept ones; where that is more than there are, they come several times.
        """
        draws, queues = Seeds(seed).numpy("replay"), []
        for name in sorted(name for name in self.rows if self.rows[name]):
            order = draws.permutation(len(self.rows[name]))
            queues.append(cycle([(name, self.rows[name][at]) for at in order]))
        draws.shuffle(queues)
        count = round(len(new) * share / (1 - share)) if queues else 0
        rows, skills, mark = list(new), dict[str, str](), "replay"
        while any(row.row_id.startswith(mark) for row in new):
            mark += "+"
        for at in range(count):
            name, row = next(queues[at % len(queues)])
            skills[f"{mark} {at}"] = name
            # From the front, so that a place counts the rows that were put in before it.
            place = (2 * at + 1) * (len(new) + count) // (2 * count)
            rows.insert(place, replace(row, row_id=f"{mark} {at}"))
        return rows, skills

    def tensors(self) -> dict[str, Tensor]:
        """The token ids and labels of each row, [2, tokens]."""
        return {
            f"{name}.{at}": torch.tensor([row.input_ids, row.labels])
            for name, rows in self.rows.items()
            for at, row in enumerate(rows)
        }

    def record(self) -> dict[str, list[dict[str, Any]]]:
        """All else that is kept of each skill's rows, as JSON holds it."""
        return {
            name: [{field: getattr(row, field) for field in _RECORDED} for row in rows]
            for name, rows in self.rows.items()
        }

    def load(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Keep the rows whose `record` and `tensors` these are."""
        for name, rows in record.items():
            both = [tensors[f"{name}.{at}"].tolist() for at in range(len(rows))]
            self.rows[name] = [
                Encoded(**row, input_ids=ids, labels=labels)
                for row, (ids, labels) in zip(rows, both, strict=True)
            ]
