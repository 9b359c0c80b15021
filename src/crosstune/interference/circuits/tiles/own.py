"""Own: what a sample shares with the other samples of its own task, the measure of what it shares with another task's.

A signed or symmetric score is an inner product under one D for all samples, so that its mean over pairs of two tasks is that of their
mean gradients (or mean magnitudes), and so is its mean over pairs within one task, once pairs of samples that were drawn together
are left out: they share their noise. No pair is formed for it. With S the sum of all gradients of the task and S_u that of sample i's
unit (itself, or its group), the mean score of i with the others is g_iᵀ D⁻¹ (S − S_u) / (n − n_u).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crosstune.interference.circuits.settings import Form
from crosstune.interference.circuits.tiles.building import Source
from crosstune.interference.circuits.tiles.variants import Normaliser

SYMMETRICAL = ("signed", "symmetric")
"""Variants that take of both samples the same, so that a task can meet itself."""
_SAMPLE_LEFT_OUT = ("held_out", "leave_one_out")


class Own:
    """The sums of one block.

    Args:
        averages: Forms of the averages, of which those that can be are measured.
        sources: Factors of A and of B.
    """

    def __init__(self, averages: Sequence[Form], sources: tuple[Source, Source]) -> None:
        self.forms = tuple(form for form in averages if has_own(form))
        self._places = tuple(source.places for source in sources)
        self._mates = tuple(source.mates for source in sources)
        self._sums = {
            (form, task): source.new_zeros(source.heads, source.count)
            for form in self.forms
            for task, source in enumerate(sources)
        }

    def add(
        self,
        variant: str,
        task: int,
        tile: Tensor,
        spare: Tensor,
        place: tuple[slice, slice],
        normalisers: Mapping[str, Normaliser],
    ) -> None:
        """Add a piece of the slices to the forms of a variant.

        Shapes:
            tile, spare: [n, heads, features, d].

        Args:
            variant: signed or symmetric.
            task: 0 for A, 1 for B.
            tile: Gradients of the task, or for `symmetric` their magnitudes.
            spare: Room, which may be the tile's own.
            place: Which heads and features.
            normalisers: 1 / D by kind of Fisher.
        """
        forms = [form for form in self.forms if form.variant == variant]
        heads, features = place
        values = by_head(tile)
        weights, alone = {}, {}
        for form in forms:
            inverse = normalisers[form.fisher].inverse
            assert inverse is not None
            weights[form] = inverse[0, :, features].flatten(1)
            self._sums[form, task][heads] += _met(values, weights[form] * _sum(values))
            alone[form] = [
                _met(values[:, mates], weights[form] * _sum(values[:, mates]))
                for mates in self._mates[task]
            ]
        squares = by_head(torch.mul(tile, tile, out=spare)) if forms else values
        for form in forms:
            own = _met(squares, weights[form])
            for mates, theirs in zip(self._mates[task], alone[form], strict=True):
                own[:, mates] = theirs
            self._sums[form, task][heads] -= own

    def means(self) -> dict[Form, tuple[Tensor, Tensor]]:
        """Each sample's mean score with the samples of its task that were drawn apart from it.

        Returns:
            [nA, heads] and [nB, heads] by form, on the CPU; NaN where there are none.
        """
        return {form: (self._mean(form, 0), self._mean(form, 1)) for form in self.forms}

    def _mean(self, form: Form, task: int) -> Tensor:
        sums = self._sums[form, task].cpu()
        others = sums.new_full(sums.shape[1:], float(sums.shape[1]))
        others -= 1
        for mates in self._mates[task]:
            others[mates.cpu()] -= len(mates) - 1
        means = torch.where(others > 0, sums / others, torch.nan)
        return means[:, self._places[task]].T


def has_own(form: Form) -> bool:
    """Whether a task can meet itself under a form: one D for all samples, and the same taken of both."""
    return form.variant in SYMMETRICAL and form.fisher not in _SAMPLE_LEFT_OUT


def _met(values: Tensor, other: Tensor) -> Tensor:
    """Inner products [heads, n] of values [heads, n, k] with one of [heads, k]."""
    return torch.bmm(other[:, None], values.mT)[:, 0]  # the other way round is ten times slower


def _sum(values: Tensor) -> Tensor:
    """Sums over the samples of [heads, n, k], as a product, which is faster."""
    return torch.bmm(values.new_ones(len(values), 1, values.shape[1]), values)[:, 0]


def by_head(tile: Tensor) -> Tensor:
    """The view [heads, n, features × d] of a tile."""
    return tile.transpose(0, 1).flatten(2)
