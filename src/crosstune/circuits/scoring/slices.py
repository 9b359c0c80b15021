"""Slices: one block of one layer, scored head chunk by head chunk; each tile is built once wherever a head fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from crosstune.circuits.scoring.accumulate import Piece, Tally
from crosstune.circuits.scoring.fisher import (
    FisherFacts,
    Squares,
    facts_of,
    medians,
)
from crosstune.circuits.scoring.memory import Plan, Room, Sources, within
from crosstune.circuits.scoring.variants import Normaliser
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.errors import MeasurementError

Facts = dict[str, FisherFacts]


def score_slices(
    sources: Sources,
    forms: Sequence[Form],
    averages: Sequence[Form],
    settings: CircuitSettings,
    room: Room,
) -> tuple[Tally, Facts]:
    """Every form of every head of a block.

    Returns:
        The sums, and the facts of every kind of Fisher that was used.
    """
    kinds = kinds_of(forms, averages)
    cached = sources.a.device.type == "cpu"
    plan = Plan.of(sources.need(kinds), settings.budget_gib, cached=cached)
    room.fit(plan, sources.a, settings.budget_gib)
    tally = Tally(forms, averages, sources.a, sources.b)
    facts: dict[str, list[FisherFacts]] = {kind: [] for kind in kinds}
    for heads in plan.chunks():
        squares = _squares(sources, heads, (plan, room), tally, halved="held_out" in kinds)
        normalisers = {}
        for kind in kinds:
            normalisers[kind], found = normalise(kind, squares, sources.a.halves, settings)
            facts[kind].append(found)
        for stretch in plan.stretches():
            _add(sources, heads, stretch, (plan, room), tally, normalisers)
    return tally, {kind: FisherFacts.joined(parts) for kind, parts in facts.items()}


def kinds_of(forms: Sequence[Form], averages: Sequence[Form]) -> list[str]:
    """Every kind of Fisher that a form asks for, once."""
    return list(dict.fromkeys(form.fisher for form in (*forms, *averages)))


def normalise(
    kind: str, squares: Squares, halves: Tensor, settings: CircuitSettings
) -> tuple[Normaliser, FisherFacts]:
    """What a Fisher does to gradients, and the facts of that Fisher."""
    fisher = squares.fisher(kind)
    median = medians(fisher)
    scale = settings.damping_share * median
    normaliser = Normaliser.of(kind, fisher, scale, halves, settings)
    return normaliser, facts_of(fisher, median, settings)


def _squares(
    sources: Sources, heads: slice, held: tuple[Plan, Room], tally: Tally, *, halved: bool
) -> Squares:
    """The sums of squares of some heads; their tiles stay built where a head is held whole."""
    plan, room = held
    a, b = sources.a, sources.b
    shape = (heads.stop - heads.start, *a.slice_shape)
    found = Squares(
        a=a.new_zeros(*shape),
        b=a.new_zeros(*shape),
        halves=a.new_zeros(2, *shape) if halved else None,
        true=a.new_zeros(*shape) if sources.true else None,
        counts=(a.count, b.count, sources.drawn),
    )
    chosen = [(a.halves == half).nonzero()[:, 0] for half in (0, 1)]
    for stretch in plan.stretches():
        if sources.true and found.true is not None:
            for part, squared in room.squared(
                room.tile("b", sources.true, heads, stretch), stretch
            ):
                found.true[:, part] = squared.sum(0)
        for part, squared in room.squared(room.tile("a", a, heads, stretch), stretch):
            tally.add_squares(0, heads, squared)
            found.a[:, part] = squared.sum(0)
            if found.halves is not None:
                for half, positions in enumerate(chosen):
                    found.halves[half, :, part] = squared[positions].sum(0)
        for part, squared in room.squared(room.tile("b", b, heads, stretch), stretch):
            tally.add_squares(1, heads, squared)
            found.b[:, part] = squared.sum(0)
    _check_finite(found, sources, heads)
    return found


def _add(
    sources: Sources,
    heads: slice,
    stretch: slice,
    held: tuple[Plan, Room],
    tally: Tally,
    normalisers: Mapping[str, Normaliser],
) -> None:
    """Add a stretch of some heads to the sums."""
    plan, room = held
    a = room.tile("a", sources.a, heads, stretch, built=plan.whole)
    b = room.tile("b", sources.b, heads, stretch, built=plan.whole)
    kronecker = None
    if sources.kronecker:
        kronecker = room.tile("kronecker", sources.kronecker, heads, stretch)
    for cut in plan.pieces(stretch):
        parts = a[:, :, cut], b[:, :, cut]
        piece = Piece(
            heads,
            within(stretch, cut),
            *parts,
            kronecker=None if kronecker is None else kronecker[:, :, cut],
            work=room.work(max(parts, key=len)),
        )
        tally.add(piece, normalisers)


def _check_finite(squares: Squares, sources: Sources, heads: slice) -> None:
    """All squares are finite."""
    named = {"task A": squares.a, "task B": squares.b}
    if squares.true is not None:
        named["task A at drawn labels"] = squares.true
    for task, sums in named.items():
        wrong = ~sums.isfinite().all(-1).all(-1)
        if bool(wrong.any()):
            head = sources.heads[heads.start + int(wrong.nonzero()[0])]
            raise MeasurementError(
                f"gradients of {task}, {sources.name}, head {head}",
                law="must be finite, and their squares too",
                found="NaN or infinity",
                remedy="Check the model's weights and loss on these rows; half precision overflows where float32 does not.",
            )
