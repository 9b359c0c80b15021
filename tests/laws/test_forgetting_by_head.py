"""Law of the ledger by head: heads add up to their projection, projections to the measured change, segment by segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import driven, tiny

from crosstune.foundation.data import Row, collate, encode
from crosstune.foundation.gradients.settings import LedgerSettings
from crosstune.foundation.models import Site, load_model, load_tokenizer
from crosstune.interference import BlockSettings, ForgettingLedger
from crosstune.interference.ledger.accounts import TaskAccount


def assert_heads_close(account: TaskAccount) -> None:
    sums: dict[Site, float] = {}
    for entry in account.heads:
        sums[entry.site.whole] = sums.get(entry.site.whole, 0.0) + entry.nats
    components = {entry.site: entry.nats for entry in account.entries}
    attention = {site for site in components if site.component.startswith("attn.")}
    assert set(sums) <= attention
    for site, nats in sums.items():
        # Float64 sums of the same few terms in another order: 1e-15 of terms that may cancel to 1e-6.
        assert nats == pytest.approx(components[site], rel=1e-9, abs=1e-12)
    assert sum(components.values()) == pytest.approx(account.booked, abs=1e-12)
    assert abs(account.booked - account.measured) <= account.tolerance
    assert sum(abs(entry.nats) for entry in account.heads) > 1e-3


def assert_same_components(fine: TaskAccount, plain: TaskAccount) -> None:
    assert [entry.site for entry in fine.entries] == [entry.site for entry in plain.entries]
    for mine, twin in zip(fine.entries, plain.entries, strict=True):
        assert (mine.nats, mine.low, mine.high) == pytest.approx(
            (twin.nats, twin.low, twin.high), rel=1e-6, abs=1e-8
        )  # float64 sums of the same float32 products


@pytest.mark.parametrize("make", [tiny.llama, tiny.lora])
def test_heads_add_up_to_the_measured_change(make: Any) -> None:
    fine = driven.followed(make(), driven.ledger(every=3, by_head=True), last=6).close()
    plain = driven.followed(make(), driven.ledger(every=3), last=6).close()
    for mine, twin in zip(fine.tasks, plain.tasks, strict=True):
        assert_heads_close(mine)
        assert_same_components(mine, twin)
        # The account is cut more finely; nothing is evaluated for it.
        assert mine.evaluations == twin.evaluations


def test_what_has_no_head_stands_beside_the_heads() -> None:
    account = driven.followed(tiny.lora(), driven.ledger(every=3, by_head=True), last=3).close()
    sites = [entry.site for entry in account.of("en").heads if entry.site.layer == 0]
    assert sites == [
        Site(0, "attn.q", factor="A"),
        *(Site(0, "attn.q", head=head, factor="B") for head in range(4)),
        Site(0, "attn.v", factor="A"),
        *(Site(0, "attn.v", kv_head=head, factor="B") for head in range(2)),
    ]


def test_a_head_that_does_not_move_owes_exactly_nothing() -> None:
    model = tiny.llama()
    weight = model.model.layers[0].self_attn.o_proj.weight
    training = driven.Training(model, driven.ledger(every=3, by_head=True), last=3)
    training.optimizer.param_groups[0]["weight_decay"] = 0.0

    def still(gradient: torch.Tensor) -> torch.Tensor:
        held = gradient.clone()
        held[:, 8:12] = 0.0  # the input columns of head 2
        return held

    handle = weight.register_hook(still)
    account = training.begin().go_to(3).end().close().of("en")
    handle.remove()
    entries = {str(entry.site): entry for entry in account.heads}
    held = entries["L0 attn.o head 2"]
    assert (held.nats, held.low, held.high) == (0.0, 0.0, 0.0)
    others = [entries[f"L0 attn.o head {head}"].nats for head in (0, 1, 3)]
    assert 0.0 not in others


def test_heads_add_up_in_a_real_model(shared: Path) -> None:
    def rows(language: str) -> list[Row]:
        path = shared / "data" / "languages" / f"{language}.jsonl"
        with path.open(encoding="utf-8") as stream:
            found = [json.loads(line) for _, line in zip(range(64), stream, strict=False)]
        return [Row(row["id"], row["text"], group=row["id"]) for row in found]

    folder = shared / "models" / "stories260K"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    ledger = ForgettingLedger(
        {"en": rows("en")},
        tokenizer=tokenizer,
        blocks=BlockSettings(4, 2, 64),
        settings=LedgerSettings(every=4, by_head=True),
    )
    training = driven.Training(model, ledger, last=8, rate=1e-3)
    encoded = encode(rows("bn")[:16], tokenizer, 64)
    training.batches = [collate(encoded[2 * n : 2 * n + 2], 0) for n in range(8)]
    account = training.begin().go_to(8).end().close().of("en")
    assert len(account.heads) == 5 * (8 + 4 + 4 + 8)
    assert_heads_close(account)
