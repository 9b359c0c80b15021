"""Drawn labels follow the model's distribution, and depend on seed and row alone."""

from __future__ import annotations

import torch
from tests.circuits.drawn import rows

from crosstune.circuits.capture import labels
from crosstune.circuits.capture.labels import draws, sampled


def test_a_row_has_its_numbers_whatever_stands_beside_it() -> None:
    some = rows()
    together, alone = draws(some, 3, 14), draws([some[2]], 3, 11)
    assert torch.equal(together[2, :11], alone[0]) and bool((together[2, 11:] == 0).all())
    assert not torch.equal(draws([some[2]], 4, 11), alone)
    assert not torch.equal(together[4, :11], alone[0])  # as long, but says something else


def test_labels_follow_the_distribution() -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.1]).expand(1, 20000, 4)
    at = torch.rand(1, 20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sampled(logits, torch.zeros(1, 20000, dtype=torch.int64), at)
    shares = torch.bincount(found[0], minlength=4) / 20000
    # Five standard errors of a share of a half.
    torch.testing.assert_close(shares, logits[0, 0].softmax(-1), rtol=0, atol=5 * 0.5 / 20000**0.5)


def test_the_ends_of_the_distribution_are_tokens_that_can_be() -> None:
    logits = torch.tensor([[[-torch.inf, 0.0, 0.0, -torch.inf]] * 3])
    at = torch.tensor([[0.0, 0.5, 1.0 - 2**-53]], dtype=torch.float64)
    assert sampled(logits, torch.zeros(1, 3, dtype=torch.int64), at).tolist() == [[1, 2, 2]]


def test_what_is_not_scored_stays_so_and_chunks_do_not_matter(monkeypatch: object) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 7, generator=generator)
    targets = torch.tensor([[1, -100, 3, 2, 2], [-100, 0, 5, -100, -100]])
    at = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    whole = sampled(logits, targets, at)
    monkeypatch.setattr(labels, "_CHUNK", 14)  # type: ignore[attr-defined]
    assert torch.equal(sampled(logits, targets, at), whole)
    assert torch.equal(whole == -100, targets == -100)
