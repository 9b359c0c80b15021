"""An evaluation: the loss of every task and fold at a point of the space, and its slope along every group, from one pass.

Evaluations are remembered, in a folder where one is given, under what they were asked: a search that is killed and
begun again is given the same figures at no cost and so takes the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstune.foundation import ranks
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.errors import DataError, MeasurementError, UnsupportedError
from crosstune.foundation.evaluation import token_logits, token_nats
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.gradients.gradients import batch_of, evaluating, micro_batches
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.seeds import content_key
from crosstune.foundation.storage import atomic_write, fingerprint
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.groups import wide
from crosstune.merging.interpolation import InterpolationSpace
from crosstune.merging.optimise.archive import pull_back
from crosstune.merging.scoring import place_end


@dataclass(frozen=True)
class Item:
    """Rows of one task (its place) and fold that go through the model together."""

    task: int
    fold: int
    rows: tuple[Encoded, ...]


Target = Callable[[nn.Module, dict[str, Tensor], int], Tensor]
"""What is minimised, summed over the scored tokens of a batch, in nats; the integer is the item's number."""


def text_nats(model: nn.Module, batch: dict[str, Tensor], place: int) -> Tensor:
    """The nats of the text itself."""
    return token_nats(model, batch).double().sum()


@dataclass(frozen=True)
class Evaluation:
    """Losses and slopes at one point of the space.

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

    A fold is dealt by unit over all tasks at once, so that a sentence and its translation share one.
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
                    found=f"task number {task + 1} with {len(given)} validation rows has nothing in one",
                    remedy="Give more rows or smaller groups, or ask for fewer folds.",
                )
            items += [Item(task, fold, tuple(b)) for b in micro_batches(mine, batch_tokens)]
    return tuple(items)


@dataclass
class Evaluator:
    """Evaluates models of a space on the validation rows; no point is evaluated twice.

    Attributes:
        identity: What else a remembered evaluation depends on (endpoints, rows, target), for its file's name.
        folder: Where evaluations are stored, or None.
        target: What is minimised.
        progress: Called after every new evaluation.
        made: How many were computed and not read.
    """

    space: InterpolationSpace
    items: tuple[Item, ...]
    settings: GradientSettings
    identity: Mapping[str, object] = field(default_factory=dict)
    folder: Path | None = None
    target: Target = text_nats
    progress: Callable[[], None] = lambda: None
    made: int = field(default=0, init=False)
    _known: dict[str, tuple[np.ndarray, Evaluation]] = field(default_factory=dict, init=False)

    @property
    def seen(self) -> tuple[tuple[np.ndarray, Evaluation], ...]:
        """Every point with its evaluation, in the order in which it was first asked for."""
        return tuple(self._known.values())

    @property
    def tokens(self) -> int:
        """Scored tokens of one evaluation."""
        return sum(row.scored_tokens for item in self.items for row in item.rows)

    def __call__(self, values: np.ndarray) -> Evaluation:
        """The evaluation at values [J, P], the same whether made now or remembered."""
        key = fingerprint([values.astype(np.float64).tobytes().hex(), dict(self.identity)])
        if key not in self._known:
            path = None if self.folder is None else self.folder / f"{key}.safetensors"
            stored = ranks.from_first(_read(path))
            made = self._evaluate(values) if stored is None else stored
            self._known[key] = values.copy(), made
            if stored is None and path is not None and ranks.is_first():
                _write(path, made)
            self.progress()
        return self._known[key][1]

    def _evaluate(self, values: np.ndarray) -> Evaluation:
        self.space.place(torch.from_numpy(values))
        mine = range(ranks.rank(), len(self.items), ranks.world_size())
        found: dict[int, tuple[float, np.ndarray]] = {}
        model = self.space.ends.model
        with evaluating(model, self.settings), self.space.contracting() as inner:
            device = next(model.parameters()).device
            for place in mine:
                inner.zero_()
                batch = batch_of(self.items[place].rows, pad_id(self.space.ends.tokenizer), device)
                with torch.enable_grad():
                    loss = self.target(model, batch, place)
                    torch.autograd.backward(loss)
                found[place] = (loss.item(), inner.numpy().copy())
        # In the order of the items, so that any number of processes adds up the same bits.
        everywhere = {k: v for part in ranks.gather_over_ranks(found) for k, v in part.items()}
        shape = (1 + max(i.task for i in self.items), 1 + max(i.fold for i in self.items))
        nats, tokens = np.zeros(shape), np.zeros(shape)
        slopes = np.zeros((*shape, *self.space.shape))
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
        return Evaluation(nats, tokens, slopes)


def _read(path: Path | None) -> Evaluation | None:
    if path is None or not path.is_file():
        return None
    return Evaluation(**{name: value.numpy() for name, value in load_file(path).items()})


def _write(path: Path, evaluation: Evaluation) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(value) for name, value in vars(evaluation).items()}
    with atomic_write(path) as scratch:
        save_file(tensors, scratch)


class Teachers:
    """KL(teacher ‖ θ(w)) in nats: for users without labels, what the checkpoints say at every scored position.

    `learned` are the places of the tasks whose teacher is `after`; that of all others is `before`.
    """

    def __init__(
        self,
        ends: Endpoints,
        items: Sequence[Item],
        learned: Collection[int],
        *,
        settings: GradientSettings,
        most: int,
    ) -> None:
        model = ends.model
        vocabulary = int(model.config.vocab_size)
        scored = sum(row.scored_tokens for item in items for row in item.rows)
        if 4 * scored * vocabulary > most:
            raise UnsupportedError(
                "teacher_bytes",
                law=f"must hold {scored} scored tokens × {vocabulary} entries of float32",
                found=f"{most} bytes for {4 * scored * vocabulary}",
                remedy="Lower `rows` or `length`, or raise `teacher_bytes`.",
            )
        self._teachers: dict[int, Tensor] = {}
        for value in (0.0, 1.0):
            place_end(ends, value)
            with evaluating(model, settings), torch.no_grad():
                device = next(model.parameters()).device
                for place, item in enumerate(items):
                    if (item.task in learned) == (value == 1.0):
                        batch = batch_of(item.rows, pad_id(ends.tokenizer), device)
                        self._teachers[place] = _log_probabilities(model, batch).cpu()

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], place: int) -> Tensor:
        """The summed divergence of one batch from its teacher, a float64 scalar that can be differentiated."""
        student = _log_probabilities(model, batch)
        teacher = self._teachers[place].to(student.device)
        return (teacher.exp() * (teacher - student)).sum(dtype=torch.float64)


def _log_probabilities(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Log-probabilities at the positions that predict a scored token, [tokens, V]."""
    scored = batch["labels"][:, 1:] != UNSCORED
    return torch.log_softmax(wide(token_logits(model, batch)[:, :-1][scored]), dim=-1)
