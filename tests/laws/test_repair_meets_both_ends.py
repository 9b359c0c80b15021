"""Law: a coefficient of 1 is the model after and of 0 the model before, bit for bit on any machine, at every granularity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models import decoders
from tests.interference import tiny
from tests.merging import pairs, tuned
from torch import Tensor

from crosstune.merging.groups import coordinates
from crosstune.merging.session import Session

FAMILIES = ("llama", "gpt2", "phi3", "gpt_neox", "mixtral", "qwen2_moe", "gemma2")
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
OF_SEVERAL = tuple(name for name in tuned.EVERY if name != "singular")


def held(session: Session, name: str, at: float | list[float]) -> dict[str, Tensor]:
    """What the work model holds where all coefficients of a granularity are so, of each end in turn."""
    axes = coordinates(name, session.groups, session.layers)
    each = np.atleast_1d(np.asarray(at, dtype=float))
    values = np.stack([np.full(axes.count, value) @ axes.matrix.T for value in each])
    session.space.place(torch.from_numpy(values), rounded=True)
    parameters = session.ends.model.named_parameters()
    return {key: value.detach().clone() for key, value in parameters}


def assert_same_bits(found: dict[str, Tensor], model: Any) -> None:
    wanted = dict(model.named_parameters())
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert torch.equal(value.to(wanted[name].dtype), wanted[name]), name
        assert torch.equal(value, wanted[name].to(value.dtype)), name


def opened(before: Any, after: Any, **options: Any) -> Session:
    granularity = OF_SEVERAL if options.get("between") else tuned.EVERY
    return tuned.session(tuned.opened(before, after, **options), granularity=granularity)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_or_nothing_of_a_change_is_one_of_the_ends(family: str) -> None:
    before, after = decoders.decoder(family, seed=0), decoders.decoder(family, seed=1)
    session = opened(before, after)
    for name in tuned.EVERY:
        assert_same_bits(held(session, name, 0.0), before)
        assert_same_bits(held(session, name, 1.0), after)


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_ends_are_met_in_every_dtype(dtype: torch.dtype, tied: bool) -> None:
    before = tiny.llama(seed=1, tied=tied).to(dtype).eval()
    after = pairs.moved(before)
    session = opened(before, after)
    for name in tuned.EVERY:
        assert_same_bits(held(session, name, 0.0), before)
        assert_same_bits(held(session, name, 1.0), after)
        assert not torch.equal(
            held(session, name, 0.5)["model.norm.weight"], after.model.norm.weight
        )


def test_a_coefficient_of_one_gives_the_logits_of_the_model_after() -> None:
    before, after = tuned.pair()
    session = opened(before, after)
    for at, model in ((0.0, before), (1.0, after)):
        held(session, "singular", at)
        assert torch.equal(pairs.logits(session.ends.model), pairs.logits(model))


def test_a_fresh_adapter_begins_at_its_base_and_ends_at_itself() -> None:
    base, adapter = tuned.adapted()
    session = opened(base, adapter)
    for name in tuned.EVERY:
        held(session, name, 0.0)
        assert torch.equal(pairs.logits(session.ends.model), pairs.logits(base))
        assert_same_bits(held(session, name, 1.0), adapter)
        assert torch.equal(pairs.logits(session.ends.model), pairs.logits(adapter))


@pytest.mark.parametrize("family", ["llama", "llama_biased", "gpt2", "phi3", "gpt_neox"])
def test_equal_coefficients_of_heads_are_the_components(family: str) -> None:
    """Of split, fused and interleaved projections, with grouped queries and without."""
    before, after = decoders.decoder(family, seed=0), decoders.decoder(family, seed=1)
    session = tuned.session(tuned.opened(before, after), granularity=("head", "kv_head"))
    plain = tuned.session(tuned.opened(before, after))
    coarse = coordinates("component", session.groups, session.layers)
    at = np.random.default_rng(0).uniform(size=coarse.count)
    values = (coarse.matrix @ at)[None]
    whole = (coordinates("component", plain.groups, plain.layers).matrix @ at)[None]
    plain.space.place(torch.from_numpy(whole))
    for name in ("kv_head", "head"):
        fine = coordinates(name, session.groups, session.layers)
        assert fine.project(values) is not None and fine.count > coarse.count
    session.space.place(torch.from_numpy(values))
    assert_same_bits(dict(session.ends.model.named_parameters()), plain.ends.model)


def test_equal_coefficients_of_an_adapters_heads_compute_what_the_components_do() -> None:
    """The factor that moves is another, so the product agrees to rounding and not to the bit."""
    base, adapter = (model.double() for model in tuned.adapted())
    by_head = tuned.session(tuned.opened(base, adapter), granularity=("head",))
    plain = tuned.session(tuned.opened(base, adapter))
    at = np.random.default_rng(0).uniform(size=14)
    for session in (by_head, plain):
        axes = coordinates("component", session.groups, session.layers)
        session.space.place(torch.from_numpy((axes.matrix @ at)[None]))
    found, wanted = (pairs.logits(one.ends.model) for one in (by_head, plain))
    # Float64, but norms are float32: 6e-8 * 16 of logits near 1.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.equal(wanted, pairs.logits(adapter))


def test_a_soup_has_every_checkpoint_at_a_corner() -> None:
    before, after = tuned.pair()
    middle = pairs.moved(before, seed=9)
    session = opened(before, after, between=[middle])
    for name in OF_SEVERAL:
        assert_same_bits(held(session, name, [0.0, 0.0]), before)
        assert_same_bits(held(session, name, [1.0, 0.0]), middle)
        for first in (0.0, 0.5, 1.0):
            assert_same_bits(held(session, name, [first, 1.0]), after)
