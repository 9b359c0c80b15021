"""The contributions of one segment: gradients of a reference's blocks at points between two states of the weights."""

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
from crosstune.interference.ledger.quadrature import (
    PathPoint,
    SegmentContributions,
    Tolerance,
    integrate,
)


def copy_weights(model: nn.Module, names: Sequence[str], device: str) -> dict[str, Tensor]:
    """A copy of the named parameters in their own dtype, on a device or where the model is."""
    known = dict(model.named_parameters())
    there = None if device == "model" else device
    return {name: known[name].detach().to(device=there, copy=True) for name in names}


class WeightSegment:
    """The straight line between two states of the weights, the second of which the model is in; make it inside `evaluating`."""

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

    def at(self, t: float) -> AbstractContextManager[None]:
        """A context in which the model has the weights start + t · (stop − start); both ends are met exactly."""
        if t == 1.0:
            return nullcontext()
        values = {
            name: self._start[name].to(stop)
            if t == 0.0
            else (_wide(stop) - (1 - t) * self.delta[name]).to(stop.dtype)
            for name, stop in self._stop.items()
        }
        return weights_at(self._model, values)


@dataclass
class Integrator:
    """Integrates over segments of one training; with `keep`, gradients at a segment's end serve as the next one's start."""

    anatomy: Anatomy
    names: tuple[str, ...]
    gradients: GradientSettings
    tolerance: Tolerance
    max_panels: int
    keep: bool
    _kept: dict[tuple[str, str], list[Stack]] = field(default_factory=dict)

    def integrate(
        self, model: nn.Module, segment: WeightSegment, reference: Reference
    ) -> tuple[SegmentContributions, int]:
        """The contributions to one reference's loss change, closed or not, and how often its gradients were evaluated."""
        saved = int(reference.key in self._kept)

        def point(t: float) -> PathPoint:
            if t == 0.0 and saved:
                return self._point(segment, reference, self._kept.pop(reference.key))
            with segment.at(t):
                return self._point(segment, reference, self._gradients(model, reference, t))

        found = integrate(point, self.tolerance, max_panels=self.max_panels)
        return found, found.evaluations - saved

    def _gradients(self, model: nn.Module, reference: Reference, t: float) -> Iterator[Stack]:
        """This process's block gradients, some at a time."""
        blocks = reference.blocks
        for stack in block_gradients(model, blocks, owned(len(blocks)), self.names, self.gradients):
            if self.keep and t == 1.0:
                self._kept.setdefault(reference.key, []).append(stack)
            yield stack

    def _point(
        self, segment: WeightSegment, reference: Reference, stacks: Iterable[Stack]
    ) -> PathPoint:
        blocks, sites = reference.blocks, len(self.anatomy.sites)
        found = torch.zeros(len(blocks), 1 + sites, dtype=torch.float64)
        for stack in stacks:
            places = list(stack.places)
            for place, nats in zip(places, stack.nats, strict=True):
                found[place, 0] = nats / blocks[place].expected_tokens
            found[places, 1:] = self.anatomy.inner_many(stack.gradients, segment.delta)
        # Each row is computed by one process alone, so the sum over processes is exact.
        found = ranks.sum_over_ranks(found)
        broken = (~found.isfinite().all(dim=1)).nonzero()
        if len(broken):
            raise MeasurementError(
                str(reference),
                law="must have a finite loss and gradient at every point between two states",
                found=f"NaN or infinity in block {int(broken[0])}",
                remedy="The training has probably diverged: check its loss, or lower the learning rate.",
            )
        return PathPoint(found[:, 0], found[:, 1:])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
