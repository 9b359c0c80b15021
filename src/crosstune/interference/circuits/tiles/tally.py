"""Tally: scores, averages and norms of one block, added up piece by piece of the slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.interference.circuits.settings import Form
from crosstune.interference.circuits.tiles.building import Source
from crosstune.interference.circuits.tiles.variants import (
    RIGHT_OF,
    RIGHTS,
    Normaliser,
    left,
    turn_right,
)


@dataclass(frozen=True)
class Piece:
    """Gradients of both tasks for some features of some heads.

    Shapes:
        a, kronecker, work: [nA, heads, features, d]; b: [nB, heads, features, d], which is overwritten.

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


class Tally:
    """The sums of one block.

    Averages of a form that is scored pair by pair are means of those scores; the others never make a pair: the mean of the left
    factors meets each right one, and each left one the mean of the right ones.

    Args:
        forms: Forms of the pair scores.
        averages: Forms of the averages.
        counts: Samples of A and of B.
        heads: Heads of the block.
        like: A source whose tiles have the dtype and device of the sums.
    """

    def __init__(
        self,
        forms: Sequence[Form],
        averages: Sequence[Form],
        counts: tuple[int, int],
        heads: int,
        like: Source,
    ) -> None:
        count_a, count_b = counts
        self.forms = tuple(forms)
        self.averages = tuple(averages)
        self.alone = {form for form in averages if form not in forms or form.variant == "ewc"}
        self._pairs = {
            form: like.new_zeros(heads, count_b, 1 if form.variant == "ewc" else count_a)
            for form in self.forms
        }
        self._columns = {form: like.new_zeros(heads, 2, count_b) for form in self.alone}
        self._rows = {form: like.new_zeros(heads, 2, count_a) for form in self.alone}
        self._l1 = like.new_zeros(heads, count_b)
        self._squared = tuple(like.new_zeros(heads, count) for count in counts)

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
            means = _half_means(piece.b) if self.alone.intersection(forms) else None
            for form in forms:
                self._multiply(form, piece, _left(form, piece, normalisers[form.fisher]), means)

    def _multiply(self, form: Form, piece: Piece, factor: Tensor, means: Tensor | None) -> None:
        lefts, rights = _by_head(factor), _by_head(piece.b)
        if form in self._pairs:
            met = lefts.mean(1, keepdim=True) if form.variant == "ewc" else lefts
            self._pairs[form][piece.heads].baddbmm_(rights, met.mT)
        if form in self.alone:
            assert means is not None
            self._columns[form][piece.heads].baddbmm_(_half_means(factor), rights.mT)
            self._rows[form][piece.heads].baddbmm_(means, lefts.mT)

    def pairs(self) -> dict[Form, Tensor]:
        """Scores of pairs, [nA, nB, heads] on the CPU; of `ewc` [1, nB, heads]."""
        return {form: found.cpu().permute(2, 1, 0) for form, found in self._pairs.items()}

    def columns(self) -> dict[Form, Tensor]:
        """Means over the even and over the odd samples of A, [2, nB, heads]."""
        return {
            form: self._columns[form].cpu().permute(1, 2, 0)
            if form in self.alone
            else _two_means(self._pairs[form].cpu().permute(2, 1, 0))
            for form in self.averages
        }

    def rows(self) -> dict[Form, Tensor]:
        """Means over the even and over the odd samples of B, [2, nA, heads]."""
        return {
            form: self._rows[form].cpu().permute(1, 2, 0)
            if form in self.alone
            else _two_means(self._pairs[form].cpu().permute(1, 2, 0))
            for form in self.averages
        }

    def norms(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖g_j‖₁ [nB, heads], ‖g_i‖₂ [nA, heads] and ‖g_j‖₂ [nB, heads]."""
        norm_a, norm_b = (sums.sqrt().cpu().T for sums in self._squared)
        return self._l1.cpu().T, norm_a, norm_b


def _left(form: Form, piece: Piece, normaliser: Normaliser) -> Tensor:
    if form.variant == "kfac":
        assert piece.kronecker is not None
        return piece.kronecker
    return left(form.variant, piece.a, normaliser, piece.features, piece.work)


def _by_head(tile: Tensor) -> Tensor:
    """The view [heads, n, features × d] of a tile."""
    return tile.transpose(0, 1).flatten(2)


def _half_means(tile: Tensor) -> Tensor:
    """Means over even and odd samples, [heads, 2, features × d]; NaN over none."""
    return torch.stack([tile[half::2].mean(0).flatten(1) for half in (0, 1)], 1)


def _two_means(scores: Tensor) -> Tensor:
    """Means over even and odd places of the first axis, summed in float64."""
    means = [scores[half::2].mean(0, dtype=torch.float64) for half in (0, 1)]
    return torch.stack(means).to(scores.dtype)
