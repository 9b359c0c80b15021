"""A look: the loss of every task and fold at one place of the box, and its slope along every piece, from one pass.

Looks are remembered, in a folder where one is given, under what they were asked: a search that is killed and begun
again is told the same figures at no cost and so takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import DataError, MeasurementError
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.gradients.gradients import batch_of, evaluating, micro_batches
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.seeds import content_key
from crosstune.foundation.storage import atomic_write, fingerprint
from crosstune.merging.interpolation import Box
from crosstune.merging.optimise.archive import pull_back


@dataclass(frozen=True)
class Item:
    """Rows of one task and fold that go through the model together.

    Attributes:
        task: The task's place.
        fold: The fold.
        rows: The rows.
    """

    task: int
    fold: int
    rows: tuple[Encoded, ...]


class Target(Protocol):
    """What is minimised, summed over the scored tokens of some rows, in nats."""

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], place: int) -> Tensor:
        """The sum for one batch; `place` is the item's number."""
        ...


def text_nats(model: nn.Module, batch: dict[str, Tensor], place: int) -> Tensor:
    """The nats of the text itself."""
    return token_nats(model, batch).double().sum()


@dataclass(frozen=True)
class Look:
    """What was seen at one place of the box.

    Shapes:
        nats, tokens: [K, F] sums over scored tokens; slopes: [K, F, J, P], ∂ nats / ∂ values.
    """

    nats: np.ndarray
    tokens: np.ndarray
    slopes: np.ndarray

    def losses(self, folds: Sequence[int] | None = None) -> np.ndarray:
        """Nats per token of each task over some folds (all by default), [K]."""
        chosen = slice(None) if folds is None else list(folds)
        return np.asarray(self.nats[:, chosen].sum(axis=1) / self.tokens[:, chosen].sum(axis=1))

    def loss_slopes(self, folds: Sequence[int] | None = None) -> np.ndarray:
        """∂ nats per token / ∂ values over some folds, [K, J, P]."""
        chosen = slice(None) if folds is None else list(folds)
        tokens = self.tokens[:, chosen].sum(axis=1)
        return np.asarray(self.slopes[:, chosen].sum(axis=1) / tokens[:, None, None])


def make_items(
    rows: Sequence[Sequence[Encoded]], folds: int, batch_tokens: int, seed: int
) -> tuple[Item, ...]:
    """The rows of all tasks by fold, in batches of like length.

    A fold is dealt by group over all tasks at once, so that a sentence and its translation share one.
    """
    units = {row.unit for task in rows for row in task}
    dealt = sorted(units, key=lambda unit: (content_key(unit, "fold", seed), unit))
    fold_of = {unit: at % folds for at, unit in enumerate(dealt)}
    items = []
    for task, given in enumerate(rows):
        for fold in range(folds):
            mine = [row for row in given if fold_of[row.unit] == fold]
            if not sum(row.scored_tokens for row in mine):
                raise DataError(
                    "keep",
                    law=f"must leave every task something to score in each of {folds} folds",
                    found=f"task number {task + 1} with {len(given)} selection rows has nothing in one",
                    remedy="Give more rows or smaller groups, or ask for fewer folds.",
                )
            items += [Item(task, fold, tuple(b)) for b in micro_batches(mine, batch_tokens)]
    return tuple(items)


@dataclass
class Looks:
    """Looks at the models of a box on the selection rows; one place is never looked at twice.

    Attributes:
        box: The models.
        items: The rows.
        settings: How losses are evaluated.
        identity: What else a remembered look depends on (ends, rows, target), for their file names.
        folder: Where looks are kept, or None.
        target: What is minimised.
        told: Called after every new look.
    """

    box: Box
    items: tuple[Item, ...]
    settings: GradientSettings
    identity: Mapping[str, object] = field(default_factory=dict)
    folder: Path | None = None
    target: Target = text_nats
    told: Callable[[], None] = lambda: None
    made: int = field(default=0, init=False)
    _memory: dict[str, Look] = field(default_factory=dict, init=False)
    _places: dict[str, np.ndarray] = field(default_factory=dict, init=False)

    @property
    def seen(self) -> tuple[tuple[np.ndarray, Look], ...]:
        """Every place that was looked at, in the order in which it was first asked for."""
        return tuple((self._places[key], look) for key, look in self._memory.items())

    @property
    def tokens(self) -> int:
        """Scored tokens of one look."""
        return sum(row.scored_tokens for item in self.items for row in item.rows)

    def __call__(self, values: np.ndarray) -> Look:
        """The look at one place.

        Shapes:
            values: [J, P].

        Returns:
            Losses and slopes, the same whether looked at now or remembered.
        """
        key = fingerprint([values.astype(np.float64).tobytes().hex(), dict(self.identity)])
        if key not in self._memory:
            known = ranks.from_first(self._read(key))
            self._memory[key] = self._look(values) if known is None else known
            self._places[key] = values.copy()
            if known is None:
                self._keep(key)
            self.told()
        return self._memory[key]

    def _look(self, values: np.ndarray) -> Look:
        count = self.box.shape
        self.box.place(torch.from_numpy(values))
        mine = range(ranks.rank(), len(self.items), ranks.world_size())
        seen: dict[int, tuple[float, np.ndarray]] = {}
        model = self.box.ends.model
        with evaluating(model, self.settings), self.box.contracting() as inner:
            device = next(model.parameters()).device
            for place in mine:
                inner.zero_()
                item = self.items[place]
                batch = batch_of(item.rows, pad_id(self.box.ends.tokenizer), device)
                with torch.enable_grad():
                    loss = self.target(model, batch, place)
                    torch.autograd.backward(loss)
                seen[place] = (loss.item(), inner.numpy().copy())
        # In the order of the items, so that any number of processes adds up the same bits.
        everywhere = {k: v for part in ranks.gather_over_ranks(seen) for k, v in part.items()}
        tasks = 1 + max(item.task for item in self.items)
        folds = 1 + max(item.fold for item in self.items)
        nats, tokens = np.zeros((tasks, folds)), np.zeros((tasks, folds))
        slopes = np.zeros((tasks, folds, *count))
        for place, item in enumerate(self.items):
            loss_sum, contracted = everywhere[place]
            nats[item.task, item.fold] += loss_sum
            tokens[item.task, item.fold] += sum(row.scored_tokens for row in item.rows)
            slopes[item.task, item.fold] += pull_back(values, contracted)
        if not (np.isfinite(nats).all() and np.isfinite(slopes).all()):
            raise MeasurementError(
                "keep",
                law="must have a finite loss between the checkpoints",
                found=f"NaN or infinity at coefficients from {values.min():.3g} to {values.max():.3g}",
                remedy="Keep `low` and `high` within [0, 1], or evaluate with precision float32.",
            )
        self.made += 1
        return Look(nats, tokens, slopes)

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.safetensors"

    def _read(self, key: str) -> Look | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        kept = {name: value.numpy() for name, value in load_file(path).items()}
        return Look(kept["nats"], kept["tokens"], kept["slopes"])

    def _keep(self, key: str) -> None:
        path = self._path(key)
        if path is None or not ranks.is_first():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        look = self._memory[key]
        with atomic_write(path) as scratch:
            save_file(
                {name: torch.from_numpy(value) for name, value in vars(look).items()}, scratch
            )
