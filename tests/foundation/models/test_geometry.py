"""The head geometry is the configuration's, and a cut is a view of exactly the features it names."""

from __future__ import annotations

import torch
from tests.foundation.models.decoders import decoder

from crosstune.foundation.models.geometry import HeadCut, HeadGeometry
from crosstune.foundation.models.site import Cut


def test_head_geometry_is_the_configuration_s() -> None:
    assert HeadGeometry.of(decoder("qwen3").config) == HeadGeometry(4, 2, 8)
    assert HeadGeometry.of(decoder("qwen2").config) == HeadGeometry(4, 2, 4)
    assert HeadGeometry.of(decoder("gpt2").config) == HeadGeometry(4, 4, 4)


def test_keys_and_values_have_key_value_heads() -> None:
    geometry = HeadGeometry(4, 2, 8)
    counts = {block: geometry.count(f"attn.{block}") for block in "qkvo"}
    assert counts == {"q": 4, "k": 2, "v": 2, "o": 4}
    assert (geometry.features("attn.q"), geometry.features("attn.v")) == (32, 16)


def taken(cut: HeadCut) -> list[list[int]]:
    features = torch.arange(12).expand(5, 12)
    view = cut.take(features)
    assert view.untyped_storage().data_ptr() == features.untyped_storage().data_ptr()
    assert len(view) == 5
    found: list[list[int]] = view[2].tolist()
    return found


def test_features_lie_split_fused_or_interleaved() -> None:
    split = HeadCut(0, (4, 3))
    assert (split.layout, split.heads, split.features) == ("split", 4, 12)
    assert taken(split) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    fused = HeadCut(0, (6, 2), Cut(0, 3, 5))
    assert (fused.layout, fused.heads, fused.features) == ("fused", 2, 12)
    assert taken(fused) == [[6, 7], [8, 9]]
    interleaved = HeadCut(0, (2, 3, 2), Cut(1, 1, 2))
    assert (interleaved.layout, interleaved.heads) == ("interleaved", 2)
    assert taken(interleaved) == [[2, 3], [8, 9]]
