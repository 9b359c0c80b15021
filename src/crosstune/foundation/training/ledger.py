"""The loss ledger: raw × weight = weighted for every term of every optimizer step, and the sum is the optimised loss."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosstune.foundation.errors import (
    LedgerError,
    NonFiniteLossError,
    SettingsError,
    TrainingError,
)
from crosstune.foundation.ranks import gather_over_ranks, sum_over_ranks
from crosstune.foundation.records import Column, Table
from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training.loss import MicroLoss
from crosstune.foundation.training.terms import Terms, Unit

TRAIN = "train"
"""The side of the rows that are learned."""

COLUMNS = (
    Column.axis("step", "int64", about="optimizer steps taken, this one included"),
    Column.axis("side", about="train, or the held-out set's name"),
    Column.axis("term"),
    Column.value("raw", about="sum over sum of the whole step"),
    Column.value("weight"),
    Column.value(
        "weighted", about="raw x weight; the terms add up to the loss of that step and side"
    ),
    Column.value("sum"),
    Column.value(
        "count", "int64", about="tokens, rows or micro-batches that the sum is divided by"
    ),
)


class LossLedger:
    """Every entry of every optimizer step, over all processes, closed against the Trainer's own account.

    Args:
        terms: What is optimised.
    """

    state_name = "loss_ledger"

    def __init__(self, terms: Terms) -> None:
        self.entries = terms.entries
        self.rows: list[dict[str, Any]] = []
        self.logged_step = 0
        self.factors: dict[str, float] = {}
        self._counts: Mapping[Unit, int] = {}
        self._micro: list[MicroLoss] = []
        self._row_ids: list[list[str]] = []

    def weights(self, step: int) -> dict[str, float]:
        """The weights of the entries that are present at optimizer step ``step`` (counted from 0): those that are not 0."""
        weights = {entry.name: entry.weight(step) for entry in self.entries}
        wrong = [f"{name}: {weight}" for name, weight in weights.items() if not isfinite(weight)]
        present = {name: weight for name, weight in weights.items() if weight != 0.0}
        if wrong or not present:
            raise SettingsError(
                "terms",
                law=f"must have finite weights, one of them not 0, at optimizer step {step + 1}",
                found=", ".join(wrong) or "every weight 0",
                remedy="Change the schedule of weights.",
            )
        return present

    def open(self, step: int, counts: Mapping[Unit, int]) -> None:
        """Begin optimizer step ``step`` (counted from 0) with the denominators of its whole window."""
        self._counts = counts
        units = {entry.name: entry.unit for entry in self.entries}
        self.factors = {
            name: weight / counts[units[name]] for name, weight in self.weights(step).items()
        }
        self._micro = []
        self._row_ids = []

    def note(self, micro: MicroLoss, row_ids: list[str]) -> None:
        """Add a micro-batch; its rows are named if a loss is not finite."""
        self._micro.append(micro._replace(loss=micro.loss.detach()))
        self._row_ids.append(row_ids)

    def close(self, step: int, gradient_norm: float) -> dict[str, Tensor]:
        """Book optimizer step ``step`` (counted from 0), before the weights move; what is not finite is an error.

        Returns:
            The statistic of each windowed term, over all micro-batches and processes.
        """
        names, micros = list(self.factors), self._micro
        local = torch.stack([torch.stack([micro.sums[name] for name in names]) for micro in micros])
        learns = [float(any(micro.learns[name] for micro in micros)) for name in names]
        windows = {
            name: torch.stack([micro.windows[name] for micro in micros]).double().sum(dim=0)
            for name in micros[0].windows
        }
        parts = [local.sum(dim=0), local.new_tensor(learns), *map(torch.flatten, windows.values())]
        gathered = sum_over_ranks(torch.cat(parts)).cpu()
        totals, learning, *rest = gathered.split([len(part) for part in parts])
        if not (bool(totals.isfinite().all()) and isfinite(gradient_norm)):
            self._raise_non_finite(step, local, gradient_norm)
        self._check_groups()
        self._check_gradients(step, dict(zip(names, learning.tolist(), strict=True)))
        sums = dict(zip(names, totals.tolist(), strict=True))
        self.book(TRAIN, step + 1, sums, self._counts)
        shaped = zip(windows.items(), rest, strict=True)
        return {name: part.view(value.shape) for (name, value), part in shaped}

    def book(
        self, side: str, taken: int, sums: Mapping[str, float], counts: Mapping[Unit, int]
    ) -> list[dict[str, Any]]:
        """Add a row for each entry's sum, with the weights that the last of ``taken`` optimizer steps was taken with."""
        rows = []
        for entry in self.entries:
            if entry.name in sums:
                weight, raw = entry.weight(max(taken - 1, 0)), sums[entry.name] / counts[entry.unit]
                row = {"step": taken, "side": side, "term": entry.name, "raw": raw}
                row |= {"weight": weight, "weighted": weight * raw}
                rows.append(row | {"sum": sums[entry.name], "count": counts[entry.unit]})
        self.rows += rows
        return rows

    def _check_groups(self) -> None:
        """A group's differentiable scalar is what its factors and sums say."""
        for micro in self._micro:
            for name, pair in micro.groups.items():
                given, booked = pair.tolist()
                if not abs(given - booked) <= 1e-5 * abs(booked) + 1e-8:
                    raise LedgerError(
                        f"terms[{name!r}]",
                        law="must give the scalar that its factors and sums add up to",
                        found=f"{given!r}, and {booked!r} from the sums",
                        remedy="Multiply each entry by its factor before they are added, and nothing else.",
                    )

    def _check_gradients(self, step: int, learning: Mapping[str, float]) -> None:
        """Each entry has a gradient in some micro-batch of the step."""
        without = [name for name, count in learning.items() if not count]
        if without:
            raise TrainingError(
                "terms",
                law=f"must each have a gradient in optimizer step {step + 1}",
                found=f"none of {', '.join(without)}: nothing that is trained changes it",
                remedy="Take out a detach() or no_grad(), or unfreeze what it should train.",
            )

    def _raise_non_finite(self, step: int, local: Tensor, gradient_norm: float) -> None:
        culprits = [
            f"{name} in rows {', '.join(self._row_ids[micro])}"
            for micro, values in enumerate(local)
            for name, value in zip(self.factors, values, strict=True)
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
        """Per entry, over the optimizer steps in (after, upto]: `raw`, its mean where it was present, and `weighted`, its share of the mean loss."""
        window = takewhile(lambda row: row["step"] > after, reversed(self.rows))
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in reversed(list(window)):
            if row["side"] == TRAIN and row["step"] <= upto:
                rows.setdefault(row["term"], []).append(row)
        return {
            entry.name: {
                "raw": sum(row["raw"] for row in rows[entry.name]) / len(rows[entry.name]),
                "weighted": sum(row["weighted"] for row in rows[entry.name]) / (upto - after),
            }
            for entry in self.entries
            if entry.name in rows
        }

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
