"""Oracle: the two-pass sums equal those of the whole Gram matrix of per-block gradients from torch.func."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interference import known_sources, tiny
from torch import Tensor
from torch.func import functional_call, grad

from crosstune.foundation.gradients.blocks import Block
from crosstune.interference.conflict.collect import collect_sums
from crosstune.interference.conflict.cosine import PairSums, agreement

PARALLEL = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24)}  # translations share groups
DISJOINT = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24, start=100)}
ROUNDING = 2e-5  # float32: 1e3 terms (tokens × width) in another order, 1.2e-7 * sqrt(1e3), times a condition of 5


def close(found: Tensor, expected: Tensor) -> None:
    """Within rounding of the largest entry of each site."""
    if expected.numel():
        scale = expected.abs().amax(0, keepdim=True)
        assert bool(((found - expected).abs() <= ROUNDING * scale).all())


def slow_gradient(model: Any, block: Block) -> dict[str, Tensor]:
    """∇ Σ nats / expected tokens by torch.func, one row at a time, without padding or batches."""

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for row in block.rows:
            ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels)
            logits = functional_call(model, parameters, (ids,)).logits[0, :-1]
            chosen = labels[1:] != -100
            logs = logits.log_softmax(-1)[chosen]
            total = total - logs.gather(1, labels[1:][chosen][:, None]).sum()
        return total / block.expected_tokens

    return grad(loss)({name: p.detach() for name, p in model.named_parameters()})


@pytest.mark.parametrize("tasks", [PARALLEL, DISJOINT], ids=["parallel", "disjoint"])
def test_sums_equal_those_of_the_gram_matrix(tasks: dict[str, Any]) -> None:
    model = tiny.llama().eval()
    compared = known_sources.comparison(model, tasks)
    blocks = [block for some in compared.blocks.values() for block in some]
    gradients = [slow_gradient(model, block) for block in blocks]
    gram = torch.stack(
        [torch.stack([compared.anatomy.inner(a, b) for b in gradients]) for a in gradients]
    )
    found = compared.sums(model)["current"]["en", "bn"]
    expected = PairSums.from_gram(gram, 8, found.masked_pairs)
    assert len(found.masked_pairs) == (8 if tasks is PARALLEL else 0)
    for name in ("own_a", "within_a", "across_a", "own_b", "within_b", "across_b", "masked"):
        close(getattr(found, name), getattr(expected, name))
    mine, slow = agreement(found), agreement(expected)
    # U_AA and U_BB may be near 0 and the cosine anything, so the means are compared, at the scale of the norms.
    for name in ("reliability_a", "reliability_b", "naive_cosine"):
        torch.testing.assert_close(getattr(mine, name), getattr(slow, name), rtol=0, atol=ROUNDING)
    across = [one.u.ab / (one.norm_a * one.norm_b) for one in (mine, slow)]
    torch.testing.assert_close(*across, rtol=0, atol=ROUNDING)


def test_planted_gradients_give_their_gram_matrix() -> None:
    anatomy = known_sources.tiny_anatomy()
    a, b = (known_sources.random_gradients(anatomy, k, seed) for k, seed in ((3, 1), (4, 2)))
    groups_a, groups_b = [{"x"}, {"y"}, {"z"}], [{"p"}, {"x"}, {"q", "z"}, {"x", "r"}]
    sources = [
        known_sources.KnownSource("a", a, groups_a),
        known_sources.KnownSource("b", b, groups_b),
    ]
    found = collect_sums(sources, [("a", "b")], anatomy)["a", "b"]
    gram = torch.stack([torch.stack([anatomy.inner(x, y) for y in a + b]) for x in a + b])
    expected = PairSums.from_gram(gram, 3, found.masked_pairs)
    assert found.masked_pairs.tolist() == [[0, 1], [0, 3], [2, 2]]
    for name in ("own_a", "within_a", "across_a", "own_b", "within_b", "across_b", "masked"):
        close(getattr(found, name), getattr(expected, name))
