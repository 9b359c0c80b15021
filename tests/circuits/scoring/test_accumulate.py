"""Accumulator: a mean over no sample is unmeasured; all else is compared with slow loops in tests/oracles."""

from __future__ import annotations

import pytest
from tests.circuits.toy_attention import Toy

from crosstune.circuits.scoring.engine import score_layer
from crosstune.circuits.settings import CircuitSettings, Form

TOY = Toy.make()
SIGNED = Form("signed", "pooled")


@pytest.mark.parametrize("with_pairs", [True, False])
def test_the_mean_over_an_empty_half_is_unmeasured(with_pairs: bool) -> None:
    settings = CircuitSettings(variants=("signed",), min_samples=3)
    a, b = (TOY.layer(TOY.samples(count, count)) for count in (5, 1))
    forms = None if with_pairs else ()
    found = score_layer(a, b, settings, heads=TOY, forms=forms)["q"].rows[SIGNED]
    assert found[0].isfinite().all() and found[1].isnan().all()
