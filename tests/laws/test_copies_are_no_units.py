"""Law: a text that is given five times is one draw; no instrument is surer for it, be the copies exact or near."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned
from tests.merging.pairs import moved
from tests.merging.scores import points, row_scores
from tokenizers import normalizers

import crosstune
from crosstune.foundation.data import Row, encode
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.gradients.settings import BlockSettings
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.merging.findings.scored import ScoredPoints, tasks_table
from crosstune.merging.selection import choose_rows

TEXTS = {language: tiny.rows(language, 16, grouped=False) for language in ("en", "bn")}
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str,
    str.upper,
    str.title,
    lambda text: text.replace(" ", "  "),
    lambda text: text.replace(" ", "\u00a0", 1).capitalize(),
)
ROUNDING = 2e-3  # float32 losses and gradients in differences a hundred times smaller
Found = list[tuple[float, int]]


def five(rows: list[Row], *, near: bool) -> list[Row]:
    """Each row five times, under ids of its own."""
    return [
        Row(f"{row.id}.{at}", spelt(row.text) if near else row.text)
        for row in rows
        for at, spelt in enumerate(SPELLINGS)
    ]


def tokenizer() -> Any:
    """One that reads near copies alike."""
    made = tiny.tokenizer()
    made.backend_tokenizer.normalizer = normalizers.Lowercase()
    return made


def of_scores(rows: dict[str, list[Row]]) -> Found:
    figure = score_rows(tiny.llama(), encode(rows["en"], tokenizer(), 16), pad_id=0).nats_per_token
    return [(figure.high - figure.low, figure.n)]


def of_rollback(rows: dict[str, list[Row]]) -> Found:
    after = moved(tiny.llama())
    table = crosstune.measure_rollback(tiny.llama(), after, rows, tokenizer=tokenizer(), by="layer")
    return [(row["high"] - row["low"], row["n"]) for row in table.rows() if row["where"] != "none"]


def of_repair(rows: dict[str, list[Row]]) -> Found:
    after = moved(tiny.llama())
    models = [tiny.llama(), moved(after, seed=4), after]
    encoded = {n: choose_rows(given, 80, tokenizer(), tuned.SMALL) for n, given in rows.items()}
    scores = [
        {name: score_rows(model, given, pad_id=0) for name, given in encoded.items()}
        for model in models
    ]
    scored = ScoredPoints(points("component", each=1), scores, learned=["bn"], forgotten=["en"])
    table = [row for row in tasks_table(scored).rows() if row["label"] != "after"]
    return [(row["change_high"] - row["change_low"], row["n"]) for row in table]


def of_circuits(rows: dict[str, list[Row]]) -> Found:
    found = crosstune.measure_circuits(
        tiny.llama(), tokenizer(), rows["en"], rows["bn"], rows=80, length=16, variants=("signed",)
    )
    heads = found.summary.where(variant="signed").rows()
    return [(row["mean_high"] - row["mean_low"], row["units_a"]) for row in heads]


def of_blocks(rows: dict[str, list[Row]]) -> Found:
    found = []
    for seed in range(6):
        settings = BlockSettings(8, len(rows["en"]) // 8, 16, seed=seed)
        blocks = make_blocks("en", rows["en"], tokenizer(), settings)
        scores = [score_rows(tiny.llama(), block.rows, pad_id=0) for block in blocks]
        sums, tokens = (
            torch.stack([getattr(s, w).sum() for s in scores]) for w in ("nats", "tokens")
        )
        held = {row.unit for block in blocks for row in block.rows}
        found.append((float(ratio_jackknife(sums, tokens).half_width), len(held)))
    return found


INSTRUMENTS = (of_scores, of_rollback, of_repair, of_circuits, of_blocks)


@pytest.mark.parametrize("near", [False, True], ids=["exact", "near"])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_copies_make_no_instrument_surer(
    instrument: Callable[[dict[str, list[Row]]], Found],
    near: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    once, often = instrument(TEXTS), {n: five(rows, near=near) for n, rows in TEXTS.items()}
    again = instrument(often)
    assert {n for _, n in again} == {16}
    widths = [torch.tensor([width for width, _ in found]) for found in (again, once)]
    torch.testing.assert_close(*widths, rtol=ROUNDING, atol=0)
    # Planted: rows as units of their own.
    monkeypatch.setattr(Row, "unit", property(lambda row: row.id))
    blind = torch.tensor([width for width, _ in instrument(often)])
    assert float((blind / widths[1]).median()) < 0.7


def test_with_copies_the_interval_covers_as_often_as_it_says() -> None:
    draw, generator = random.Random(5), torch.Generator().manual_seed(5)
    covered = {"unit": 0, "id": 0}
    for _ in range(800):
        told = [
            Row(f"{text}.{at}", SPELLINGS[at](f"text {text}"))
            for text in range(30)
            for at in range(draw.randint(1, 5))
        ]
        nats = dict(zip(range(30), torch.randn(30, generator=generator).tolist(), strict=True))
        sums = torch.tensor([20 + nats[int(row.id.split(".")[0])] for row in told])
        for name in covered:
            scores: RowScores = row_scores(
                sums, torch.full(sums.shape, 10), [getattr(row, name) for row in told]
            )
            figure = scores.nats_per_token
            covered[name] += figure.low <= 2 <= figure.high
    # Nominal .95; a jackknife of 30 ratios reaches about .945, and 3.3 binomial errors of 800 draws are .027.
    assert covered["unit"] / 800 >= 0.92
    assert covered["id"] / 800 < 0.75
