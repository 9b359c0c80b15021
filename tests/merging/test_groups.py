"""Groups cover every changed element once; a granularity ties them together, and finer cuts hold coarser ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models import decoders
from tests.merging import tuned

from crosstune.foundation.models import Anatomy, Part, Site
from crosstune.merging import groups as groups_module
from crosstune.merging.groups import (
    Directions,
    ParameterGroup,
    as_matrix,
    coordinates,
    leading,
    led,
    parameter_groups,
    row_classes,
)

CLASSES = row_classes({3, 4, 13}, {4, 5}, 23)


def groups_of(model: Any, **options: Any) -> tuple[ParameterGroup, ...]:
    names = [name for name, _ in model.named_parameters()]
    return parameter_groups(Anatomy.of(model), names, **({"rows": {}, "directions": {}} | options))


def test_rows_of_the_embedding_are_told_apart_by_who_uses_them() -> None:
    found = {name: mask.nonzero().flatten().tolist() for name, mask in CLASSES.items()}
    assert found["new"] == [3, 13] and found["both"] == [4] and found["old"] == [5]
    assert sum(len(rows) for rows in found.values()) == 23


def test_a_class_without_rows_is_left_out() -> None:
    assert list(row_classes({0, 1}, {0, 1}, 2)) == ["both"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gpt_neox", "mixtral"])
@pytest.mark.parametrize("heads", [False, True])
def test_groups_cover_every_element_once(family: str, heads: bool) -> None:
    model = decoders.decoder(family)
    for name, parameter in model.named_parameters():
        touched = torch.zeros_like(parameter)
        for group in groups_of(model, heads=heads):
            if group.part.parameter == name:
                group.elements.take(touched).add_(1.0)
        assert bool((touched == 1.0).all()), name


@pytest.mark.parametrize(("family", "kv_heads"), [("llama", 2), ("phi3", 2), ("gpt_neox", 4)])
def test_attention_is_cut_by_head_and_nothing_else(family: str, kv_heads: int) -> None:
    model = decoders.decoder(family)
    groups = groups_of(model, heads=True)
    for component, heads in (("attn.q", 4), ("attn.o", 4), ("attn.k", kv_heads)):
        own = [p for p in groups if p.site.component == component and p.site.layer == 1 and p.head]
        numbers = [p.site.head if p.site.kv_head is None else p.site.kv_head for p in own]
        assert sorted(set(numbers)) == list(range(heads))
        assert [p.kv_head for p in own] == [n * kv_heads // heads for n in numbers]
    others = [p for p in groups if not p.site.component.startswith("attn.")]
    assert all(p.head is None and p.kv_head == -1 for p in others)
    assert [replace(p, head=None, kv_head=-1) for p in others] == [
        p for p in groups_of(model) if not p.site.component.startswith("attn.")
    ]


def test_only_token_embeddings_and_heads_are_cut_by_rows() -> None:
    for family, cut_by_rows in (("gpt2", {"embed+head"}), ("llama", {"embed", "head"})):
        groups = groups_of(decoders.decoder(family), rows=row_classes({3}, {4}, 40))
        assert {group.site.component for group in groups if group.rows} == cut_by_rows


@pytest.mark.parametrize("name", tuned.EVERY)
def test_every_group_has_one_coordinate_and_a_ramp_two(name: str) -> None:
    session = tuned.session(tuned.opened(*tuned.pair()), granularity=tuned.EVERY)
    axes = coordinates(name, session.groups, session.layers)
    np.testing.assert_allclose(axes.matrix.sum(1), 1.0)
    assert (axes.matrix.sum(0) > 0).all()
    if name != "ramp":
        assert set(np.unique(axes.matrix)) == {0.0, 1.0} or axes.count == 1


def test_the_number_of_coordinates_is_that_of_what_they_are_called() -> None:
    session = tuned.session(tuned.opened(*tuned.pair()), granularity=tuned.EVERY, directions=2)
    model = session.ends.model
    count = {n: coordinates(n, session.groups, session.layers).count for n in tuned.EVERY}
    assert count["global"] == 1 and count["ramp"] == 2
    assert count["layer"] == 2 + 3  # blocks, embedding, final norm, head
    assert count["component"] == count["expert"] == 2 * 8 + 3
    assert count["tensor"] == len(list(model.parameters())) == 21
    classes = len({group.rows for group in session.groups if group.rows})
    assert classes > 1 and count["embedding_rows"] == count["component"] + 2 * (classes - 1)
    assert count["kv_head"] == count["component"] + 2 * 4 * (2 - 1)
    assert count["head"] == count["component"] + 2 * 2 * (4 - 1) + 2 * 2 * (2 - 1)
    matrices = sum(p.dim() == 2 for p in model.parameters())
    assert count["singular"] == count["tensor"] + 2 * matrices


def test_experts_have_coefficients_of_their_own() -> None:
    groups = groups_of(decoders.decoder("mixtral"))
    fine, coarse = (coordinates(name, groups, 3) for name in ("expert", "component"))
    assert fine.count - coarse.count == 3 * 3 * 2  # layers, matrices, experts but the first


def test_a_ramp_is_linear_in_depth_with_embeddings_first_and_head_last() -> None:
    groups = groups_of(decoders.decoder("llama"))
    values = coordinates("ramp", groups, 3).matrix @ np.array([0.2, 1.0])
    found = {
        (group.site.layer, group.site.component): v for group, v in zip(groups, values, strict=True)
    }
    assert found[None, "embed"] == found[0, "attn.q"] == pytest.approx(0.2)
    assert found[1, "attn.q"] == pytest.approx(0.6)
    assert found[2, "mlp.down"] == found[None, "norm"] == found[None, "head"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("coarse", "fine"),
    [("global", "ramp"), ("global", "layer"), ("layer", "component"), ("ramp", "layer"),
     ("component", "expert"), ("component", "tensor"), ("component", "embedding_rows"),
     ("tensor", "singular"), ("expert", "singular"), ("component", "kv_head"), ("kv_head", "head")],
)  # fmt: skip
def test_what_a_coarse_cut_can_a_fine_one_can(coarse: str, fine: str) -> None:
    """But a ramp ties the embeddings to the first block, as no layer-wise cut must."""
    session = tuned.session(tuned.opened(*tuned.pair()), granularity=tuned.EVERY)
    over, under = (coordinates(n, session.groups, session.layers) for n in (coarse, fine))
    values = (over.matrix @ np.random.default_rng(0).uniform(size=over.count))[None]
    found = under.project(values)
    assert found is not None
    np.testing.assert_allclose(found @ under.matrix.T, values, atol=1e-12)


def test_what_lies_beside_a_granularity_has_no_coordinates_in_it() -> None:
    session = tuned.session(tuned.opened(*tuned.pair()))
    axes = coordinates("global", session.groups, session.layers)
    values = np.ones((1, len(session.groups)))
    assert axes.project(values) is not None
    values[0, 3] -= 1e-6  # far more than rounding, far less than a search's step
    assert axes.project(values) is None


def test_a_direction_is_led_by_the_first_group_of_its_part() -> None:
    session = tuned.session(tuned.opened(*tuned.pair()), granularity=("singular", "embedding_rows"))
    for group, leader in led(session.groups):
        assert leader.part == group.part and leader.direction == -1
        assert leader is group or group.direction >= 0
    counted = Counter(group.part for group in session.groups if group.direction >= 0)
    assert set(counted.values()) == {tuned.SMALL.directions}


def test_both_factors_of_an_adapter_are_one_component() -> None:
    session = tuned.session(tuned.opened(*tuned.adapted()))
    assert all(group.site.factor is None for group in session.groups)
    assert {group.part.site.factor for group in session.groups} == {"B"}


SITE = Site(0, "mlp.up")


def part(*shape: int) -> Part:
    return Part(SITE, "weight", shape)


def change(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns, dtype=dtype)


def found(delta: torch.Tensor, count: int, factor: Any = None) -> Directions:
    of = Part(replace(SITE, factor=factor), "weight", tuple(delta.shape))
    made = leading(of, delta, count)
    assert made is not None
    return made


def test_all_directions_together_are_the_change() -> None:
    delta = change(5, 7)
    made = found(delta, 9)
    assert made.count == 5
    torch.testing.assert_close(made.combine(torch.ones(5)), delta)


def test_the_first_directions_are_the_best_of_their_rank() -> None:
    """Against the Eckart–Young oracle: the error is the sum of the squares of the other singular values."""
    delta = change(6, 8)
    rest = delta - found(delta, 2).combine(torch.ones(2))
    sizes = torch.linalg.svdvals(delta)
    torch.testing.assert_close(rest.square().sum(), sizes[2:].square().sum())


def test_inner_products_are_those_of_the_directions_themselves() -> None:
    delta, gradient = change(6, 8), change(8, 6).T
    made = found(delta, 3)
    for at in range(3):
        alone = made.combine(torch.eye(3)[at])
        torch.testing.assert_close(made.inner(gradient)[at], (gradient * alone).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_the_change_is_kept_and_half_is_widened(dtype: torch.dtype) -> None:
    assert found(change(4, 3, dtype), 2).left.dtype == dtype
    assert found(change(4, 3).bfloat16(), 2).left.dtype == torch.float32


def test_a_large_matrix_is_decomposed_at_random_but_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delta = change(40, 3) @ change(3, 30) + 1e-3 * change(40, 30)
    exact = found(delta, 3)
    monkeypatch.setattr(groups_module, "_EXACT", 8)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, other = found(delta, 3), found(delta, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)
    torch.testing.assert_close(
        one.combine(torch.ones(3)), exact.combine(torch.ones(3)), rtol=1e-4, atol=1e-4
    )


def test_the_columns_of_b_and_the_rows_of_a_are_their_directions() -> None:
    delta = change(6, 4)
    delta[:, 2] = 0.0
    made = found(delta, 1, factor="B")
    assert made.count == 3
    torch.testing.assert_close(made.combine(torch.tensor([0.0, 1.0, 0.0]))[:, 1], delta[:, 1])
    torch.testing.assert_close(made.combine(torch.ones(3)), delta)
    turned = found(delta.T, 1, factor="A")
    torch.testing.assert_close(
        turned.left.square().sum(dim=0), made.left.square().sum(dim=0)
    )  # the sizes stand in it
    for chosen in (torch.tensor([0.0, 1.0, 0.0]), torch.ones(3)):
        torch.testing.assert_close(turned.combine(chosen), made.combine(chosen).T)


def test_neither_a_vector_nor_no_change_has_directions() -> None:
    assert leading(part(5), torch.ones(5), 2) is None
    assert leading(part(5, 4), torch.zeros(5, 4), 2) is None


def test_stacks_and_heads_are_read_as_matrices() -> None:
    assert as_matrix(torch.zeros(1, 4, 3)).shape == (4, 3)  # type: ignore[union-attr]
    assert as_matrix(torch.zeros(2, 4, 3)).shape == (8, 3)  # type: ignore[union-attr]
    assert as_matrix(torch.zeros(1, 4)) is None
