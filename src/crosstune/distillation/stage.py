"""A stage of distillation that proves its own books: training rows also go through the path of evaluation, and terms' pulls are measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import nan
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.distillation.checks import PARITY, TrainingBooks, parity
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.errors import LedgerError, hold
from crosstune.foundation.models import measuring
from crosstune.foundation.ranks import sum_over_ranks, world_size
from crosstune.foundation.records import Column, Table
from crosstune.foundation.training.ledger import TRAIN
from crosstune.foundation.training.terms import UNITS
from crosstune.foundation.training.trainer import ROW_IDS, StageTrainer

PULLS = (
    Column.axis("step", "int64", about="optimizer steps taken before"),
    Column.axis("term"),
    Column.axis("other", about="another term, or the same"),
    Column.value(
        "norm", about="norm of the gradient of weight x raw; of two terms that of the first"
    ),
    Column.value("cosine", about="of the two terms' gradients: below 0 they pull apart"),
)


class DistillationStage(StageTrainer):
    """A stage whose books are held against two computations of their own, one a step and one at every evaluation."""

    check_parity: bool = True
    pulls_every: int = 0
    """Steps between measurements of each term's gradient, which take a pass a term; 0: none."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.totals: dict[tuple[int, str], float] = {}
        """What the backward pass began with, by step and side."""
        self.pulls: list[dict[str, Any]] = []
        self._total: Tensor | float = 0.0
        self._pull: float | None = None
        self._is_due = False

    @property
    def chances(self) -> dict[str, float]:
        """Raw values of who knows nothing, by entry, of terms that have such."""
        known = (getattr(term, "chances", {}) for term in self.terms.members)
        return {name: value for some in known for name, value in some.items()}

    @property
    def noisy(self) -> bool:
        """Whether training computes what evaluation does not, or a model rounds so coarsely that padding shows."""
        drops = (m.p for m in self.model.modules() if isinstance(m, nn.Dropout))
        attention = getattr(self.model.config, "attention_dropout", 0.0) or 0.0
        models = [self.model, *([self.terms.second_model] if self.terms.second_model else [])]
        half = any(p.dtype.itemsize < 4 for model in models for p in model.parameters())
        return half or self.settings.precision == "bfloat16" or max([attention, *drops]) > 0.0

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """The micro-batches of a step; some steps' rows are evaluated, and their pulls measured, before they are learned."""
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        step, every = self.state.global_step, self.settings.evaluate_every
        self._total = 0.0
        self._is_due = self.check_parity and (step == 0 or (every > 0 and step % every == 0))
        if self._is_due:
            self._evaluate_training_rows(batches, step)
        self._pull = None
        if self.pulls_every and step % self.pulls_every == 0:
            self.pulls += self._measured_pulls(batches, step)
        elif self.check_parity and step == 0 and not self.noisy:  # else nothing is held against it
            self._pull = float(self._gradient(batches, step, self.ledger.factors).norm())
        return batches, count

    def training_step(self, *args: Any, **options: Any) -> Tensor:
        """What the backward pass began with, whatever transformers divided it by, is added up here."""
        loss: Tensor = super().training_step(*args, **options)
        self._total = self._total + loss.double() / world_size()
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """The step's account is closed against what the backward pass began with, and against evaluation."""
        norm = super()._get_grad_norm(model, grad_norm)
        step = self.state.global_step + 1
        total = float(sum_over_ranks(torch.as_tensor(self._total).reshape(1)))
        last = self.ledger.rows[-len(self.ledger.entries) :]  # the step's own, booked just now
        own = [row for row in last if (row["step"], row["side"]) == (step, TRAIN)]
        booked = sum(row["weighted"] for row in own)
        words = (
            "must add up to the loss that the backward pass began with",
            f"{booked!r} in the ledger and {total!r} in optimizer step {step}",
            "A term is scaled differently in the backward pass than in the ledger: please report it.",
        )
        hold(abs(booked - total) <= 1e-5 * abs(total) + 1e-8, LedgerError, "loss ledger", words)
        if self._pull is not None and not self.noisy:
            law, seen = (
                f"must have the norm of the loss's own, {self._pull}",
                f"{norm} in step {step}",
            )
            words = law, seen, "Look for what scales the loss before its backward pass."
            hold(abs(norm - self._pull) <= 1e-3 * norm + 1e-6, LedgerError, "gradient", words)
        self.totals[step, TRAIN] = total
        if self._is_due:
            self._hold_parity(step)
        return norm

    def _evaluate_training_rows(self, batches: Sequence[Mapping[str, Any]], step: int) -> None:
        """Book the step's own rows as a held-out set is booked, before the weights move."""
        rows = [row for batch in batches for row in rows_of(batch)]
        names = [*self.ledger.weights(step)]
        sums, counts = self.score_held_out(rows, names, step)
        both = sum_over_ranks(torch.tensor([*sums, *counts], dtype=torch.float64)).tolist()
        units = {unit: int(n) for unit, n in zip(UNITS, both[len(names) :], strict=True)}
        self.ledger.book(PARITY, step + 1, dict(zip(names, both, strict=False)), units)

    def _hold_parity(self, step: int) -> None:
        own = [
            row for row in self.ledger.rows[-4 * len(self.ledger.entries) :] if row["step"] == step
        ]
        found = parity(
            TrainingBooks(
                own,
                accumulation=self.settings.accumulation,
                processes=world_size(),
                noisy=self.noisy,
            )
        )
        seen = f"{found.evidence}. Cause: {'; or '.join(found.causes)}"
        words = "must cost the same in training and evaluation", seen, f"Compare {found.measure}."
        hold(found.outcome != "failed", LedgerError, "terms", words)

    def _measured_pulls(
        self, batches: Sequence[Mapping[str, Any]], step: int
    ) -> list[dict[str, Any]]:
        """The gradient of each term's share of the loss: its norm, and its cosine with those of the others."""
        factors = self.ledger.factors
        found = {n: self._gradient(batches, step, {n: factors[n]}).double() for n in factors}
        self._pull = float(torch.stack([*found.values()]).sum(dim=0).norm())
        norms = {name: float(pull.norm()) for name, pull in found.items()}
        return [
            {
                "step": step,
                "term": one,
                "other": other,
                "norm": norms[one],
                "cosine": float(found[one] @ found[other]) / (norms[one] * norms[other] or nan),
            }
            for one, other in product(found, repeat=2)
        ]

    def _gradient(
        self, batches: Sequence[Mapping[str, Any]], step: int, factors: Mapping[str, float]
    ) -> Tensor:
        """Of these entries' share of the loss, by all that is learned; nothing moves."""
        learned = [p for p in self.loss_module.parameters() if p.requires_grad]
        whole = torch.zeros(sum(p.numel() for p in learned), device=self.args.device)
        with measuring(self.loss_module):
            for batch in batches:
                loss = self.loss_module(self._prepare_inputs(dict(batch)), factors, step).loss
                parts = torch.autograd.grad(
                    loss, learned, allow_unused=True, materialize_grads=True
                )
                whole += torch.cat([part.flatten().float() for part in parts])
        return sum_over_ranks(whole)

    def pulls_table(self) -> Table:
        """How hard each term pulled, and whether terms pull apart."""
        return Table("pulls", PULLS, self.pulls)


def rows_of(batch: Mapping[str, Any]) -> Iterator[Encoded]:
    """The rows of a micro-batch as they were before they were padded."""
    for at, row_id in enumerate(batch[ROW_IDS]):
        real = batch["attention_mask"][at].bool()
        ids, labels = (batch[name][at][real].tolist() for name in ("input_ids", "labels"))
        scored = sum(label != UNSCORED for label in labels[1:])
        yield Encoded(row_id, ids, labels, scored, 0, cut=False, unit=row_id)
