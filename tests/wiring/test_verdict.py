"""The verdict on planted costs: the right word, shares and intervals of a jackknife written anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from crosstune.wiring.verdict import RELAYS, RIVALS, judged

GIVEN = ("text", "A→B", *RIVALS, *RELAYS)
BASE = dict(zip(GIVEN, (1.0, 1.3, 2.0, 1.9, 1.8, 1.6, 1.7), strict=True))
DOCUMENTS = [f"document {row // 2}" for row in range(60)]  # two rows each


def costs(seed: int = 0, **other: float) -> tuple[dict[str, Tensor], Tensor]:
    generator, means = torch.Generator().manual_seed(seed), BASE | other
    tokens = torch.randint(20, 60, (60,), generator=generator)
    noise = torch.randn(60, len(means) + 1, generator=generator, dtype=torch.float64)
    hard = noise[:, -1]
    return {n: (means[n] + hard + 0.1 * noise[:, i]) * tokens for i, n in enumerate(means)}, tokens


@pytest.mark.parametrize("seed", range(5))
def test_each_planted_truth_has_its_word(seed: int) -> None:
    lines = str(judged(*costs(seed), DOCUMENTS, "60 texts.")).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(BASE)
    assert lines[-1].startswith("60 texts. **communication**: A→B saves 0.")
    for name in (*RELAYS, *RIVALS):
        found = judged(*costs(seed, **{name: 1.28}), DOCUMENTS)
        assert found.word == ("relay" if name in RELAYS else "not communication")
        assert found.why.count(name) == 1


def test_a_lead_within_its_interval_is_no_lead_and_useless_text_has_no_share() -> None:
    found = judged(*costs(nothing=1.31, text=1.32), DOCUMENTS)
    lead = {row["given"]: row for row in found.table.rows()}["nothing"]
    assert lead["more"] > 0 > lead["more_low"] and found.word == "not communication"
    assert "cannot do this from text" in found.why and "Share" not in found.why
    assert all(math.isnan(row["share"]) for row in found.table.rows())


def test_values_and_intervals_are_a_jackknife_s_over_documents() -> None:
    nats, tokens = costs()
    row = {row["given"]: row for row in judged(nats, tokens, DOCUMENTS).table.rows()}["mean"]
    kept = [torch.tensor([d != unit for d in DOCUMENTS]) for unit in (*{*DOCUMENTS}, "")]
    rival, text, ours = nats["mean"], nats["text"], nats["A→B"]
    parts = {"nats": (rival, tokens), "more": (rival - ours, tokens)}
    width = {}
    for name, (above, below) in {**parts, "share": (rival - ours, rival - text)}.items():
        *without, whole = [float(above[k].sum() / below[k].sum()) for k in kept]
        width[name] = stats.t.ppf(0.975, 29) * np.std(without) * math.sqrt(29)
        found = [row[f"{name}{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([whole, whole - width[name], whole + width[name]], rel=1e-9)
    assert width["more"] < width["nats"] / 4  # what is hard for one is hard for all
