"""Pieces: the smallest parts of a change Δθ that may have a coefficient, and the granularities that tie them together.

Every granularity is a matrix M [P, S] from its S coordinates u to the coefficients of the P pieces: v = M u. A
singular direction has its matrix's coefficient, except where the granularity gives it one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.models import Anatomy, Part, Site
from crosstune.merging.settings import GRANULARITIES

EMBEDDINGS = ("embed", "head", "embed+head")


@dataclass(frozen=True)
class Piece:
    """Elements, rows, one head or one direction of a parameter's change.

    Attributes:
        part: Which elements of which parameter; a component's, through all of which its singular directions run.
        rows: The class of embedding rows (`new`, `both`, `old`, `neither`), or empty for all elements.
        direction: The place of a singular direction, or −1 for the elements themselves.
        head: Those elements of the part that are one attention head's, or None for all.
        group: The key-value head that serves this head, or is it; −1 without a head.
    """

    part: Part
    rows: str = ""
    direction: int = -1
    head: Part | None = None
    group: int = -1

    @property
    def elements(self) -> Part:
        """What its coefficient scales; of these only its rows, where it has a class of them."""
        return self.head or self.part

    @property
    def site(self) -> Site:
        """The component or head it belongs to; a LoRA factor counts as its component."""
        return replace(self.elements.site, factor=None)


@dataclass(frozen=True)
class Coordinates:
    """A granularity on given pieces.

    Attributes:
        name: Its name.
        matrix: M [P, S], from coordinates to pieces.
    """

    name: str
    matrix: np.ndarray

    @property
    def count(self) -> int:
        """The number of coordinates, S."""
        return int(self.matrix.shape[1])

    def project(self, pieces: np.ndarray) -> np.ndarray | None:
        """The coordinates that give these coefficients, or None where none do.

        Shapes:
            pieces: [..., P]; result: [..., S].

        Returns:
            The least-squares coordinates, if they reproduce the pieces.
        """
        found = np.linalg.lstsq(self.matrix, pieces.T, rcond=None)[0].T
        near = np.allclose(found @ self.matrix.T, pieces, rtol=0.0, atol=1e-9)
        return found if near else None


def cut(
    anatomy: Anatomy,
    names: Sequence[str],
    *,
    rows: Mapping[str, Tensor],
    directions: Mapping[Part, int],
    heads: bool = False,
) -> tuple[Piece, ...]:
    """The pieces of the named parameters: their parts, embedding rows by class, heads, and singular directions.

    Args:
        anatomy: The model's anatomy.
        names: The parameters that differ.
        rows: Class of embedding rows → mask [V]; empty where rows are not told apart.
        directions: How many singular directions a part has of its own.
        heads: Cut attention by head: queries and the output projection by query head, keys and values by theirs.

    Returns:
        The pieces, parameter by parameter, each part's elements before its directions.
    """
    fine = anatomy.by_head() if heads else None
    found: list[Piece] = []
    for name in names:
        for part in anatomy.parts_of(name):
            by_row = part.site.component in EMBEDDINGS and part.site.factor is None
            classes = [Piece(part, rows=kind) for kind in rows if by_row]
            found += classes or ([Piece(part)] if fine is None else _by_head(part, fine))
            found += [Piece(part, direction=at) for at in range(directions.get(part, 0))]
    return tuple(found)


def _by_head(part: Part, fine: Anatomy) -> list[Piece]:
    """One piece a head, or the part itself where its elements belong to no head."""
    sharing = fine.heads.num_heads // fine.heads.num_kv_heads
    found = []
    for own in fine.parts_of(part.parameter):
        head, kv_head = own.site.head, own.site.kv_head
        if own.site != part.site and own.site.whole == part.site:
            group = kv_head if head is None else head // sharing
            assert group is not None  # what is no whole is a head of one kind or the other
            found.append(Piece(part, head=own, group=group))
    return found or [Piece(part)]


def row_classes(learned: set[int], forgotten: set[int], size: int) -> dict[str, Tensor]:
    """Which embedding rows the tokens of the learned and of the forgotten tasks use.

    Returns:
        `new`, `both`, `old`, `neither` → mask [V], without classes that are empty.
    """
    new, old = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    new[sorted(learned)] = True
    old[sorted(forgotten)] = True
    masks = {"new": new & ~old, "both": new & old, "old": old & ~new, "neither": ~(new | old)}
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def coordinates(name: str, pieces: Sequence[Piece], layers: int) -> Coordinates:
    """The granularity of that name."""
    if name == "ramp":
        depth = np.array([_depth(piece.site, layers) for piece in pieces])
        return Coordinates(name, np.stack([1.0 - depth, depth], axis=1))
    if name not in _TIES:
        raise SettingsError(
            "granularity",
            law=f"must be of {', '.join(GRANULARITIES)}",
            found=repr(name),
            remedy="Use `component` to compare with the forgetting ledger.",
        )
    labels = [_TIES[name](piece if name == "singular" else leader) for piece, leader in led(pieces)]
    places = {label: at for at, label in enumerate(dict.fromkeys(labels))}
    matrix = np.zeros((len(pieces), len(places)))
    matrix[np.arange(len(pieces)), [places[label] for label in labels]] = 1.0
    return Coordinates(name, matrix)


def led(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Piece]]:
    """Each piece and the piece from whose coefficient its own is counted: a direction's is its part's first.

    Yields:
        The piece and its leader, which is itself but for directions.
    """
    leader = None
    for piece in pieces:
        if leader is None or leader.part != piece.part:
            leader = piece
        yield piece, leader if piece.direction >= 0 else piece


def _depth(site: Site, layers: int) -> float:
    """0 at the first block and the embeddings, 1 at the last block, the final norm and the head.

    Source: LiNeS (Wang et al. 2024): the change of block l is scaled linearly in l. Both ends are free here.

    Returns:
        A share of the way through the model.
    """
    if site.layer is None:
        return 0.0 if site.component.startswith("embed") else 1.0
    return site.layer / max(1, layers - 1)


def _layer(piece: Piece) -> tuple[object, ...]:
    site = piece.site
    return (site.layer, "" if site.layer is not None else site.component)


def _component(piece: Piece) -> tuple[object, ...]:
    return (piece.site.layer, piece.site.component)


def _expert(piece: Piece) -> tuple[object, ...]:
    return (*_component(piece), piece.site.expert)


def _head(piece: Piece) -> tuple[object, ...]:
    return (*_component(piece), piece.site.head, piece.site.kv_head)


_TIES: dict[str, Callable[[Piece], object]] = {
    "global": lambda piece: (),
    "layer": _layer,
    "component": _component,
    "expert": _expert,
    "tensor": lambda piece: (piece.part.parameter, piece.part.cuts),
    "embedding_rows": lambda piece: (*_component(piece), piece.rows),
    "kv_head": lambda piece: (*_component(piece), piece.group),
    "head": _head,
    "singular": lambda piece: (piece.part.parameter, piece.part.cuts, piece.direction),
}
