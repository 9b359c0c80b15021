"""Accumulator: sums over parts of tiles, put in the samples' order; averages without pairs equal means of pairs."""

from __future__ import annotations

import torch
from tests.circuits.toy_attention import Toy

from crosstune.circuits.scoring.accumulate import Accumulator, TilePart
from crosstune.circuits.scoring.tiles import BlockFactors
from crosstune.circuits.scoring.variants import Normaliser
from crosstune.circuits.settings import CircuitSettings, Form

TOY = Toy.make()
SETTINGS = CircuitSettings()
SIGNED, DIRECTIONAL, EWC = (
    Form("signed", "task_a"),
    Form("directional", "task_a"),
    Form("ewc", "task_a"),
)


def sums_of(forms: list[Form], averages: list[Form], count_b: int = 4) -> Accumulator:
    """Everything of q in two pieces, with samples in another order than their places."""
    sources = [
        BlockFactors.of(TOY.layer(TOY.samples(count, count), order), "q")
        for count, order in ((5, [4, 2, 0, 1, 3]), (count_b, range(count_b)[::-1]))
    ]
    tiles = [source.new_zeros(source.count, 4, 3, 5) for source in sources]
    for source, tile in zip(sources, tiles, strict=True):
        source.build(slice(0, 4), slice(0, 3), tile)
    sums = Accumulator(forms, averages, *sources)
    fisher = tiles[0].square().mean(0, keepdim=True)
    scale = torch.zeros(1, 4, dtype=torch.float64)
    normaliser = Normaliser.of("task_a", fisher, scale, sources[0].halves, SETTINGS)
    sums.add_squares(0, slice(0, 4), tiles[0].square())
    sums.add_squares(1, slice(0, 4), tiles[1].square())
    for part in (slice(0, 1), slice(1, 3)):
        a, b = (tile[:, :, part] for tile in tiles)
        piece = TilePart(slice(0, 4), part, a, b.clone(), None, torch.empty_like(a))
        sums.add(piece, {"task_a": normaliser})
    return sums


def test_averages_are_the_same_with_and_without_pairs() -> None:
    averages = [SIGNED, DIRECTIONAL]
    with_pairs, without = sums_of(averages, averages), sums_of([], averages)
    pairs = with_pairs.pairs()
    assert without.pairs() == {}
    for form in averages:
        torch.testing.assert_close(without.columns({})[form], with_pairs.columns(pairs)[form])
        torch.testing.assert_close(without.rows({})[form], with_pairs.rows(pairs)[form])
    torch.testing.assert_close(with_pairs.columns(pairs)[SIGNED][1], pairs[SIGNED][1::2].mean(0))


def test_the_mean_over_an_empty_half_is_unmeasured() -> None:
    found = sums_of([], [SIGNED], count_b=1)
    assert found.rows({})[SIGNED][0].isfinite().all()
    assert found.rows({})[SIGNED][1].isnan().all()
    with_pairs = sums_of([SIGNED], [SIGNED], count_b=1)
    assert with_pairs.rows(with_pairs.pairs())[SIGNED][1].isnan().all()
