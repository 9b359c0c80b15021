"""Laws of circuit scores: what scaling, exchanging, cutting and reordering must and must not do to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tests.circuits.toy_attention import BLOCKS, Sample, Toy

from crosstune.circuits.scoring.engine import BlockScores, score_layer
from crosstune.circuits.scoring.memory import Cuts
from crosstune.circuits.settings import CircuitSettings, Form

TOY = Toy.make()
A, B = TOY.samples(10, 1), TOY.samples(6, 2)
ALL = [
    *(Form(v, f) for v in ("directional", "signed", "symmetric")
      for f in ("task_a", "pooled", "held_out", "leave_one_out")),
    Form("ewc", "task_a"),
    Form("kfac", "task_a"),
]  # fmt: skip
DIRECTIONAL, BLIND = Form("directional", "pooled"), Form("directional", "task_a")
SIGNED, SYMMETRIC = Form("signed", "pooled"), Form("symmetric", "pooled")
EXACT = CircuitSettings(epsilon=0.0, min_samples=3)
ROUNDING = 1e-9  # float64: 1e2 terms in another order, 2e-15, through an inverse whose condition is at most 1e5


def scores(
    toy: Toy = TOY,
    a: Sequence[Sample] = A,
    b: Sequence[Sample] = B,
    settings: CircuitSettings = EXACT,
    forms: Sequence[Form] = ALL,
) -> dict[str, BlockScores]:
    layers = (toy.layer(a), toy.layer(b))
    return score_layer(*layers, settings, heads=toy, forms=forms)


def test_a_loss_times_a_factor() -> None:
    """Directional × a, EWC × a⁴; what has no unit stays."""
    power = {"directional": 1, "ewc": 4, "signed": 0, "symmetric": 0, "kfac": 0}
    before, after = scores(), scores(replace(TOY, scale=7.0))
    for block in BLOCKS:
        for form in ALL:
            expected = before[block].pairs[form] * 7.0 ** power[form.variant]
            torch.testing.assert_close(
                after[block].pairs[form], expected, rtol=ROUNDING, atol=1e-12
            )
        torch.testing.assert_close(after[block].l1_b, 7.0 * before[block].l1_b)


@pytest.mark.parametrize(
    ("change", "power"),
    [({"q": 3.0, "k": 1 / 3.0}, {"q": -1, "k": 1}), ({"v": 3.0, "o": 1 / 3.0}, {"v": -1, "o": 1})],
    ids=["qk", "vo"],
)
def test_a_rescaling_that_leaves_the_function(
    change: dict[str, float], power: dict[str, int]
) -> None:
    """W × c and its partner / c: directional scores follow the gradient's scale; those without a unit stay."""
    other = TOY.with_weights(**change)
    assert other.loss(A[0]) == pytest.approx(TOY.loss(A[0]), rel=1e-12)
    before, after = scores(), scores(other)
    for block in BLOCKS:
        for form in ALL:
            moved = {"directional": 1, "ewc": 4}.get(form.variant, 0) * power.get(block, 0)
            expected = before[block].pairs[form] * 3.0**moved
            torch.testing.assert_close(
                after[block].pairs[form], expected, rtol=ROUNDING, atol=1e-12
            )


@pytest.mark.parametrize("fisher", ["task_a", "pooled", "held_out", "leave_one_out"])
def test_signed_is_within_symmetric(fisher: str) -> None:
    for found in scores().values():
        signed, symmetric = (found.pairs[Form(v, fisher)] for v in ("signed", "symmetric"))
        assert (signed.abs() <= symmetric * (1 + 1e-12)).all()
        assert (signed.abs() < symmetric).any()


@pytest.mark.parametrize("form", [SIGNED, Form("kfac", "task_a")], ids=str)
def test_signed_scores_are_an_inner_product(form: Form) -> None:
    """With the same rows in both tasks: symmetric, no eigenvalue below 0, Cauchy-Schwarz."""
    for found in scores(b=A).values():
        gram = found.pairs[form].permute(2, 0, 1)
        torch.testing.assert_close(gram, gram.mT, rtol=ROUNDING, atol=1e-12)
        values = torch.linalg.eigvalsh(gram)
        assert (values >= -1e-9 * values[:, -1:]).all()
        own = gram.diagonal(dim1=1, dim2=2)
        assert (gram.square() <= own[:, :, None] * own[:, None, :] * (1 + 1e-9)).all()


def test_exchanging_the_tasks() -> None:
    """Symmetric and signed scores do not tell the tasks apart under the pooled Fisher; under A's own they do."""
    one, other = scores(), scores(a=B, b=A)
    for block in BLOCKS:
        for form in (SYMMETRIC, SIGNED):
            torch.testing.assert_close(
                one[block].pairs[form], other[block].pairs[form].transpose(0, 1)
            )
        for form in (Form("symmetric", "task_a"), DIRECTIONAL):
            gap = one[block].pairs[form] - other[block].pairs[form].transpose(0, 1)
            assert gap.abs().max() > 0.01 * one[block].pairs[form].max()


def test_the_average_over_a_under_its_own_fisher_is_the_l1_norm_of_b() -> None:
    """Exactly, for the same samples and without damping: that average says nothing about A. Under the pooled Fisher it does."""
    undamped = replace(EXACT, damping_share=0.0)
    others = TOY.samples(10, 8)
    for average in ("task_a", "pooled"):
        settings = replace(undamped, averages=average)
        one, other = (scores(a=a, settings=settings, forms=[BLIND]) for a in (A, others))
        for block in BLOCKS:
            ratios = [
                found.columns[Form("directional", average)].mean(0) / found.l1_b
                for found in (one[block], other[block])
            ]
            if average == "task_a":
                for found, ratio in zip((one[block], other[block]), ratios, strict=True):
                    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-12, atol=0)
                    averaged = found.pairs[BLIND].mean(0) / found.l1_b
                    torch.testing.assert_close(averaged, ratio, rtol=1e-12, atol=0)
            else:
                assert (ratios[0] - 1).abs().mean() > 0.05  # 0.13 at least over seeds
                assert (ratios[0] - ratios[1]).abs().max() > 0.05


def test_heads_add_up_to_the_block() -> None:
    """Under the same elementwise D; key-value heads count once."""
    undamped = replace(EXACT, damping_share=0.0)
    forms = [form for form in ALL if form.variant != "kfac"]
    by_head = scores(settings=undamped, forms=forms)
    whole = replace(TOY, heads=1, kv_heads=1)

    def as_one(samples: Sequence[Sample]) -> object:
        layer = TOY.layer(samples)
        one = dict.fromkeys(BLOCKS, 1)
        return replace(layer, batches=tuple(replace(batch, heads=one) for batch in layer.batches))

    at_once = score_layer(as_one(A), as_one(B), undamped, heads=whole, forms=forms)
    for block in BLOCKS:
        assert by_head[block].heads == tuple(range(2 if block in "kv" else 4))
        for form in forms:
            torch.testing.assert_close(
                by_head[block].pairs[form].sum(-1, keepdim=True), at_once[block].pairs[form]
            )
        torch.testing.assert_close(by_head[block].l1_b.sum(-1, keepdim=True), at_once[block].l1_b)


@pytest.mark.parametrize("epsilon", [0.0, 1e-12])
def test_a_head_that_writes_nothing_scores_exactly_nothing_in_o(epsilon: float) -> None:
    """W_v of key-value head 0 is zero, so its two query heads hand o zeros."""
    weights = dict(TOY.weights)
    weights["v"] = weights["v"].clone()
    weights["v"][:3] = 0.0
    toy = replace(TOY, weights=weights)
    # a Fisher of 0 that has not seen the sample it divides, or has no inverse, needs a floor
    forms = [
        f for f in ALL if epsilon or (f.fisher in ("task_a", "pooled") and f.variant != "kfac")
    ]
    found = scores(toy, settings=replace(EXACT, epsilon=epsilon), forms=forms)["o"]
    for form in forms:
        assert (found.pairs[form][:, :, :2] == 0).all()
        assert (found.pairs[form][:, :, 2:] != 0).any()
    assert (found.l1_b[:, :2] == 0).all()
    assert found.fishers["pooled"].max[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("cut", [(4, 3, 3), (4, 3, 1), (3, 3, 2), (1, 3, 3), (1, 2, 1), (1, 1, 1)])
def test_cuts_change_nothing(cut: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads at a time, features at a time, features in one pass: the figures are the same to rounding."""
    expected = scores()

    def fixed(cls: type[Cuts], need: object, budget: float, *, cached: bool) -> Cuts:
        return cls(*cut, need)

    monkeypatch.setattr(Cuts, "of", classmethod(fixed))
    _assert_same(scores(), expected)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_batches_change_nothing(batch: int) -> None:
    """Also where rows of a batch do not lie in their order, and so however far they are padded."""
    order = torch.randperm(len(A), generator=torch.Generator().manual_seed(batch)).tolist()
    a, b = TOY.layer(A, order, batch), TOY.layer(B, batch=batch)
    found = score_layer(a, b, EXACT, heads=TOY, forms=ALL)
    _assert_same(found, scores())


def test_the_order_of_samples_orders_the_scores() -> None:
    """Halves, which are places, apart."""
    forms = [form for form in ALL if form.fisher != "held_out"]
    order = [7, 2, 9, 0, 1, 5, 8, 3, 6, 4]
    expected = scores(forms=forms)
    found = scores(a=[A[i] for i in order], forms=forms)
    for block in BLOCKS:
        for form in forms:
            rows = [0] if form.variant == "ewc" else order
            torch.testing.assert_close(
                found[block].pairs[form],
                expected[block].pairs[form][rows],
                rtol=ROUNDING,
                atol=1e-12,
            )


def _assert_same(found: dict[str, BlockScores], expected: dict[str, BlockScores]) -> None:
    for block in BLOCKS:
        one, other = found[block], expected[block]
        assert one.heads == other.heads
        for name in ("pairs", "columns", "rows"):
            for form, values in getattr(other, name).items():
                torch.testing.assert_close(
                    getattr(one, name)[form], values, rtol=ROUNDING, atol=1e-12
                )
        for name in ("l1_b", "norm_a", "norm_b"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name))
        for kind, facts in other.fishers.items():
            for name in ("min", "median", "max", "below_epsilon", "damping"):
                torch.testing.assert_close(
                    getattr(one.fishers[kind], name), getattr(facts, name), rtol=1e-9, atol=0
                )
