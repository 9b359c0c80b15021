"""The box of models between checkpoints: θ(v) = θ_before + v ∘ Δθ, and ∂L/∂v_p = ⟨g_p, Δθ_p⟩ for every piece p.

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
from crosstune.merging.checkpoints.endpoints import Ends
from crosstune.merging.directions import Directions, as_matrix, wide
from crosstune.merging.groups import Piece

KEEP_BYTES = 2**30  # changes are kept on the device while all of them need no more than this


class Box:
    """The models that coefficients of the pieces of a change give, written into the work model of the ends.

    Args:
        ends: The checkpoints.
        pieces: The pieces of every parameter that differs, parameter by parameter.
        rows: Class of embedding rows → mask [V].
        directions: The singular directions of a part, where its pieces have some.
    """

    def __init__(
        self,
        ends: Ends,
        pieces: Sequence[Piece],
        *,
        rows: Mapping[str, Tensor],
        directions: Mapping[Part, Directions],
    ) -> None:
        self.ends = ends
        self.pieces = tuple(pieces)
        self._rows = rows
        self._directions = directions
        numbered = list(enumerate(self.pieces))
        self._of: dict[str, list[tuple[int, Piece]]] = {
            name: list(group)
            for name, group in groupby(numbered, key=lambda item: item[1].part.parameter)
        }
        self._kept: dict[str, list[Tensor]] = {}
        self._room = KEEP_BYTES

    @property
    def shape(self) -> tuple[int, int]:
        """Ends after `before`, and pieces: [J, P], the shape of every set of values."""
        return self.ends.count, len(self.pieces)

    def place(self, values: Tensor, *, rounded: bool = False) -> None:
        """Write θ(v) into the work model; all zeros is `before` and all ones `after`, bit for bit.

        With several ends, v_j leads from what the first j−1 ends gave towards end j (see `soup`).

        Shapes:
            values: [J, P], the coefficient of each piece.

        Args:
            values: The pieces' values.
            rounded: Round to the dtype in which `after` is stored, as a saved model is.
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
            for at, piece in self._of[name]:
                weight, part = float(values[end - 1, at]), piece.elements
                view = part.take(blended)
                if piece.direction >= 0:
                    continue
                if piece.rows:
                    mask = self._rows[piece.rows].to(like.device)
                    view[mask] = torch.lerp(view[mask], part.take(stop)[mask], weight)
                else:
                    # lerp meets both of its ends exactly, before + w Δ would miss `after` by a rounding
                    view.copy_(torch.lerp(view, part.take(stop), weight))
            self._add_directions(name, values[end - 1], blended)
        return blended

    def _add_directions(self, name: str, values: Tensor, blended: Tensor) -> None:
        for part, first, places in self._direction_places(name):
            chosen = values[places] - values[first]  # the matrix itself moved by its first piece's
            if bool(chosen.any()):
                view = part.take(blended)
                view.add_(self._directions[part].combine(chosen).to(view).reshape(view.shape))

    def _direction_places(self, name: str) -> Iterator[tuple[Part, int, list[int]]]:
        """Each part that has directions, the place of its first piece and those of its directions."""
        for part, group in groupby(self._of[name], key=lambda item: item[1].part):
            places = list(group)
            directions = [at for at, piece in places if piece.direction >= 0]
            if directions:
                yield part, places[0][0], directions

    def _tensor(self, end: int, name: str, like: Tensor) -> Tensor:
        # A copy, because the ends may hand out the tensors they keep.
        return self.ends.tensor(end, name).to(like.device, like.dtype, copy=True)

    @contextmanager
    def contracting(self) -> Iterator[Tensor]:
        """Add up ⟨g_p, Δθ_p⟩ of every backward pass inside; enter it inside `evaluating`.

        Only the parameters that differ take part in backward passes, and no gradient is kept.

        Yields:
            [J, P] float64 on the CPU: the inner products so far; zero it to begin anew.
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
            for at, piece in self._of[name]:
                if piece.direction < 0:
                    inner[end, at] += self._inner(piece, gradient, delta).item()
            for part, first, places in self._direction_places(name):
                matrix = as_matrix(part.take(gradient))
                assert matrix is not None  # only matrices have directions
                along = self._directions[part].inner(matrix).cpu()
                inner[end, places] += along
                inner[end, first] -= along.sum()

    def _inner(self, piece: Piece, gradient: Tensor, delta: Tensor) -> Tensor:
        products = piece.elements.take(gradient) * piece.elements.take(delta)
        if piece.rows:
            products = products[self._rows[piece.rows].to(products.device)]
        return products.sum(dtype=torch.float64)

    def _deltas(self, name: str, like: Tensor) -> list[Tensor]:
        """θ_j − θ_before of one parameter, kept on the device where there is room."""
        if name in self._kept:
            return self._kept[name]
        before = self._tensor(0, name, like)
        deltas = [self._tensor(end, name, like) - before for end in range(1, self.ends.count + 1)]
        needed = sum(delta.numel() * delta.element_size() for delta in deltas)
        if needed <= self._room:
            self._room -= needed
            self._kept[name] = deltas
        return deltas

    def count(self, piece: Piece) -> int:
        """The number of elements that a piece's coefficient scales; a direction scales all of its part."""
        count = piece.elements.count
        if not piece.rows:
            return count
        return count * int(self._rows[piece.rows].sum()) // len(self._rows[piece.rows])

    def measure(self) -> Tensor:
        """The squared size ‖Δθ_p‖² of each piece's change against `before`; a direction's is also in its matrix's.

        Returns:
            [J, P] float64.
        """
        sizes = torch.zeros(self.shape, dtype=torch.float64)
        for name, pieces in self._of.items():
            like = self.ends.tensor(0, name)
            wide = torch.empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
            before = self._tensor(0, name, wide)
            for end in range(1, self.ends.count + 1):
                delta = self._tensor(end, name, wide) - before
                for at, piece in pieces:
                    if piece.direction < 0:
                        sizes[end - 1, at] = self._inner(piece, delta, delta)
                    else:
                        directions = self._directions[piece.part]
                        sizes[end - 1, at] = directions.left[:, piece.direction].square().sum()
        return sizes
