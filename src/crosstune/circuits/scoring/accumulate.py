"""Tally: scores, averages and norms of one block, added up piece by piece of the slices.

Own: what a sample shares with the other samples of its own task, the measure of what it shares with another task's.

A signed or symmetric score is an inner product under one D for all samples, so that its mean over pairs of two tasks is that of their
mean gradients (or mean magnitudes), and so is its mean over pairs within one task. Pairs of samples that were drawn together are left
out of both: they share their noise. No pair is formed for it. With S the sum of all gradients of a task and S_u that of those of sample
i's unit (itself, its group, its text), the mean score of i with the samples that were drawn apart is g_iᵀ D⁻¹ (S − S_u) / (n − n_u).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

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

SYMMETRICAL = ("signed", "symmetric")
"""Variants that take of both samples the same, so that a task can meet itself."""
GATHERED = 16
"""Pairs of samples of two tasks that were drawn together, and are gone over at once."""
_SAMPLE_LEFT_OUT = ("held_out", "leave_one_out")
_A, _B = 0, 1


@dataclass(frozen=True)
class Apart:
    """Each sample's mean score with the samples that were drawn apart from it; NaN where there are none.

    Shapes: own_a, across_a [nA, heads]; own_b, across_b [nB, heads]; on the CPU.

    Attributes:
        own_a: A's samples with those of A.
        own_b: B's samples with those of B.
        across_a: A's samples with those of B.
        across_b: B's samples with those of A.
    """

    own_a: Tensor
    own_b: Tensor
    across_a: Tensor
    across_b: Tensor


class Own:
    """The sums of one block.

    Args:
        averages: Forms of the averages, of which those that can be are measured.
    """

    def __init__(self, averages: Sequence[Form], sources: tuple[Source, Source]) -> None:
        self.forms = tuple(form for form in averages if has_own(form))
        self._places = tuple(source.places for source in sources)
        self._mates = tuple(source.mates for source in sources)
        self._across = tuple(_together(*sources)) if self.forms else ()
        counts = [source.count for source in sources]
        self._others = [strangers(source.units, source.units) for source in sources]
        self._strangers = [
            strangers(one.units, other.units) for one, other in (sources, sources[::-1])
        ]
        self._squared = {form.fisher: form.variant for form in reversed(self.forms)}
        self._itself = {
            (fisher, task): sources[task].new_zeros(sources[task].heads, counts[task])
            for fisher in self._squared
            for task in (_A, _B)
        }
        self._own, self._strange = (
            {
                (form, task): sources[task].new_zeros(sources[task].heads, counts[task])
                for form in self.forms
                for task in (_A, _B)
            }
            for _ in range(2)
        )

    def add(
        self,
        variant: str,
        tiles: tuple[Tensor, Tensor],
        spare: tuple[Tensor, Tensor],
        place: tuple[slice, slice],
        normalisers: Mapping[str, Normaliser],
    ) -> None:
        """Add a piece of the slices to the forms of a variant.

        Shapes:
            tiles, spare: [nA, heads, features, d] and [nB, heads, features, d].

        Args:
            tiles: Gradients of A and of B, or for `symmetric` their magnitudes.
            spare: Room for either, one after the other; A's may be the tile's own.
        """
        forms = [form for form in self.forms if form.variant == variant]
        heads, features = place
        a, b = values = [by_head(tile) for tile in tiles]
        for form in forms:
            weights = _weights(form, features, normalisers)
            sums = [weights * _sum(side) for side in values]
            for task, other in ((_A, _B), (_B, _A)):
                self._own[form, task][heads] += _met(values[task], sums[task])
                self._strange[form, task][heads] += _met(values[task], sums[other])
                for mates in self._mates[task]:
                    theirs = values[task][:, mates]
                    met = _met(theirs, weights * _sum(theirs))
                    self._own[form, task][heads, mates] -= met
            for of_a, of_b in self._across:
                met = _met(a[:, of_a] * b[:, of_b], weights)
                self._strange[form, _A][heads].index_add_(1, of_a, met, alpha=-1)
                self._strange[form, _B][heads].index_add_(1, of_b, met, alpha=-1)
        # Squares have no sign: what signed samples share with themselves is what their magnitudes do.
        for form in (one for one in forms if self._squared[one.fisher] == variant):
            for task in (_A, _B):
                squares = by_head(torch.mul(tiles[task], tiles[task], out=spare[task]))
                met = _met(squares, _weights(form, features, normalisers))
                self._itself[form.fisher, task][heads] += met

    def means(self) -> dict[Form, Apart]:
        """The means over what was added, by form."""
        found = {}
        for form in self.forms:
            own = [self._own[form, task] - self._alone(form.fisher, task) for task in (_A, _B)]
            strange = [self._strange[form, task] for task in (_A, _B)]
            sides = [
                self._mean(sums, others, task)
                for kept, counts in ((own, self._others), (strange, self._strangers))
                for task, (sums, others) in enumerate(zip(kept, counts, strict=True))
            ]
            found[form] = Apart(*sides)
        return found

    def _alone(self, fisher: str, task: int) -> Tensor:
        """What each sample shares with itself; 0 for those that went with the others of their unit."""
        found = self._itself[fisher, task].clone()
        for mates in self._mates[task]:
            found[:, mates] = 0.0
        return found

    def _mean(self, sums: Tensor, others: Tensor, task: int) -> Tensor:
        """By sample, [n, heads]."""
        found = sums.cpu()[:, self._places[task]].T
        return torch.where(others[:, None] > 0, found / others[:, None], torch.nan)


def has_own(form: Form) -> bool:
    """Whether a task can meet itself under a form: one D for all samples, and the same taken of both."""
    return form.variant in SYMMETRICAL and form.fisher not in _SAMPLE_LEFT_OUT


def strangers(units: Sequence[str], of: Sequence[str]) -> Tensor:
    """How many samples of a task were drawn apart from each of these."""
    together = Counter(of)
    return torch.tensor([len(of) - together[unit] for unit in units])


def _weights(form: Form, features: slice, normalisers: Mapping[str, Normaliser]) -> Tensor:
    """1 / D of some features, [heads, features × d]."""
    inverse = normalisers[form.fisher].inverse
    assert inverse is not None
    return inverse[0, :, features].flatten(1)


def _together(a: Source, b: Source) -> Iterator[tuple[Tensor, Tensor]]:
    """The positions of the samples of each pair of two tasks that was drawn together, some at once."""
    theirs = b.members
    pairs = [
        pair for unit, ours in a.members.items() for pair in product(ours, theirs.get(unit, ()))
    ]
    for start in range(0, len(pairs), GATHERED):
        of_a, of_b = torch.tensor(pairs[start : start + GATHERED], device=a.device).T
        yield of_a, of_b


def _met(values: Tensor, other: Tensor) -> Tensor:
    """Inner products [heads, n] of values [heads, n, k] with one of [heads, k]."""
    return torch.bmm(other[:, None], values.mT)[:, 0]  # the other way round is ten times slower


def _sum(values: Tensor) -> Tensor:
    """Sums over the samples of [heads, n, k], as a product, which is faster."""
    return torch.bmm(values.new_ones(len(values), 1, values.shape[1]), values)[:, 0]


def by_head(tile: Tensor) -> Tensor:
    """The view [heads, n, features × d] of a tile."""
    return tile.transpose(0, 1).flatten(2)


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
