"""The space holds θ(v), counts and measures its groups, and contracts gradients without keeping one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.merging import pairs, tuned

from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.gradients.gradients import batch_of, evaluating
from crosstune.merging import interpolation
from crosstune.merging.session import Session


def opened(**options: Any) -> Session:
    options.setdefault("granularity", tuned.EVERY)
    return tuned.session(tuned.opened(*tuned.pair()), **options)


def inner_once(session: Session) -> torch.Tensor:
    model, item = session.ends.model, session.evaluator.items[0]
    with (
        evaluating(model, session.settings.gradient_settings()),
        session.space.contracting() as inner,
    ):
        batch = batch_of(item.rows, 0, torch.device("cpu"))
        with torch.enable_grad():
            token_nats(model, batch).double().sum().backward()
        assert all(p.grad is None for p in model.parameters())
        return inner.clone()


def test_a_matrix_is_blended_and_its_directions_are_set_apart() -> None:
    session = opened(granularity=("singular",))
    name = "model.layers.0.mlp.up_proj.weight"
    places = [at for at, group in enumerate(session.groups) if group.part.parameter == name]
    values = torch.ones(session.space.shape, dtype=torch.float64)
    values[0, places] = torch.tensor([0.25, 1.0, 0.0, 0.25, 0.5], dtype=torch.float64)
    session.space.place(values)
    before, after = (session.ends.tensor(at, name).double() for at in (0, 1))
    left, sizes, right = torch.linalg.svd(after - before, full_matrices=False)
    wanted = before + 0.25 * (after - before)
    for at, weight in enumerate((0.75, -0.25, 0.0, 0.25)):
        wanted += weight * sizes[at] * torch.outer(left[:, at], right[at])
    placed = dict(session.ends.model.named_parameters())[name]
    # float32 directions: 1.2e-7 of the change (norm 1.7) over the least gap of its singular values (0.03)
    torch.testing.assert_close(placed.double(), wanted, rtol=1e-5, atol=7e-6)


def test_a_class_of_rows_moves_alone() -> None:
    session = opened(granularity=("embedding_rows",))
    name = "model.embed_tokens.weight"
    values = torch.zeros(session.space.shape, dtype=torch.float64)
    (at,) = (
        at
        for at, group in enumerate(session.groups)
        if group.part.parameter == name and group.rows == "new"
    )
    values[0, at] = 1.0
    session.space.place(values)
    placed = dict(session.ends.model.named_parameters())[name]
    mine = sorted({t for row in tuned.encoded("bn", 8) for t in row.input_ids})
    assert torch.equal(placed[mine], session.ends.tensor(1, name)[mine])
    others = [row for row in range(23) if row not in mine]
    assert torch.equal(placed[others], session.ends.tensor(0, name)[others])
    assert session.space.count(session.groups[at]) == 16 * len(mine)


def test_gradients_add_up_until_they_are_zeroed_and_hooks_are_gone_afterwards() -> None:
    session = opened()
    first = inner_once(session)
    assert bool(first.any())
    torch.testing.assert_close(inner_once(session), first)  # identical arithmetic
    assert not any(p._post_accumulate_grad_hooks for p in session.ends.model.parameters())


def test_changes_that_are_not_cached_are_read_again_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached = inner_once(opened())
    monkeypatch.setattr(interpolation, "CACHE_BYTES", 0)
    streamed = opened()
    assert torch.equal(inner_once(streamed), cached)
    assert not streamed.space._cache


def test_products_of_half_precision_numbers_do_not_vanish() -> None:
    """1e-5 · 1e-5 is 0 in float16, and so would be every slope."""
    before = tuned.pair()[0].half()
    after = pairs.moved(before)
    session = tuned.session(tuned.opened(before, after, precision="model"), precision="model")
    name = session.ends.names[0]
    parameter = dict(session.ends.model.named_parameters())[name]
    assert parameter.dtype == torch.float16
    inner = torch.zeros(session.space.shape, dtype=torch.float64)
    session.space._cache[name] = [torch.full_like(parameter, 1e-5).float()]
    parameter.grad = torch.full_like(parameter, 1e-5)
    session.space._contract(name, parameter, inner)
    assert inner.sum().item() == pytest.approx(
        1e-10 * parameter.numel(), rel=0.05
    )  # float16 has 1e-5 to 0.3 %
