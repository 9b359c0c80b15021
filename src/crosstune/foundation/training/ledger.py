"""The loss ledger: raw × weight = weighted for every term of every optimizer step, and the sum is the optimised loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import LedgerError, NonFiniteLossError
from crosstune.foundation.evaluation.scoring import token_nats
from crosstune.foundation.ranks import gather_over_ranks, sum_over_ranks
from crosstune.foundation.records import Column, Table
from crosstune.foundation.storage import read_json, write_json

Unit = Literal["tokens", "microbatch"]

COLUMNS = (
    Column.axis("step", "int64", about="optimizer steps taken, this one included"),
    Column.axis("term"),
    Column.value("raw", about="sum over sum of the whole step"),
    Column.value("weight"),
    Column.value("weighted", about="raw x weight; the terms add up to the loss"),
    Column.value("sum"),
    Column.value("count", "int64", about="tokens or micro-batches that the sum is divided by"),
)


class Term(Protocol):
    """One part of the training loss: a sum and the unit it is a sum over, never a mean."""

    @property
    def name(self) -> str:
        """What the log and the tables call it."""
        ...

    @property
    def unit(self) -> Unit:
        """What the sum is divided by: scored tokens, or micro-batches, of the whole step."""
        ...

    def weight(self, step: int) -> float:
        """The factor at a step (counted from 0): a pure function of it."""
        ...

    def sums(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """The differentiable sum over one micro-batch, a scalar of at least float32."""
        ...


@dataclass(frozen=True)
class NextToken:
    """Cross entropy of the next token: ``token_nats``, summed."""

    name: str = "next_token"
    unit: Unit = "tokens"

    def weight(self, step: int) -> float:
        """The factor is always 1."""
        return 1.0

    def sums(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Nats of the micro-batch's scored tokens, added in float64."""
        return token_nats(model, batch).sum(dtype=torch.float64)


class LossLedger:
    """Every term of every optimizer step, over all processes, closed against the Trainer's own account.

    Args:
        terms: The parts of the loss.
    """

    state_name = "loss_ledger"

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)
        self.rows: list[dict[str, Any]] = []
        self.logged_step = 0
        self._counts: dict[Unit, int] = {}
        self._weights: list[float] = []
        self._sums: list[list[Tensor]] = []
        self._row_ids: list[list[str]] = []

    def open(self, step: int, counts: dict[Unit, int]) -> None:
        """Begin optimizer step ``step`` (counted from 0) with the denominators of its whole window."""
        self._counts = counts
        self._weights = [term.weight(step) for term in self.terms]
        self._sums = []
        self._row_ids = []

    def micro_loss(
        self, model: nn.Module, batch: Mapping[str, Tensor], processes: int, row_ids: list[str]
    ) -> Tensor:
        """The scalar to go backward from, W · Σ w·S/D: summed over micro-batches and averaged over W processes it is the loss.

        `row_ids` are named if a loss is not finite.
        """
        sums = [term.sums(model, batch) for term in self.terms]
        self._sums.append([value.detach() for value in sums])
        self._row_ids.append(row_ids)
        loss = torch.stack(
            [
                value * (weight / self._counts[term.unit])
                for term, weight, value in zip(self.terms, self._weights, sums, strict=True)
            ]
        ).sum()
        return (processes * loss).float()

    def close(self, step: int, gradient_norm: float) -> None:
        """Book optimizer step ``step`` (counted from 0), before the weights move; what is not finite is an error."""
        local = torch.stack([torch.stack(values).double() for values in self._sums])
        totals = sum_over_ranks(local.sum(dim=0))
        if not (bool(totals.isfinite().all()) and torch.isfinite(torch.tensor(gradient_norm))):
            self._raise_non_finite(step, local, gradient_norm)
        for term, weight, total in zip(self.terms, self._weights, totals.tolist(), strict=True):
            count = self._counts[term.unit]
            raw = total / count
            self.rows.append(
                {
                    "step": step + 1,
                    "term": term.name,
                    "raw": raw,
                    "weight": weight,
                    "weighted": weight * raw,
                    "sum": total,
                    "count": count,
                }
            )

    def _raise_non_finite(self, step: int, local: Tensor, gradient_norm: float) -> None:
        culprits = [
            f"{term.name} in rows {', '.join(self._row_ids[micro])}"
            for micro, values in enumerate(local)
            for term, value in zip(self.terms, values, strict=True)
            if not bool(value.isfinite())
        ]
        named = [culprit for some in gather_over_ranks(culprits) for culprit in some]
        found = (
            "; ".join(named) if named else f"finite losses but a gradient norm of {gradient_norm}"
        )
        raise NonFiniteLossError(
            "loss" if named else "gradient",
            law=f"must be finite at optimizer step {step + 1}",
            found=found,
            remedy="The weights were not touched by this step. Look at these rows, lower the learning"
            " rate, or train in float32.",
        )

    def mean(self, after: int, upto: int) -> dict[str, dict[str, float]]:
        """Means of raw and weighted per term over the optimizer steps in (after, upto]."""
        return {
            term.name: {
                part: _mean(self._window(part, after, upto, place)) for part in ("raw", "weighted")
            }
            for place, term in enumerate(self.terms)
        }

    def _window(self, part: str, after: int, upto: int, term: int) -> list[float]:
        # Every step since the first has one row per term, in order.
        every = len(self.terms)
        return [row[part] for row in self.rows[after * every + term : upto * every : every]]

    def check(self, after: int, upto: int, loss: float) -> float:
        """Return ledger less Trainer, two sums of the loss of (after, upto]; more than 1e-5 · |loss| + 1e-8 is an error."""
        counted = sum(parts["weighted"] for parts in self.mean(after, upto).values())
        residual = counted - loss
        if not abs(residual) <= 1e-5 * abs(loss) + 1e-8:
            raise LedgerError(
                "loss ledger",
                law="must add up to the loss that was optimised",
                found=f"{counted!r} in the ledger and {loss!r} optimised in steps {after + 1} to {upto}",
                remedy="A term is scaled differently in the backward pass than in the ledger: please report it.",
            )
        return residual

    def table(self) -> Table:
        """One row per optimizer step and term."""
        return Table("loss_ledger", COLUMNS, self.rows)

    def save_state(self, folder: Path) -> None:
        """Write the ledger, exact to the bit."""
        write_json(folder / "ledger.json", {"logged_step": self.logged_step, "rows": self.rows})

    def load_state(self, folder: Path) -> None:
        """Go on from a written ledger."""
        state = read_json(folder / "ledger.json")
        self.logged_step = state["logged_step"]
        self.rows = state["rows"]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
