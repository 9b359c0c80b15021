"""The space of models between checkpoints: θ(v) = θ_before + v ∘ Δθ, and ∂L/∂v_p = ⟨g_p, Δθ_p⟩ for every group p.

Tensors are read one parameter at a time, and a gradient is contracted as soon as autograd has made it and then
dropped: beside the model that is evaluated, one parameter of each side is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch
from torch import Tensor

from crosstune.foundation.models import Part
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.groups import Directions, ParameterGroup, as_matrix, wide

CACHE_BYTES = 2**30  # changes are kept on the device while all of them need no more than this


class InterpolationSpace:
    """The models that coefficients of the groups of a change give, written into the work model of the endpoints.

    Args:
        groups: The groups of every parameter that differs, parameter by parameter.
        rows: Class of embedding rows → mask [V].
        directions: The singular directions of a part, where its groups have some.
    """

    def __init__(
        self,
        ends: Endpoints,
        groups: Sequence[ParameterGroup],
        *,
        rows: Mapping[str, Tensor],
        directions: Mapping[Part, Directions],
    ) -> None:
        self.ends = ends
        self.groups = tuple(groups)
        self._rows = rows
        self._directions = directions
        self._of: dict[str, list[tuple[int, ParameterGroup]]] = {
            name: list(numbered)
            for name, numbered in groupby(
                enumerate(self.groups), key=lambda item: item[1].part.parameter
            )
        }
        self._cache: dict[str, list[Tensor]] = {}
        self._cache_left = CACHE_BYTES

    @property
    def shape(self) -> tuple[int, int]:
        """Checkpoints after `before`, and groups: [J, P], the shape of every set of values."""
        return self.ends.count, len(self.groups)

    def place(self, values: Tensor, *, rounded: bool = False) -> None:
        """Write θ(v), v [J, P], into the work model; all zeros is `before` and all ones `after`, bit for bit.

        With several checkpoints, v_j leads from what the first j−1 gave towards checkpoint j (see `archive.shares`).
        Rounded is to the dtype in which `after` is stored, as a saved model is.
        """
        known = dict(self.ends.model.named_parameters())
        for name in self._of:
            parameter = known[name].data
            # In half precision a blend of several parts would be rounded more than once.
            dtype = torch.promote_types(parameter.dtype, torch.float32)
            value = self._blend(name, values, parameter.new_empty(0, dtype=dtype))
            if rounded:
                value = value.to(self.ends.dtype(name))
            parameter.copy_(value)

    def _blend(self, name: str, values: Tensor, like: Tensor) -> Tensor:
        blended = self._tensor(0, name, like)
        for end in range(1, self.ends.count + 1):
            stop = self._tensor(end, name, like)
            for at, group in self._of[name]:
                weight, part = float(values[end - 1, at]), group.elements
                view = part.take(blended)
                if group.direction >= 0:
                    continue
                if group.rows:
                    mask = self._rows[group.rows].to(like.device)
                    view[mask] = torch.lerp(view[mask], part.take(stop)[mask], weight)
                else:
                    # lerp meets both of its ends exactly, before + w Δ would miss `after` by a rounding
                    view.copy_(torch.lerp(view, part.take(stop), weight))
            for part, first, places in self._direction_places(name):
                chosen = values[end - 1][places] - values[end - 1][first]  # beyond the matrix's own
                if bool(chosen.any()):
                    view = part.take(blended)
                    view.add_(self._directions[part].combine(chosen).to(view).reshape(view.shape))
        return blended

    def _direction_places(self, name: str) -> Iterator[tuple[Part, int, list[int]]]:
        """Each part that has directions, the place of its first group and those of its directions."""
        for part, numbered in groupby(self._of[name], key=lambda item: item[1].part):
            places = list(numbered)
            directions = [at for at, group in places if group.direction >= 0]
            if directions:
                yield part, places[0][0], directions

    def _tensor(self, end: int, name: str, like: Tensor) -> Tensor:
        # A copy, because the endpoints may hand out the tensors they hold.
        return self.ends.tensor(end, name).to(like.device, like.dtype, copy=True)

    @contextmanager
    def contracting(self) -> Iterator[Tensor]:
        """Sums [J, P] (float64, CPU) of ⟨g_p, Δθ_p⟩ over every backward pass inside; zero them to begin anew.

        Enter it inside `evaluating`. Only the parameters that differ take part, and no gradient is kept.
        """
        inner = torch.zeros(self.shape, dtype=torch.float64)
        handles = []
        for name, parameter in self.ends.model.named_parameters():
            parameter.requires_grad_(name in self._of)
            if name in self._of:

                def contract(parameter: Tensor, name: str = name) -> None:
                    self._contract(name, parameter, inner)
                    parameter.grad = None

                handles.append(parameter.register_post_accumulate_grad_hook(contract))
        try:
            yield inner
        finally:
            for handle in handles:
                handle.remove()

    def _contract(self, name: str, parameter: Tensor, inner: Tensor) -> None:
        assert parameter.grad is not None  # the hook runs after it was accumulated
        gradient = wide(parameter.grad)  # products of half-precision numbers may be 0
        for end, delta in enumerate(self._deltas(name, gradient)):
            for at, group in self._of[name]:
                if group.direction < 0:
                    inner[end, at] += self._inner(group, gradient, delta).item()
            for part, first, places in self._direction_places(name):
                matrix = as_matrix(part.take(gradient))
                assert matrix is not None  # only matrices have directions
                along = self._directions[part].inner(matrix).cpu()
                inner[end, places] += along
                inner[end, first] -= along.sum()

    def _inner(self, group: ParameterGroup, gradient: Tensor, delta: Tensor) -> Tensor:
        products = group.elements.take(gradient) * group.elements.take(delta)
        if group.rows:
            products = products[self._rows[group.rows].to(products.device)]
        return products.sum(dtype=torch.float64)

    def _deltas(self, name: str, like: Tensor) -> list[Tensor]:
        """θ_j − θ_before of one parameter, cached on the device while there is space."""
        if name in self._cache:
            return self._cache[name]
        before = self._tensor(0, name, like)
        deltas = [self._tensor(end, name, like) - before for end in range(1, self.ends.count + 1)]
        needed = sum(delta.numel() * delta.element_size() for delta in deltas)
        if needed <= self._cache_left:
            self._cache_left -= needed
            self._cache[name] = deltas
        return deltas

    def count(self, group: ParameterGroup) -> int:
        """The number of elements that a group's coefficient scales; a direction scales all of its part."""
        count = group.elements.count
        if not group.rows:
            return count
        return count * int(self._rows[group.rows].sum()) // len(self._rows[group.rows])

    def measure(self) -> Tensor:
        """‖Δθ_p‖² [J, P] (float64) of each group's change against `before`; a direction's is also in its matrix's."""
        sizes = torch.zeros(self.shape, dtype=torch.float64)
        for name, groups in self._of.items():
            like = self.ends.tensor(0, name)
            wider = torch.empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
            before = self._tensor(0, name, wider)
            for end in range(1, self.ends.count + 1):
                delta = self._tensor(end, name, wider) - before
                for at, group in groups:
                    if group.direction < 0:
                        sizes[end - 1, at] = self._inner(group, delta, delta)
                    else:
                        directions = self._directions[group.part]
                        sizes[end - 1, at] = directions.left[:, group.direction].square().sum()
        return sizes
