"""Nats of a token mean the same for every batch, order, padding side, chunk and number format."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.foundation.training import tiny
from torch.nn import functional

from crosstune.foundation.data import collate
from crosstune.foundation.errors import DataError
from crosstune.foundation.evaluation import (
    logits_nats,
    score_rows,
    scoring,
    token_logits,
    token_nats,
)

CLOSE = {
    "rtol": 1e-5,
    "atol": 1e-6,
}  # float32: 6e-8 · √(1e4 sums and products behind a token's nats)


def by_hand(model: torch.nn.Module, row: scoring.Encoded) -> torch.Tensor:
    """One row alone: log-softmax of its own logits, token by token."""
    logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].double()
    spent = [
        -logits[at].log_softmax(-1)[label] if label != -100 else logits.new_zeros(())
        for at, label in enumerate(row.labels[1:])
    ]
    return torch.stack(spent)


@pytest.mark.parametrize("side", ["right", "left"])
def test_each_token_costs_what_it_costs_alone(side: str) -> None:
    model, rows = tiny.model(), tiny.rows(6)
    nats = token_nats(model, collate(rows, 0, side=side))
    assert nats.dtype == torch.float32
    assert nats.shape == (6, max(len(row.input_ids) for row in rows) - 1)
    for found, row in zip(nats, rows, strict=True):
        size = len(row.input_ids) - 1
        own, rest = (
            (found[:size], found[size:]) if side == "right" else (found[-size:], found[:-size])
        )
        torch.testing.assert_close(own.double(), by_hand(model, row), **CLOSE)
        assert (rest == 0).all()


def test_the_loss_is_made_of_logits_and_nats() -> None:
    model, batch = tiny.model(), collate(tiny.rows(6), 0)
    logits = token_logits(model, batch)
    assert logits.shape == (*batch["input_ids"].shape, tiny.VOCABULARY)
    targets = batch["labels"][:, 1:]
    nats = logits_nats(logits[:, :-1], targets)
    torch.testing.assert_close(nats, token_nats(model, batch), **CLOSE)
    assert torch.equal(nats == 0, targets == -100)


def test_learned_positions_are_counted_from_the_first_real_token() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    model, rows = GPT2LMHeadModel(config).eval(), tiny.rows(4)
    right = token_nats(model, collate(rows, 0)).sum(-1)
    left = token_nats(model, collate(rows, 0, side="left")).sum(-1)
    torch.testing.assert_close(left, right, **CLOSE)


def test_chunks_cost_the_same_and_have_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny.model(), collate(tiny.rows(6), 0)
    results, scores = [], []
    for numbers in (2**25, 7 * tiny.VOCABULARY):
        monkeypatch.setattr(scoring, "CHUNK_NUMBERS", numbers)
        nats = token_nats(model, batch)
        gradients = torch.autograd.grad(nats.sum(), list(model.parameters()))
        results.append((nats.detach(), gradients))
        scores.append(score_rows(model, tiny.rows(6), pad_id=0).nats)
    # Gradients are sums over 60 tokens, of terms of 1: 6e-8 · √(60 · 1e3).
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1.5e-5)
    torch.testing.assert_close(scores[1], scores[0], **CLOSE)


def test_no_float32_copy_of_all_logits_is_kept_for_the_backward_pass(monkeypatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK_NUMBERS", 8 * 1000)
    logits = torch.randn(64, 1000, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(1000, (64,))
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != logits.untyped_storage().data_ptr():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        nats = scoring._cross_entropy(logits, targets)
    assert sum(kept.values()) < 64 * 1000 * 4 / 4  # a quarter of one float32 copy
    nats.sum().backward()
    exact = functional.cross_entropy(logits.detach().float(), targets, reduction="none")
    torch.testing.assert_close(nats.detach(), exact, **CLOSE)


def test_a_bfloat16_model_under_autocast_is_scored_in_float32() -> None:
    model, batch = tiny.model().to(torch.bfloat16), collate(tiny.rows(3), 0)
    with torch.no_grad():
        logits = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            nats = token_nats(model, batch)
    expected = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none"
    ).view(nats.shape)
    assert nats.dtype == torch.float32
    # bfloat16: 2^-9 · √(100 roundings behind a logit below 1) on nats of 3.5, four times.
    torch.testing.assert_close(nats, expected, rtol=2e-2, atol=2e-2)
    assert len(set(nats[nats != 0].tolist())) > 0.9 * int(
        (nats != 0).sum()
    )  # not rounded to 8 bits


def test_scores_do_not_depend_on_batch_or_order_and_leave_no_trace() -> None:
    model, rows = tiny.model(attention_dropout=0.5).train(), tiny.rows(9)
    before, state = tiny.weights(model), torch.get_rng_state()
    reference = score_rows(model, rows, pad_id=0)
    for batch_tokens in (1, 30, 100):
        other = score_rows(model, rows, pad_id=0, batch_tokens=batch_tokens)
        torch.testing.assert_close(other.nats, reference.nats, **CLOSE)
    backwards = score_rows(model, rows[::-1], pad_id=0)
    torch.testing.assert_close(backwards.nats.flip(0), reference.nats, **CLOSE)
    assert model.training
    assert tiny.same_bits(before, tiny.weights(model))
    assert torch.equal(state, torch.get_rng_state())


def test_figures_are_sums_over_sums_with_their_chance() -> None:
    model, rows = tiny.model(), tiny.rows(9)
    scores = score_rows(model, rows, pad_id=0)
    total = sum(float(by_hand(model, row).sum().detach()) for row in rows)
    tokens = sum(row.scored_tokens for row in rows)
    figure = scores.nats_per_token
    assert figure.value == pytest.approx(total / tokens, rel=CLOSE["rtol"])
    assert scores.loss == pytest.approx(total / tokens, rel=CLOSE["rtol"])
    assert figure.low < figure.value < figure.high
    assert (figure.n, figure.n_unit, figure.chance) == (9, "rows", math.log(tiny.VOCABULARY))
    assert scores.bits_per_byte.value == pytest.approx(
        total / tokens / 2 / math.log(2), rel=CLOSE["rtol"]
    )
    assert scores.perplexity.value == pytest.approx(math.exp(total / tokens), rel=CLOSE["rtol"])
    assert scores.perplexity.high == pytest.approx(math.exp(figure.high), rel=1e-9)  # float64


def test_rows_of_a_group_and_windows_of_a_row_are_one_unit() -> None:
    rows = tiny.rows(8)
    units = [f"g{at // 2}" for at in range(8)]
    grouped = [
        dataclasses.replace(row, group=unit, unit=unit)
        for row, unit in zip(rows, units, strict=True)
    ]
    scores = score_rows(tiny.model(), grouped, pad_id=0)
    figure = scores.nats_per_token
    assert (figure.n, figure.n_unit) == (4, "groups")
    torch.testing.assert_close(scores.by_unit(scores.nats), scores.nats.view(4, 2).sum(dim=1))
    alone = score_rows(tiny.model(), rows, pad_id=0).nats_per_token
    assert figure.value == pytest.approx(alone.value)
    copies = [dataclasses.replace(row, unit=unit) for row, unit in zip(rows, units, strict=True)]
    windows = [
        dataclasses.replace(row, row_id=row.unit, window=at % 2) for at, row in enumerate(copies)
    ]
    for some, name in ((copies, "texts"), (windows, "rows")):
        figure = score_rows(tiny.model(), some, pad_id=0).nats_per_token
        assert (figure.n, figure.n_unit) == (4, name)


def test_the_cut_share_is_told() -> None:
    rows = tiny.rows(4)
    rows[0] = dataclasses.replace(rows[0], cut=True)
    assert score_rows(tiny.model(), rows, pad_id=0).cut_share == 0.25


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="at least one row"):
        score_rows(tiny.model(), [], pad_id=0)
