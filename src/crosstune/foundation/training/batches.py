"""Which rows each optimizer step reads: the same sets for every split into micro-batches and processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.seeds import Seeds


class StepBatches(Sampler[list[int]]):
    """Micro-batches of one process, for a whole stage.

    Rows form one endless stream: a seeded permutation of all rows, then another, and so on. Step s
    reads places s·B to (s+1)·B of the stream, so every row is read exactly once per epoch, every
    step has the same number of rows, and an epoch's last rows share a step with the next epoch's
    first. There is no incomplete window: n micro-batches of rows make ⌊n / accumulation⌋ steps and
    what is left over belongs to a step that is not taken. (Stock transformers takes a smaller step
    on the remainder of each epoch, and with several processes repeats rows to fill it.)
    """

    def __init__(
        self,
        rows: int,
        *,
        steps: int,
        batch_rows: int,
        accumulation: int,
        seed: int,
        place: tuple[int, int] = (0, 1),
    ) -> None:
        self.rows = rows
        self.steps = steps
        self.batch_rows = batch_rows
        self.accumulation = accumulation
        self._order_of = lru_cache(maxsize=2)(partial(_permutation, Seeds(seed), rows))
        self._rank, self._processes = place
        if batch_rows < accumulation * self._processes:
            raise SettingsError(
                "batch_rows",
                law="must be at least accumulation x processes: no micro-batch may be empty",
                found=f"{batch_rows} rows for {accumulation} x {self._processes}",
                remedy="Raise batch_rows or lower accumulation.",
            )

    def __len__(self) -> int:
        """Micro-batches of this process in the whole stage."""
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the micro-batches in order."""
        for step in range(self.steps):
            shares = np.array_split(self.step_rows(step), self.accumulation * self._processes)
            for micro in range(self.accumulation):
                yield shares[micro * self._processes + self._rank].tolist()

    def step_rows(self, step: int) -> NDArray[np.int64]:
        """Rows of optimizer step ``step`` (counted from 0), over all processes, in stream order."""
        places = np.arange(step * self.batch_rows, (step + 1) * self.batch_rows)
        epochs = places // self.rows
        return np.concatenate(
            [
                self._order_of(int(epoch))[places[epochs == epoch] % self.rows]
                for epoch in np.unique(epochs)
            ]
        )


def _permutation(seeds: Seeds, rows: int, epoch: int) -> NDArray[np.int64]:
    return seeds.numpy("row order", epoch).permutation(rows)
