"""Slices: one block of one layer, scored head chunk by head chunk; each tile is built once wherever a head fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crosstune.foundation.errors import MeasurementError
from crosstune.interference.circuits.settings import CircuitSettings, Form
from crosstune.interference.circuits.tiles.fisher import (
    FisherFacts,
    Squares,
    facts_of,
    medians,
)
from crosstune.interference.circuits.tiles.plan import Plan
from crosstune.interference.circuits.tiles.room import Room, Sources, within
from crosstune.interference.circuits.tiles.tally import Piece, Tally
from crosstune.interference.circuits.tiles.variants import Normaliser

Facts = dict[str, FisherFacts]


def score_slices(
    sources: Sources,
    forms: Sequence[Form],
    averages: Sequence[Form],
    settings: CircuitSettings,
) -> tuple[Tally, Facts]:
    """Every form of every head of a block.

    Args:
        sources: The factors.
        forms: Forms of the pair scores.
        averages: Forms of the averages.
        settings: Damping and memory.

    Returns:
        The sums, and the facts of every kind of Fisher that was used.
    """
    kinds = kinds_of(forms, averages)
    cached = sources.a.device.type == "cpu"
    plan = Plan.of(sources.need(kinds), settings.budget_gib, cached=cached)
    room = Room(plan, sources.a)
    tally = Tally(forms, averages, sources.counts, sources.a.heads, sources.a)
    facts: dict[str, list[FisherFacts]] = {kind: [] for kind in kinds}
    for heads in plan.chunks():
        squares = _squares(sources, heads, plan, room, tally)
        normalisers = {}
        for kind in kinds:
            normalisers[kind], found = normalise(kind, squares, settings)
            facts[kind].append(found)
        for stretch in plan.stretches():
            _add(sources, heads, stretch, (plan, room), tally, normalisers)
    return tally, {kind: FisherFacts.joined(parts) for kind, parts in facts.items()}


def kinds_of(forms: Sequence[Form], averages: Sequence[Form]) -> list[str]:
    """Every kind of Fisher that a form asks for, once."""
    return list(dict.fromkeys(form.fisher for form in (*forms, *averages)))


def normalise(
    kind: str, squares: Squares, settings: CircuitSettings
) -> tuple[Normaliser, FisherFacts]:
    """What a Fisher does to gradients, and the facts of that Fisher."""
    fisher = squares.fisher(kind)
    median = medians(fisher)
    scale = settings.damping_share * median
    normaliser = Normaliser.of(kind, fisher, scale, squares, settings)
    return normaliser, facts_of(fisher, median, settings)


def _squares(sources: Sources, heads: slice, plan: Plan, room: Room, tally: Tally) -> Squares:
    """The sums of squares of some heads; their tiles stay built where a head is held whole."""
    shape = (heads.stop - heads.start, *sources.a.slice_shape)
    true = sources.a.new_zeros(*shape) if sources.true else None
    halves = [sources.a.new_zeros(2, *shape) for _ in range(2)]
    for stretch in plan.stretches():
        if sources.true and true is not None:
            drawn = room.b(sources.true, heads, stretch)
            for part, squared in room.squared(drawn, stretch):
                true[:, part] = squared.sum(0)
        tiles = (room.a(sources.a, heads, stretch), room.b(sources.b, heads, stretch))
        for task, tile in enumerate(tiles):
            for part, squared in room.squared(tile, stretch):
                tally.add_squares(task, heads, squared)
                for half in (0, 1):
                    halves[task][half, :, part] = squared[half::2].sum(0)
    found = Squares(halves[0], halves[1], true, sources.counts, sources.drawn)
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
    a = room.a(sources.a, heads, stretch, built=plan.whole)
    b = room.b(sources.b, heads, stretch, built=plan.whole)
    kronecker = room.kronecker(sources.kronecker, heads, stretch) if sources.kronecker else None
    for cut in plan.pieces(stretch):
        part = a[:, :, cut]
        piece = Piece(
            heads=heads,
            features=within(stretch, cut),
            a=part,
            b=b[:, :, cut],
            kronecker=None if kronecker is None else kronecker[:, :, cut],
            work=room.work(part),
        )
        tally.add(piece, normalisers)


def _check_finite(squares: Squares, sources: Sources, heads: slice) -> None:
    """All squares are finite.

    Raises:
        MeasurementError: They are not; names the first head.
    """
    named = {"task A": squares.a, "task B": squares.b}
    if squares.true is not None:
        named["task A at drawn labels"] = squares.true[None]
    for task, sums in named.items():
        wrong = ~sums.isfinite().all(-1).all(-1).all(0)
        if bool(wrong.any()):
            head = sources.heads[heads.start + int(wrong.nonzero()[0])]
            raise MeasurementError(
                f"gradients of {task}, {sources.name}, head {head}",
                law="must be finite, and their squares too",
                found="NaN or infinity",
                remedy="Check the model's weights and loss on these rows; half precision overflows where float32 does not.",
            )
