"""Walking a chord: gradients of a reference's blocks at places between two states of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from crosstune.foundation import ranks
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.gradients.batched import Stack, block_gradients
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.models import Anatomy, weights_at
from crosstune.foundation.ranks.collectives import owned
from crosstune.interference.ledger.accounts import Reference
from crosstune.interference.ledger.quadrature import Booking, Point, Tolerance, integrate


def copy_weights(model: nn.Module, names: Sequence[str], device: str) -> dict[str, Tensor]:
    """A copy of the named parameters as they are kept, in their own dtype."""
    known = dict(model.named_parameters())
    return {
        name: known[name]
        .detach()
        .to(known[name].device if device == "model" else device, copy=True)
        for name in names
    }


class Chord:
    """The straight line between two states of the weights; make it inside `evaluating`."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor]) -> None:
        known = dict(model.named_parameters())
        self._model = model
        self._start = start
        self._stop = {name: known[name].detach() for name in start}
        self.delta = {
            name: _wide(stop) - _wide(start[name].to(stop.device))
            for name, stop in self._stop.items()
        }
        """Stop minus start, at least float32."""

    def at(self, place: float) -> AbstractContextManager[None]:
        """A place on the line, where the model stands inside the context.

        Returns:
            A context manager; both ends are met exactly.
        """
        if place == 1.0:
            return nullcontext()
        if place == 0.0:
            return weights_at(
                self._model,
                {name: value.to(self._stop[name]) for name, value in self._start.items()},
            )
        values = {
            name: (_wide(stop) - (1 - place) * self.delta[name]).to(stop.dtype)
            for name, stop in self._stop.items()
        }
        return weights_at(self._model, values)


@dataclass
class Walker:
    """Books chords of one model; keeps end gradients for the next chord where they fit.

    Attributes:
        anatomy: The sites of the parameters that training moves.
        names: Those parameters.
        gradients: How a block's gradient is evaluated.
        tolerance: When a chord is closed.
        max_panels: The most Simpson panels of a chord.
        keep: Whether the gradients at a chord's end are kept as those at the next one's start.
    """

    anatomy: Anatomy
    names: tuple[str, ...]
    gradients: GradientSettings
    tolerance: Tolerance
    max_panels: int
    keep: bool
    _kept: dict[tuple[str, str], list[Stack]] = field(default_factory=dict)

    def walk(self, model: nn.Module, chord: Chord, reference: Reference) -> tuple[Booking, int]:
        """Book one reference's change over one chord; the same bits on every process.

        Returns:
            The booking, closed or not, and how often the reference's gradients were evaluated.
        """
        saved = int(reference.key in self._kept)

        def point(place: float) -> Point:
            if place == 0.0 and saved:
                return self._point(chord, reference, self._kept.pop(reference.key))
            with chord.at(place):
                return self._point(chord, reference, self._gradients(model, reference, place))

        booking = integrate(point, self.tolerance, max_panels=self.max_panels)
        return booking, booking.evaluations - saved

    def _gradients(self, model: nn.Module, reference: Reference, place: float) -> Iterator[Stack]:
        """This process's block gradients, some at a time; the stop's are kept for the next chord."""
        blocks = reference.blocks
        for stack in block_gradients(model, blocks, owned(len(blocks)), self.names, self.gradients):
            if self.keep and place == 1.0:
                self._kept.setdefault(reference.key, []).append(stack)
            yield stack

    def _point(self, chord: Chord, reference: Reference, stacks: Iterable[Stack]) -> Point:
        blocks, sites = reference.blocks, len(self.anatomy.sites)
        found = torch.zeros(len(blocks), 1 + sites, dtype=torch.float64)
        for stack in stacks:
            places = list(stack.places)
            for place, nats in zip(places, stack.nats, strict=True):
                found[place, 0] = nats / blocks[place].expected_tokens
            found[places, 1:] = self.anatomy.inner_many(stack.gradients, chord.delta)
        # Every row is one process's own, so the sum over processes is exact.
        found = ranks.sum_over_ranks(found)
        _check_finite(found, reference)
        return Point(found[:, 0], found[:, 1:])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_finite(found: Tensor, reference: Reference) -> None:
    finite = found.isfinite().all(dim=1)
    if not finite.all():
        block = int((~finite).nonzero()[0])
        raise MeasurementError(
            str(reference),
            law="must have a finite loss and gradient at every place between two states",
            found=f"NaN or infinity in block {block}",
            remedy="The training has probably diverged: check its loss, or lower the learning rate.",
        )
