"""Tally: scores, averages and norms of one block, added up piece by piece of the slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.circuits.scoring.own import Own, by_head
from crosstune.circuits.scoring.tiles import Source
from crosstune.circuits.scoring.variants import (
    RIGHT_OF,
    RIGHTS,
    Normaliser,
    Right,
    left,
    turn_right,
)
from crosstune.circuits.settings import Form


@dataclass(frozen=True)
class Piece:
    """Gradients of both tasks for some features of some heads.

    Shapes:
        a, kronecker: [nA, heads, features, d]; b: [nB, heads, features, d], which is overwritten; work: as the larger of both.

    Attributes:
        heads: Which heads.
        features: Which features.
        a: Task A's gradients.
        b: Task B's.
        kronecker: A's, preconditioned; None where nobody asks.
        work: Room.
    """

    heads: slice
    features: slice
    a: Tensor
    b: Tensor
    kronecker: Tensor | None
    work: Tensor

    @property
    def place(self) -> tuple[slice, slice]:
        """Which heads and features."""
        return self.heads, self.features

    def spare(self, like: Tensor) -> Tensor:
        """The room in the shape of one of both tiles."""
        return self.work.view(-1)[: like.numel()].view(like.shape)


class Tally:
    """The sums of one block.

    Averages of a form that is scored pair by pair are means of those scores; the others never make a pair: the mean of the left
    factors meets each right one, and each left one the mean of the right ones.
    """

    def __init__(
        self,
        forms: Sequence[Form],
        averages: Sequence[Form],
        a: Source,
        b: Source,
    ) -> None:
        self.forms = tuple(forms)
        self.averages = tuple(averages)
        self.alone = {form for form in averages if form not in forms or form.variant == "ewc"}
        self.own = Own(averages, (a, b))
        self._places = (a.places, b.places)
        self._weights = (_half_weights(a), _half_weights(b))
        heads = a.heads
        self._pairs = {
            form: a.new_zeros(heads, b.count, 1 if form.variant == "ewc" else a.count)
            for form in self.forms
        }
        self._columns = {form: a.new_zeros(heads, 2, b.count) for form in self.alone}
        self._rows = {form: a.new_zeros(heads, 2, a.count) for form in self.alone}
        self._l1 = a.new_zeros(heads, b.count)
        self._squared = tuple(a.new_zeros(heads, one.count) for one in (a, b))

    def add_squares(self, task: int, heads: slice, squares: Tensor) -> None:
        """Add squared gradients, [n, heads, features, d], to the norms of the samples of A (0) or B (1)."""
        self._squared[task][heads] += squares.sum((2, 3)).T

    def add(self, piece: Piece, normalisers: Mapping[str, Normaliser]) -> None:
        """Add a piece to every score and average."""
        wanted = [*self.forms, *(form for form in self.averages if form not in self.forms)]
        for right in RIGHTS:
            forms = [form for form in wanted if RIGHT_OF[form.variant] == right]
            if not forms and right != "magnitude":
                continue
            turn_right(right, piece.b)
            if right == "magnitude":
                self._l1[piece.heads] += piece.b.sum((2, 3)).T
            means = self._half_means(1, piece.b) if self.alone.intersection(forms) else None
            for form in forms:
                self._multiply(form, piece, _left(form, piece, normalisers[form.fisher]), means)
            self._meet_itself(right, piece, normalisers)

    def _meet_itself(
        self, right: Right, piece: Piece, normalisers: Mapping[str, Normaliser]
    ) -> None:
        """Add what each task's samples share among themselves; B's gradients are as this right has them."""
        if right == "square":
            return
        variant = "signed" if right == "signed" else "symmetric"
        a, room = piece.a, piece.spare(piece.a)
        if right == "magnitude" and any(form.variant == variant for form in self.own.forms):
            a = torch.abs(a, out=room)
        spare = room, piece.spare(piece.b)
        self.own.add(variant, (a, piece.b), spare, piece.place, normalisers)

    def _multiply(self, form: Form, piece: Piece, factor: Tensor, means: Tensor | None) -> None:
        lefts, rights = by_head(factor), by_head(piece.b)
        if form in self._pairs:
            met = lefts.mean(1, keepdim=True) if form.variant == "ewc" else lefts
            self._pairs[form][piece.heads].baddbmm_(rights, met.mT)
        if form in self.alone:
            assert means is not None
            self._columns[form][piece.heads].baddbmm_(self._half_means(0, factor), rights.mT)
            self._rows[form][piece.heads].baddbmm_(means, lefts.mT)

    def _half_means(self, task: int, tile: Tensor) -> Tensor:
        """Means over even and odd samples of A (0) or B (1), [heads, 2, features × d]; NaN over none."""
        values = by_head(tile)
        return torch.bmm(self._weights[task].expand(len(values), -1, -1), values)

    def pairs(self) -> dict[Form, Tensor]:
        """Scores of pairs, [nA, nB, heads] on the CPU; of `ewc` [1, nB, heads]."""
        a, b = self._places
        found = {form: sums.cpu()[:, b] for form, sums in self._pairs.items()}
        return {
            form: (sums if form.variant == "ewc" else sums[:, :, a]).permute(2, 1, 0)
            for form, sums in found.items()
        }

    def columns(self, pairs: Mapping[Form, Tensor]) -> dict[Form, Tensor]:
        """Means over the even and over the odd samples of A, [2, nB, heads]."""
        b = self._places[1]
        return {
            form: self._columns[form].cpu()[:, :, b].permute(1, 2, 0)
            if form in self.alone
            else _two_means(pairs[form])
            for form in self.averages
        }

    def rows(self, pairs: Mapping[Form, Tensor]) -> dict[Form, Tensor]:
        """Means over the even and over the odd samples of B, [2, nA, heads]."""
        a = self._places[0]
        return {
            form: self._rows[form].cpu()[:, :, a].permute(1, 2, 0)
            if form in self.alone
            else _two_means(pairs[form].transpose(0, 1))
            for form in self.averages
        }

    def norms(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖g_j‖₁ [nB, heads], ‖g_i‖₂ [nA, heads] and ‖g_j‖₂ [nB, heads]."""
        norm_a, norm_b = (
            sums.sqrt().cpu()[:, places].T
            for sums, places in zip(self._squared, self._places, strict=True)
        )
        return self._l1.cpu()[:, self._places[1]].T, norm_a, norm_b


def _left(form: Form, piece: Piece, normaliser: Normaliser) -> Tensor:
    if form.variant == "kfac":
        assert piece.kronecker is not None
        return piece.kronecker
    return left(form.variant, piece.a, normaliser, piece.features, piece.spare(piece.a))


def _half_weights(source: Source) -> Tensor:
    """What makes means over the even and over the odd samples, [2, n]."""
    chosen = torch.stack([source.halves == half for half in (0, 1)]).to(source.dtype)
    return chosen / chosen.sum(1, keepdim=True)


def _two_means(scores: Tensor) -> Tensor:
    """Means over even and odd places of the first axis, summed in float64."""
    means = [scores[half::2].mean(0, dtype=torch.float64) for half in (0, 1)]
    return torch.stack(means).to(scores.dtype)
