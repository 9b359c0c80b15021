"""Parameter groups: the smallest parts of a change Δθ that may have a coefficient, and granularities that tie them together.

Every granularity is a matrix M [P, S] from its S coordinates u to the coefficients of the P groups: v = M u. A
singular direction, Δθ ≈ Σ_i σ_i u_i v_iᵀ, has its matrix's coefficient, except where the granularity gives it its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from crosstune.foundation.models import Anatomy, Part, Site
from crosstune.foundation.seeds import Seeds

EMBEDDINGS = ("embed", "head", "embed+head")


@dataclass(frozen=True)
class ParameterGroup:
    """Elements, rows, one head or one direction of a parameter's change.

    Attributes:
        part: Which elements of which parameter; a component's, through all of which its singular directions run.
        rows: The class of embedding rows (`new`, `both`, `old`, `neither`), or empty for all elements.
        direction: The place of a singular direction, or −1 for the elements themselves.
        head: Those elements of the part that are one attention head's, or None for all.
        kv_head: The key-value head that serves this head, or is it; −1 without a head.
    """

    part: Part
    rows: str = ""
    direction: int = -1
    head: Part | None = None
    kv_head: int = -1

    @property
    def elements(self) -> Part:
        """What its coefficient scales; of these only its rows, where it has a class of them."""
        return self.head or self.part

    @property
    def site(self) -> Site:
        """The component or head it belongs to; an adapter counts as the component it adapts."""
        return replace(self.elements.site, factor=None, adapter=None)


@dataclass(frozen=True)
class Coordinates:
    """A granularity on given groups: its name and M [P, S], from coordinates to groups."""

    name: str
    matrix: np.ndarray

    @property
    def count(self) -> int:
        """The number of coordinates, S."""
        return int(self.matrix.shape[1])

    def project(self, values: np.ndarray) -> np.ndarray | None:
        """The coordinates [..., S] that give these coefficients [..., P], or None where none do."""
        found = np.linalg.lstsq(self.matrix, values.T, rcond=None)[0].T
        near = np.allclose(found @ self.matrix.T, values, rtol=0.0, atol=1e-9)
        return found if near else None


def parameter_groups(
    anatomy: Anatomy,
    names: Sequence[str],
    *,
    rows: Mapping[str, Tensor],
    directions: Mapping[Part, int],
    heads: bool = False,
) -> tuple[ParameterGroup, ...]:
    """The groups of the named parameters, in their order, each part's elements before its singular directions.

    Embeddings are cut by the classes of `rows` (masks [V]), and with `heads` attention by head: queries and the output
    projection by query head, keys and values by theirs.
    """
    fine = anatomy.by_head() if heads else None
    found: list[ParameterGroup] = []
    for name in names:
        for part in anatomy.parts_of(name):
            by_row = part.site.component in EMBEDDINGS and part.site.factor is None
            classes = [ParameterGroup(part, rows=kind) for kind in rows if by_row]
            found += classes or ([ParameterGroup(part)] if fine is None else _by_head(part, fine))
            count = directions.get(part, 0)
            found += [ParameterGroup(part, direction=at) for at in range(count)]
    return tuple(found)


def _by_head(part: Part, fine: Anatomy) -> list[ParameterGroup]:
    """One group a head, or the part itself where its elements belong to no head."""
    sharing = fine.heads.num_heads // fine.heads.num_kv_heads
    found = []
    for own in fine.parts_of(part.parameter):
        head, kv_head = own.site.head, own.site.kv_head
        if own.site != part.site and own.site.whole == part.site:
            serving = kv_head if head is None else head // sharing
            assert serving is not None  # what is no whole is a head of one kind or the other
            found.append(ParameterGroup(part, head=own, kv_head=serving))
    return found or [ParameterGroup(part)]


def row_classes(learned: set[int], forgotten: set[int], size: int) -> dict[str, Tensor]:
    """Embedding rows by the tasks that use them: `new`, `both`, `old`, `neither` → mask [V]; none is empty."""
    new, old = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    new[sorted(learned)] = True
    old[sorted(forgotten)] = True
    masks = {"new": new & ~old, "both": new & old, "old": old & ~new, "neither": ~(new | old)}
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def coordinates(name: str, groups: Sequence[ParameterGroup], layers: int) -> Coordinates:
    """The granularity of that name."""
    if name == "ramp":
        depth = np.array([_depth(group.site, layers) for group in groups])
        return Coordinates(name, np.stack([1.0 - depth, depth], axis=1))
    labels = [_TIES[name](group if name == "singular" else leader) for group, leader in led(groups)]
    places = {label: at for at, label in enumerate(dict.fromkeys(labels))}
    matrix = np.zeros((len(groups), len(places)))
    matrix[np.arange(len(groups)), [places[label] for label in labels]] = 1.0
    return Coordinates(name, matrix)


def led(groups: Sequence[ParameterGroup]) -> Iterator[tuple[ParameterGroup, ParameterGroup]]:
    """Each group and the one from whose coefficient its own is counted: of a direction its part's first, else itself."""
    leader = None
    for group in groups:
        if leader is None or leader.part != group.part:
            leader = group
        yield group, leader if group.direction >= 0 else group


def _depth(site: Site, layers: int) -> float:
    """0 at the first block and the embeddings, 1 at the last block, the final norm and the head.

    Source: LiNeS (Wang et al. 2024): the change of block l is scaled linearly in l. Both ends are free here.
    """
    if site.layer is None:
        return 0.0 if site.component.startswith("embed") else 1.0
    return site.layer / max(1, layers - 1)


def _component(group: ParameterGroup) -> tuple[object, ...]:
    return (group.site.layer, group.site.component)


_TIES: dict[str, Callable[[ParameterGroup], object]] = {
    "global": lambda group: (),
    "layer": lambda group: (
        group.site.layer,
        "" if group.site.layer is not None else group.site.component,
    ),
    "component": _component,
    "expert": lambda group: (*_component(group), group.site.expert),
    "tensor": lambda group: (group.part.parameter, group.part.cuts),
    "embedding_rows": lambda group: (*_component(group), group.rows),
    "kv_head": lambda group: (*_component(group), group.kv_head),
    "head": lambda group: (*_component(group), group.site.head, group.site.kv_head),
    "singular": lambda group: (group.part.parameter, group.part.cuts, group.direction),
}


_EXACT = 1024  # up to this many rows or columns a full decomposition is a matter of a second
_OVERSAMPLE = 8


@dataclass(frozen=True)
class Directions:
    """Rank-one parts of a matrix-shaped change.

    Shapes:
        left: [rows, R], the singular values folded in; right: [columns, R].
    """

    left: Tensor
    right: Tensor

    @property
    def count(self) -> int:
        """The number of directions, R."""
        return int(self.left.shape[1])

    def combine(self, values: Tensor) -> Tensor:
        """Return Σ_i values_i σ_i u_i v_iᵀ, [rows, columns]."""
        return (self.left * values.to(self.left)) @ self.right.T

    def inner(self, gradient: Tensor) -> Tensor:
        """Return σ_i u_iᵀ G v_i of each direction, [R] float64."""
        projected = gradient @ self.right.to(gradient)
        return (projected.double() * self.left.to(gradient).double()).sum(dim=0)


def as_matrix(view: Tensor) -> Tensor | None:
    """A part's elements as a matrix, or None where they are a vector."""
    squeezed = view.squeeze()
    return squeezed.reshape(-1, squeezed.shape[-1]) if squeezed.dim() > 1 else None


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is so kept."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def leading(part: Part, delta: Tensor, count: int) -> Directions | None:
    """The leading directions of one part of a parameter's change; those of a LoRA factor are its own.

    A column of B, or a row of A, makes a rank-one change of the weight with its partner in the other factor.

    Source: randomised range finder of Halko et al. (2011) where the matrix is large, by torch.svd_lowrank.
    """
    matrix = as_matrix(wide(part.take(delta)))
    if matrix is None or not bool(matrix.any()):
        return None
    if part.site.factor is not None:
        return _of_factor(matrix, across=part.site.factor == "A")
    count = min(count, *matrix.shape)
    if min(matrix.shape) <= _EXACT:
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        return Directions(left[:, :count] * sizes[:count], right[:count].T.contiguous())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Seeds(0).derive("directions", part.parameter))
        left, sizes, right = torch.svd_lowrank(matrix, q=count + _OVERSAMPLE, niter=4)
    return Directions(left[:, :count] * sizes[:count], right[:, :count])


def _of_factor(matrix: Tensor, *, across: bool) -> Directions:
    """The rows (across) or columns of a factor that are not zero, each as it is."""
    kept = matrix.any(dim=1 if across else 0).nonzero().flatten()
    if across:
        sizes = torch.linalg.vector_norm(matrix[kept], dim=1)
        units = torch.eye(matrix.shape[0]).to(matrix)[:, kept]
        return Directions(units * sizes, (matrix[kept] / sizes[:, None]).T)
    return Directions(matrix[:, kept], torch.eye(matrix.shape[1]).to(matrix)[:, kept])
