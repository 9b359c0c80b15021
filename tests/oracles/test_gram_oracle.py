"""Oracle: the two-pass sums equal those of the whole Gram matrix of per-block gradients from torch.func."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interference import known_sources, tiny
from torch import Tensor
from torch.func import functional_call, grad

from crosstune.interference.agreement import PairSums, agreement
from crosstune.interference.blocks import Block
from crosstune.interference.collect import collect_sums

PARALLEL = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24)}  # translations share groups
DISJOINT = {"en": tiny.rows("en", 24), "bn": tiny.rows("bn", 24, start=100)}


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
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=2e-4, atol=2e-6
        )
    cosine = agreement(found).cosine.value
    assert int((~cosine.isnan()).sum()) >= 15
    torch.testing.assert_close(
        cosine, agreement(expected).cosine.value, rtol=1e-3, atol=1e-4, equal_nan=True
    )


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
        # Summing before multiplying rounds in float32.
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-4
        )
