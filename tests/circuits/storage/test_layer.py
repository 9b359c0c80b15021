"""A layer is kept only if every array fits; what does not is told by parameter, layer, head, block and shapes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.circuits.known_scores import SETTINGS, World

from crosstune.circuits.scoring.accumulate import Apart
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.circuits.storage.layer import Layer, pair_name
from crosstune.foundation.errors import MeasurementError

SIGNED = Form("signed", "pooled")


def layer(blocks: dict, settings: CircuitSettings = SETTINGS, world: World | None = None) -> Layer:
    axes = (world or World()).with_settings(heads=settings.heads).begin().record.axes
    weights = {block: f"layers.1.{block}_proj.weight" for block in "qkvo"}
    return Layer.of(axes, settings, 1, blocks, weights)


def test_a_shape_that_does_not_fit_is_told_with_everything() -> None:
    blocks = World().layer(1)
    wrong = {**blocks["o"].pairs, SIGNED: torch.zeros(8, 5, 4)}
    blocks["o"] = replace(blocks["o"], pairs=wrong)
    with pytest.raises(MeasurementError) as told:
        layer(blocks)
    for part in (
        "signed/pooled",
        "layer 1",
        "block o",
        "layers.1.o_proj.weight",
        "heads 0, 1, 2, 3",
    ):
        assert part in str(told.value)
    assert "[8, 6, 4]" in str(told.value) and "[8, 5, 4]" in str(told.value)


@pytest.mark.parametrize("name", ["l1_b", "norm_a", "norm_b"])
def test_every_array_is_checked(name: str) -> None:
    blocks = World().layer(1)
    blocks["k"] = replace(blocks["k"], **{name: torch.zeros(3, 2)})
    with pytest.raises(MeasurementError, match=name):
        layer(blocks)


def test_what_is_missing_is_told() -> None:
    blocks = World().layer(1)
    with pytest.raises(MeasurementError, match="must have scores of block 'v'; found q, k, o"):
        layer({block: blocks[block] for block in "qko"})
    for name in ("pairs", "rows", "columns"):
        lacking = {
            form: found for form, found in getattr(blocks["q"], name).items() if form != SIGNED
        }
        with pytest.raises(MeasurementError, match=f"must have {name} of signed/pooled"):
            layer({**blocks, "q": replace(blocks["q"], **{name: lacking})})


def test_an_infinite_score_is_no_score() -> None:
    blocks = World().layer(1)
    blocks["q"].pairs[SIGNED][2, 3, 1] = torch.inf
    with pytest.raises(MeasurementError, match="an infinite score in head 1"):
        layer(blocks)


def test_heads_are_found_by_their_number() -> None:
    settings = replace(SETTINGS, heads=(1, 3))
    blocks = World().layer(1)
    some = replace(
        blocks["q"], heads=(3, 1), pairs={f: p[..., [3, 1]] for f, p in blocks["q"].pairs.items()}
    )
    cut = {
        name: {form: found[..., [3, 1]] for form, found in getattr(some, name).items()}
        for name in ("columns", "rows")
    }
    cut |= {name: getattr(some, name)[..., [3, 1]] for name in ("l1_b", "norm_a", "norm_b")}
    cut["apart"] = {
        form: Apart(*(side[..., [3, 1]] for side in vars(apart).values()))
        for form, apart in some.apart.items()
    }
    cut["fishers"] = {}
    found = layer({**blocks, "q": replace(some, **cut)}, settings)
    np.testing.assert_array_equal(
        found.pairs[pair_name("q", SIGNED)], blocks["q"].pairs[SIGNED][..., [1, 3]].numpy()
    )
    with pytest.raises(MeasurementError, match="scores of head 1"):
        layer({**blocks, "q": replace(blocks["q"], heads=(0, 2, 3))}, settings)


def test_a_mean_over_no_sample_is_unmeasured() -> None:
    world = World(n_a=1)
    blocks = world.layer(1)
    columns = {form: found.nan_to_num() for form, found in blocks["q"].columns.items()}
    blocks["q"] = replace(blocks["q"], columns=columns)
    found = layer(blocks, world=world).sides["q.columns.signed/pooled"]
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()
