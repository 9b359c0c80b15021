"""Accumulator: scores, averages and norms of one block, added up as its tiles are gone over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.circuits.scoring.independent import IndependentSums
from crosstune.circuits.scoring.tiles import BlockFactors, by_head
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
class TilePart:
    """Gradients of both tasks for some features of some heads.

    Shapes:
        a, kronecker: [nA, heads, features, d], the latter A's preconditioned, None where no form needs it; b: [nB, heads, features, d],
        which is overwritten; work: memory as large as the larger of both.
    """

    heads: slice
    features: slice
    a: Tensor
    b: Tensor
    kronecker: Tensor | None
    work: Tensor

    def spare(self, like: Tensor) -> Tensor:
        """The work memory in the shape of one of both tiles."""
        return self.work.view(-1)[: like.numel()].view(like.shape)


class Accumulator:
    """The sums of one block.

    Averages of a form that is scored pair by pair are means of those scores; the others never make a pair: the mean of the left
    factors is multiplied with each right one, and each left one with the mean of the right ones.
    """

    def __init__(
        self,
        forms: Sequence[Form],
        averages: Sequence[Form],
        a: BlockFactors,
        b: BlockFactors,
    ) -> None:
        self.forms = tuple(forms)
        self.averages = tuple(averages)
        self.without_pairs = {
            form for form in averages if form not in forms or form.variant == "ewc"
        }
        self.independent = IndependentSums(averages, (a, b))
        self._places = (a.places, b.places)
        self._weights = (_half_weights(a), _half_weights(b))
        heads = a.heads
        self._pairs = {
            form: a.new_zeros(heads, b.count, 1 if form.variant == "ewc" else a.count)
            for form in self.forms
        }
        self._columns = {form: a.new_zeros(heads, 2, b.count) for form in self.without_pairs}
        self._rows = {form: a.new_zeros(heads, 2, a.count) for form in self.without_pairs}
        self._l1 = a.new_zeros(heads, b.count)
        self._squared = tuple(a.new_zeros(heads, one.count) for one in (a, b))

    def add_squares(self, task: int, heads: slice, squares: Tensor) -> None:
        """Add squared gradients, [n, heads, features, d], to the norms of the samples of A (0) or B (1)."""
        self._squared[task][heads] += squares.sum((2, 3)).T

    def add(self, part: TilePart, normalisers: Mapping[str, Normaliser]) -> None:
        """Add some features of some heads to every score and average."""
        wanted = [*self.forms, *(form for form in self.averages if form not in self.forms)]
        for right in RIGHTS:
            forms = [form for form in wanted if RIGHT_OF[form.variant] == right]
            if not forms and right != "magnitude":
                continue
            turn_right(right, part.b)
            if right == "magnitude":
                self._l1[part.heads] += part.b.sum((2, 3)).T
            has_means = self.without_pairs.intersection(forms)
            means = self._half_means(1, part.b) if has_means else None
            for form in forms:
                self._multiply(form, part, _left(form, part, normalisers[form.fisher]), means)
            if right != "square":
                self._add_independent(right, part, normalisers)

    def _add_independent(
        self, right: Right, part: TilePart, normalisers: Mapping[str, Normaliser]
    ) -> None:
        """Add the scores of independent pairs; B's gradients are as this right has them."""
        variant = "signed" if right == "signed" else "symmetric"
        a, work = part.a, part.spare(part.a)
        if right == "magnitude" and any(f.variant == variant for f in self.independent.forms):
            a = torch.abs(a, out=work)
        spare = work, part.spare(part.b)
        place = part.heads, part.features
        self.independent.add(variant, (a, part.b), spare, place, normalisers)

    def _multiply(self, form: Form, part: TilePart, factor: Tensor, means: Tensor | None) -> None:
        lefts, rights = by_head(factor), by_head(part.b)
        if form in self._pairs:
            rows = lefts.mean(1, keepdim=True) if form.variant == "ewc" else lefts
            self._pairs[form][part.heads].baddbmm_(rights, rows.mT)
        if form in self.without_pairs:
            assert means is not None
            self._columns[form][part.heads].baddbmm_(self._half_means(0, factor), rights.mT)
            self._rows[form][part.heads].baddbmm_(means, lefts.mT)

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
        return self._averages(self._columns, self._places[1], pairs)

    def rows(self, pairs: Mapping[Form, Tensor]) -> dict[Form, Tensor]:
        """Means over the even and over the odd samples of B, [2, nA, heads]."""
        transposed = {form: scores.transpose(0, 1) for form, scores in pairs.items()}
        return self._averages(self._rows, self._places[0], transposed)

    def _averages(
        self, sums: Mapping[Form, Tensor], places: Tensor, pairs: Mapping[Form, Tensor]
    ) -> dict[Form, Tensor]:
        return {
            form: sums[form].cpu()[:, :, places].permute(1, 2, 0)
            if form in sums
            else _two_means(pairs[form])
            for form in self.averages
        }

    def norms(self) -> tuple[Tensor, Tensor, Tensor]:
        """‖g_j‖₁ [nB, heads], ‖g_i‖₂ [nA, heads] and ‖g_j‖₂ [nB, heads]."""
        norm_a, norm_b = (
            sums.sqrt().cpu()[:, places].T
            for sums, places in zip(self._squared, self._places, strict=True)
        )
        return self._l1.cpu()[:, self._places[1]].T, norm_a, norm_b


def _left(form: Form, part: TilePart, normaliser: Normaliser) -> Tensor:
    if form.variant == "kfac":
        assert part.kronecker is not None
        return part.kronecker
    return left(form.variant, part.a, normaliser, part.features, part.spare(part.a))


def _half_weights(factors: BlockFactors) -> Tensor:
    """What makes means over the even and over the odd samples, [2, n]."""
    chosen = torch.stack([factors.halves == half for half in (0, 1)]).to(factors.dtype)
    return chosen / chosen.sum(1, keepdim=True)


def _two_means(scores: Tensor) -> Tensor:
    """Means over even and odd places of the first axis, summed in float64."""
    means = [scores[half::2].mean(0, dtype=torch.float64) for half in (0, 1)]
    return torch.stack(means).to(scores.dtype)
