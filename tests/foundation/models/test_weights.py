"""Weights have the same fingerprint exactly when every bit is the same."""

from __future__ import annotations

import torch
from tests.foundation.training import tiny

from crosstune.foundation.models import weights_fingerprint


def test_one_bit_of_one_weight_is_seen() -> None:
    model = tiny.model()
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(tiny.model())
    with torch.no_grad():
        model.lm_head.weight[3, 4] = model.lm_head.weight[3, 4].nextafter(torch.tensor(1.0))
    assert weights_fingerprint(model) != before


def test_number_formats_differ_and_every_one_can_be_read() -> None:
    prints = {
        weights_fingerprint(tiny.model().to(kind)) for kind in (torch.float32, torch.bfloat16)
    }
    assert len(prints) == 2
