"""Accounts: nats per token, jackknife over blocks, and a sentence that says whether it adds up."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.interference import tiny

from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.gradients.settings import BlockSettings
from crosstune.foundation.models import Site
from crosstune.interference.ledger.accounts import Account, Reference, RunningAccount
from crosstune.interference.ledger.quadrature import SegmentContributions

SITES = (Site(0, "attn.q"), Site(None, "head"))


def reference() -> Reference:
    blocks = make_blocks("en", tiny.rows("en", 20), tiny.tokenizer(), BlockSettings(4, 2, 16))
    return Reference("en", "train", blocks)


def found(scale: float) -> SegmentContributions:
    """Four blocks, two sites; the second site takes twice the first."""
    nats = scale * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    return SegmentContributions(
        entries=torch.stack([nats, 2 * nats], dim=1),
        change=3 * nats + 1e-4,
        loss=torch.full((4,), 2.0, dtype=torch.float64),
        miss=1e-4,
        allowed=1e-3,
        panels=2,
        evaluations=5,
    )


def filled() -> RunningAccount:
    account = RunningAccount(reference(), SITES)
    account.add(found(0.1), (0, 10), 5, 0.5)
    account.add(found(0.2), (10, 20), 4, 0.5)
    return account


def test_totals_are_sums_over_segments_in_nats_per_token() -> None:
    account = filled().close(0.95)
    assert account.booked == pytest.approx(0.3 * 2.5 * 3)  # scales .1 + .2, mean block 2.5, 1 + 2
    assert account.measured == pytest.approx(0.3 * 2.5 * 3 + 2e-4)
    assert account.residual == pytest.approx(-2e-4)
    assert account.tolerance == pytest.approx(2e-3)
    assert account.evaluations == 9
    assert sum(account.share(entry) for entry in account.entries) == pytest.approx(1.0, abs=1e-3)


def test_an_entry_is_nats_over_tokens_and_its_interval_leaves_blocks_out() -> None:
    account = filled()
    tokens = [block.tokens for block in account.reference.blocks]
    expected = account.reference.blocks[0].expected_tokens
    nats = [0.3 * k * expected for k in (1, 2, 3, 4)]  # summed nats of each block at the first site
    ratio = sum(nats) / sum(tokens)
    left_out = [
        (sum(nats) - one) / (sum(tokens) - count) for one, count in zip(nats, tokens, strict=True)
    ]
    centre = sum(left_out) / 4
    error = math.sqrt(3 / 4 * sum((value - centre) ** 2 for value in left_out))
    entry = account.close(0.95).entries[0]
    assert entry.nats == pytest.approx(ratio)
    assert entry.high - entry.nats == pytest.approx(
        3.182446 * error, rel=1e-5
    )  # t(0.975, 3), a table


def test_heads_add_up_to_their_component_with_an_interval_of_its_own() -> None:
    rest, first, second = (Site(0, "attn.o"), *(Site(0, "attn.o").of_head(n) for n in (0, 1)))
    running = RunningAccount(reference(), (rest, first, second, Site(0, "mlp.up")))
    nats = torch.tensor([1.0, 2.0, 4.0, 3.0], dtype=torch.float64)
    entries = torch.stack([0.1 * nats, nats, -nats, nats], dim=1)
    running.add(dataclasses.replace(found(1.0), entries=entries), (0, 10), 5, 0.5)
    account = running.close(0.95)
    assert [str(entry.site) for entry in account.heads] == [
        *("L0 attn.o", "L0 attn.o head 0", "L0 attn.o head 1"),
    ]
    whole, up = account.entries
    assert (whole.site, up.site) == (Site(0, "attn.o"), Site(0, "mlp.up"))
    assert whole.nats == pytest.approx(sum(entry.nats for entry in account.heads))
    # The heads cancel in every block, so the component is known far better than either of them.
    widths = [entry.high - entry.low for entry in (whole, *account.heads)]
    assert widths[0] == pytest.approx(widths[1]) == pytest.approx(0.1 * widths[2])
    expected = torch.tensor([0.25, 2.5], dtype=torch.float64)
    torch.testing.assert_close(running.path_by_component()[0], expected)
    assert filled().close(0.95).heads == ()


def test_the_sentence_says_what_was_lost_and_that_it_adds_up() -> None:
    text = str(Account("bn", 10, (filled().close(0.95),)))
    assert "Stage 'bn', segments of 10 steps." in text
    assert "en (train rows) lost 2.25 nats per token" in text
    assert "in 20 steps; its 2 components add up to +2.25; residual -0.0002" in text
    assert "Largest: head +1.5, L0 attn.q +0.75." in text


def test_an_empty_account_says_so() -> None:
    account = RunningAccount(reference(), SITES).close(0.95)
    assert str(account) == "en (train rows): no segment was integrated yet."
    assert math.isnan(account.share(account.entries[0]))


def test_a_running_account_goes_on_from_what_it_wrote() -> None:
    account = filled()
    other = RunningAccount(reference(), SITES)
    other.restore(account.tensors(), account.facts())
    for each in (account, other):
        each.add(found(0.05), (20, 23), 2, 0.1)
    assert other.close(0.95) == account.close(0.95)
    assert torch.equal(torch.stack(other.path), torch.stack(account.path))
