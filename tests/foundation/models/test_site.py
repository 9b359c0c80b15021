"""Sites read as a reader would say them, sort in depth order, and parts are views."""

from __future__ import annotations

import random

import pytest
import torch

from crosstune.foundation.models.site import COMPONENTS, Cut, Part, Site

SPOKEN = {
    "L4 attn.o": Site(4, "attn.o"),
    "embed+head": Site(None, "embed+head"),
    "L2 mlp.experts[3].up": Site(2, "mlp.experts.up", expert=3),
    "L0 attn.q (A)": Site(0, "attn.q", factor="A"),
    "L0 attn.q (code A)": Site(0, "attn.q", factor="A", adapter="code"),
    "head (code)": Site(None, "head", adapter="code"),
    "L1 mlp.experts[0].gate_up (A)": Site(1, "mlp.experts.gate_up", expert=0, factor="A"),
    "L7 attn.q head 3": Site(7, "attn.q", head=3),
    "L7 attn.v kv-head 1": Site(7, "attn.v", kv_head=1),
}


@pytest.mark.parametrize("words", SPOKEN)
def test_a_site_reads_as_words(words: str) -> None:
    assert str(SPOKEN[words]) == words


def test_sites_are_values() -> None:
    assert len({Site(1, "norm"), Site(1, "norm"), Site(None, "norm")}) == 2


def test_sites_sort_as_a_token_meets_them() -> None:
    order = [
        Site(None, "embed"),
        Site(None, "embed.position"),
        Site(0, "attn.q"),
        Site(0, "attn.q", factor="A"),
        Site(0, "attn.q", factor="B"),
        Site(0, "attn.q", adapter="code"),
        Site(0, "attn.q", factor="A", adapter="code"),
        Site(0, "attn.q", factor="B", adapter="code"),
        Site(0, "attn.q", factor="A", adapter="prose"),
        Site(0, "norm"),
        Site(1, "attn.v"),
        Site(2, "attn.o"),
        Site(2, "attn.o", head=0),
        Site(2, "attn.o", head=1),
        Site(2, "mlp.experts.up", expert=9),
        Site(2, "mlp.experts.up", expert=10),
        Site(10, "attn.q"),
        Site(None, "norm"),
        Site(None, "head"),
    ]
    shuffled = random.Random(0).sample(order, len(order))
    assert sorted(shuffled, key=lambda site: site.depth_order) == order
    assert len(set(COMPONENTS)) == len(COMPONENTS)


def test_a_head_s_site_leads_back_to_its_component() -> None:
    assert Site(7, "attn.q").of_head(3) == SPOKEN["L7 attn.q head 3"]
    assert Site(7, "attn.v").of_head(1) == SPOKEN["L7 attn.v kv-head 1"]
    assert Site(1, "attn.k", factor="B").of_head(0).whole == Site(1, "attn.k", factor="B")
    assert Site(1, "attn.o", head=4).whole == Site(1, "attn.o")


def test_a_part_is_a_view_of_any_strides() -> None:
    part = Part(Site(0, "attn.k"), "w", (2, 3, 2, 5), (Cut(1, 1, 2), Cut(2, 0, 1)))
    for tensor in (torch.zeros(12, 5), torch.zeros(5, 12).T):
        part.take(tensor).fill_(1.0)
        rows = tensor.sum(dim=1).nonzero().flatten().tolist()
        assert rows == [2, 8]  # row = (outer · 3 + 1) · 2 + 0 for outer = 0, 1
    assert part.count == 10
