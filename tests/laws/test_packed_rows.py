"""Packed rows cost what they cost alone, and know nothing of their neighbours, in every family and batch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, decoder
from torch import Tensor
from torch.nn import functional

from crosstune.foundation.data import UNSCORED, Encoded, Row, collate, encode, pack
from crosstune.foundation.evaluation import score_rows, token_logits, token_nats
from crosstune.foundation.models import load_model, load_tokenizer

# float32: 6e-8 · √(1e4 sums and products behind a token's nats), on logits of up to 10.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
families = pytest.mark.parametrize("family", CONFIGS)


def drawn(count: int, seed: int = 0) -> list[Encoded]:
    """Rows of 3 to 40 tokens, some longer than a packed sequence of 32, and one of one token."""
    draw, rows = random.Random(seed), []
    for at in range(count):
        ids = [draw.randrange(3, 40) for _ in range(draw.randrange(3, 41) if at else 1)]
        labels, ends = [UNSCORED, *ids[1:]], tuple(range(1, len(ids) + 1))
        rows.append(
            Encoded(f"r{at}", ids, labels, len(ids) - 1, len(ids) - 1, False, unit="", ends=ends)
        )
    return rows


def pieces(item: Encoded) -> list[slice]:
    """Where each row lies in a packed sequence."""
    ends = [sum(item.lengths[: at + 1]) for at in range(len(item.lengths))]
    return [slice(end - size, end) for end, size in zip(ends, item.lengths, strict=True)]


def alone(model: Any, item: Encoded) -> Tensor:
    """The oracle: every row of a packed sequence is read by itself, without mask, positions or batch; [T]."""
    found = []
    for place in pieces(item):
        ids, labels = torch.tensor([item.input_ids[place]]), torch.tensor(item.labels[place])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
        nats = functional.cross_entropy(logits, labels[1:], reduction="none")
        found.append(torch.cat([nats.new_zeros(1), nats]))
    return torch.cat(found)


def check_costs(model: Any, packs: list[Encoded]) -> None:
    for side in ("right", "left"):
        with torch.no_grad():
            nats = functional.pad(token_nats(model, collate(packs, 0, side=side)), (1, 0))
        for found, item in zip(nats, packs, strict=True):
            size = len(item.input_ids)
            own, padding = (
                (found[:size], found[size:]) if side == "right" else (found[-size:], found[:-size])
            )
            torch.testing.assert_close(own, alone(model, item), **CLOSE)
            assert (padding == 0).all()


@families
def test_packed_tokens_cost_what_they_cost_alone(family: str) -> None:
    model, packs = decoder(family), pack(drawn(11), 32)
    assert len({len(item.input_ids) for item in packs}) > 1  # padding in the batch
    check_costs(model, packs)
    if model._supports_sdpa:
        model.set_attn_implementation("sdpa")
        check_costs(model, packs)
        check_costs(model, packs[:1])


@families
def test_a_neighbour_changes_no_other_row(family: str) -> None:
    model = decoder(family)
    (item,) = pack(drawn(4, seed=1), 200)
    batch = collate([item], 0)
    with torch.no_grad():
        before = token_logits(model, batch)[0]
        for changed in pieces(item):
            ids = batch["input_ids"].clone()
            ids[0, changed] = 3 + (ids[0, changed] - 2) % 37
            after = token_logits(model, {**batch, "input_ids": ids})[0]
            differs = (after - before).abs().amax(-1) > 1e-3
            assert differs[changed].all()
            for other in pieces(item):
                if other != changed:
                    torch.testing.assert_close(after[other], before[other], **CLOSE)


def test_a_real_model_scores_packed_sentences_as_it_scores_rows(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    lines = (shared / "data/languages/en.jsonl").read_text("utf-8").splitlines()[:9]
    texts = [Row(line["id"], line["text"]) for line in map(json.loads, lines)]
    rows = encode(texts, tokenizer, 90)
    packs = pack(rows, 256)
    check_costs(model, packs)
    scores = score_rows(model, rows, pad_id=0)
    with torch.no_grad():
        nats = token_nats(model, collate(packs, 0)).double().sum()
    torch.testing.assert_close(nats, scores.nats.sum(), rtol=1e-6, atol=0.0)
    for name in ("tokens", "bytes"):
        assert sum(getattr(item, f"scored_{name}") for item in packs) == getattr(scores, name).sum()
