"""Independent pairs: each sample's mean score with the independent samples of its own task, and of the other.

A signed or symmetric score is an inner product under one D for all samples, so that its mean over pairs of two tasks is that of their
mean gradients (or mean magnitudes), and so is its mean over pairs within one task. Pairs of samples of one unit (one sample, one group,
one text) are left out of both: they share their noise. No pair is formed for it. With S the sum of all gradients of a task and S_u that
of those of sample i's unit, the mean score of i with independent samples is g_iᵀ D⁻¹ (S − S_u) / (n − n_u).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from crosstune.circuits.scoring.tiles import BlockFactors, by_head
from crosstune.circuits.scoring.variants import Normaliser
from crosstune.circuits.settings import Form

GATHERED = 16
"""Pairs of samples of two tasks but one unit that are gone over at once."""
_SAME_OF_BOTH = ("signed", "symmetric")
_SAMPLE_LEFT_OUT = ("held_out", "leave_one_out")
_A, _B = 0, 1


@dataclass(frozen=True)
class IndependentMeans:
    """Each sample's mean score with independent samples: A's with A's, B's with B's, A's with B's, B's with A's; NaN over none.

    Shapes: within_a, across_a [nA, heads]; within_b, across_b [nB, heads]; on the CPU.
    """

    within_a: Tensor
    within_b: Tensor
    across_a: Tensor
    across_b: Tensor


class IndependentSums:
    """The sums of one block, for those forms of the averages that measure pairs within a task."""

    def __init__(
        self, averages: Sequence[Form], factors: tuple[BlockFactors, BlockFactors]
    ) -> None:
        self.forms = tuple(form for form in averages if has_within_task(form))
        self._places = tuple(one.places for one in factors)
        self._groups = tuple(one.groups for one in factors)
        self._dependent = tuple(_dependent_pairs(*factors)) if self.forms else ()
        a, b = (one.units for one in factors)
        self._counts = (
            (independent_counts(a, a), independent_counts(b, b)),
            (independent_counts(a, b), independent_counts(b, a)),
        )
        self._squared = {form.fisher: form.variant for form in reversed(self.forms)}
        sizes = [(one.heads, one.count) for one in factors]
        self._itself = {
            (fisher, task): factors[task].new_zeros(*sizes[task])
            for fisher in self._squared
            for task in (_A, _B)
        }
        self._within, self._across = (
            {
                (form, task): factors[task].new_zeros(*sizes[task])
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
        """Add some features of some heads to the forms of a variant.

        Shapes:
            tiles: [nA, heads, features, d] and [nB, heads, features, d], gradients of A and of B or, for `symmetric`, magnitudes.
            spare: memory for either, one after the other; A's may be the tile's own.
        """
        forms = [form for form in self.forms if form.variant == variant]
        heads, features = place
        a, b = values = [by_head(tile) for tile in tiles]
        for form in forms:
            weights = _weights(form, features, normalisers)
            sums = [weights * _sum(side) for side in values]
            for task, other in ((_A, _B), (_B, _A)):
                self._within[form, task][heads] += _products(values[task], sums[task])
                self._across[form, task][heads] += _products(values[task], sums[other])
                for group in self._groups[task]:
                    members = values[task][:, group]
                    found = _products(members, weights * _sum(members))
                    self._within[form, task][heads, group] -= found
            for of_a, of_b in self._dependent:
                found = _products(a[:, of_a] * b[:, of_b], weights)
                self._across[form, _A][heads].index_add_(1, of_a, found, alpha=-1)
                self._across[form, _B][heads].index_add_(1, of_b, found, alpha=-1)
        # Squares have no sign: a sample's signed score with itself is that of its magnitudes.
        for form in (one for one in forms if self._squared[one.fisher] == variant):
            for task in (_A, _B):
                squares = by_head(torch.mul(tiles[task], tiles[task], out=spare[task]))
                found = _products(squares, _weights(form, features, normalisers))
                self._itself[form.fisher, task][heads] += found

    def means(self) -> dict[Form, IndependentMeans]:
        """The means over what was added, by form."""
        found = {}
        for form in self.forms:
            within = [self._within[form, t] - self._alone(form.fisher, t) for t in (_A, _B)]
            across = [self._across[form, task] for task in (_A, _B)]
            means = [
                self._mean(sums[task], counts[task], task)
                for sums, counts in zip((within, across), self._counts, strict=True)
                for task in (_A, _B)
            ]
            found[form] = IndependentMeans(*means)
        return found

    def _alone(self, fisher: str, task: int) -> Tensor:
        """Each sample's score with itself; 0 for those that were left out with their group."""
        found = self._itself[fisher, task].clone()
        for group in self._groups[task]:
            found[:, group] = 0.0
        return found

    def _mean(self, sums: Tensor, counts: Tensor, task: int) -> Tensor:
        """By sample, [n, heads]."""
        found = sums.cpu()[:, self._places[task]].T
        return torch.where(counts[:, None] > 0, found / counts[:, None], torch.nan)


def has_within_task(form: Form) -> bool:
    """Whether pairs within a task are measured under a form: one D for all samples, and the same taken of both."""
    return form.variant in _SAME_OF_BOTH and form.fisher not in _SAMPLE_LEFT_OUT


def independent_counts(units: Sequence[str], of: Sequence[str]) -> Tensor:
    """How many samples of a task are independent of each of these."""
    same = Counter(of)
    return torch.tensor([len(of) - same[unit] for unit in units])


def _weights(form: Form, features: slice, normalisers: Mapping[str, Normaliser]) -> Tensor:
    """1 / D of some features, [heads, features × d]."""
    inverse = normalisers[form.fisher].inverse
    assert inverse is not None
    return inverse[0, :, features].flatten(1)


def _dependent_pairs(a: BlockFactors, b: BlockFactors) -> Iterator[tuple[Tensor, Tensor]]:
    """The positions of the samples of each pair of two tasks but one unit, some at once."""
    of_b = b.members
    pairs = [pair for unit, of_a in a.members.items() for pair in product(of_a, of_b.get(unit, ()))]
    for start in range(0, len(pairs), GATHERED):
        first, second = torch.tensor(pairs[start : start + GATHERED], device=a.device).T
        yield first, second


def _products(values: Tensor, other: Tensor) -> Tensor:
    """Inner products [heads, n] of values [heads, n, k] with one of [heads, k]."""
    return torch.bmm(other[:, None], values.mT)[:, 0]  # the other way round is ten times slower


def _sum(values: Tensor) -> Tensor:
    """Sums over the samples of [heads, n, k], as a product, which is faster."""
    return torch.bmm(values.new_ones(len(values), 1, values.shape[1]), values)[:, 0]
