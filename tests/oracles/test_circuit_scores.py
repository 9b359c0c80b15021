"""Oracle: every form of a circuit score equals a slow loop over samples, pairs and elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.circuits.toy_attention import BLOCKS, Batch, Layer, Sample, Toy
from torch import Tensor, nn

from crosstune.circuits.scoring.engine import score_layer
from crosstune.circuits.scoring.fisher import Squares
from crosstune.circuits.scoring.kfac import KroneckerFactors
from crosstune.circuits.scoring.tiles import BlockFactors
from crosstune.circuits.settings import FISHERS, CircuitSettings, Form

NORMALISED = [Form(v, f) for v in ("directional", "signed", "symmetric") for f in FISHERS]
Slice = list[list[float]]  # [samples][elements] of one head
COUNT_A, COUNT_B = 7, 5
ROUNDING = 1e-11  # float64 sums of some 50 terms, 2e-15, where signed ones may cancel to 1e-3


def mean_square(rows: Slice) -> list[float]:
    return [math.fsum(row[k] ** 2 for row in rows) / len(rows) for k in range(len(rows[0]))]


def slow_fisher(
    kind: str, i: int, a: Slice, b: Slice, true: Slice
) -> tuple[list[float], list[float]]:
    """The Fisher that normalises sample i, and the one whose median makes λ."""
    if kind == "pooled":
        found = [(x + y) / 2 for x, y in zip(mean_square(a), mean_square(b), strict=True)]
        return found, found
    if kind == "leave_one_out":
        return mean_square([row for at, row in enumerate(a) if at != i]), mean_square(a)
    others = {
        "task_a": a,
        "true": true,
        "held_out": [row for at, row in enumerate(a) if at % 2 != i % 2],
    }[kind]
    return mean_square(others), mean_square(others)


def slow_divisor(fisher: float, scale: float, settings: CircuitSettings) -> float:
    kept = max(fisher, settings.epsilon)
    if settings.damping == "floor":
        return max(kept, scale)
    if settings.damping == "conditional":
        return kept + scale if fisher < 10 * settings.epsilon else kept
    return kept + scale


TERMS: dict[str, Callable[[float, float, float], float]] = {
    "directional": lambda gi, gj, d: gi * gi / d * abs(gj),
    "signed": lambda gi, gj, d: gi * gj / d,
    "symmetric": lambda gi, gj, d: abs(gi) * abs(gj) / d,
}


def slow_scores(form: Form, a: Slice, b: Slice, true: Slice, settings: CircuitSettings) -> Tensor:
    """The scores [nA, nB] of one head, from the definition."""
    found = torch.zeros(len(a), len(b), dtype=torch.float64)
    for i, gi in enumerate(a):
        fisher, typical = slow_fisher(form.fisher, i, a, b, true)
        scale = settings.damping_share * sorted(typical)[(len(typical) - 1) // 2]
        for j, gj in enumerate(b):
            found[i, j] = math.fsum(
                TERMS[form.variant](x, y, slow_divisor(f, scale, settings))
                for x, y, f in zip(gi, gj, fisher, strict=True)
            )
    return found


def redrawn(samples: Sequence[Sample]) -> list[Sample]:
    return [Sample(sample.x, (sample.labels + 3) % 7) for sample in samples]


@pytest.mark.parametrize("damping", ["add", "floor", "conditional"])
def test_normalised_forms_equal_a_slow_loop(damping: str) -> None:
    toy = Toy.make()
    a, b = toy.samples(COUNT_A, 1), toy.samples(COUNT_B, 2)
    true = redrawn(a)
    # ε of a size that matters: some entries lie below it, some between it and ten times it
    settings = CircuitSettings(
        damping=damping, damping_share=0.5, epsilon=2e-3, min_samples=3, averages="pooled"
    )
    layers = [toy.layer(rows, order=reversed(range(len(rows)))) for rows in (a, b, true)]
    found = score_layer(
        layers[0],
        layers[1],
        settings,
        true=layers[2],
        heads=toy,
        forms=NORMALISED,
    )
    below = set()
    for block in BLOCKS:
        slices = [toy.gradients(rows, block) for rows in (a, b, true)]
        for head in range(toy.heads_of(block)):
            rows = [gradients[:, head].tolist() for gradients in slices]
            for form in NORMALISED:
                expected = slow_scores(form, rows[0], rows[1], rows[2], settings)
                torch.testing.assert_close(
                    found[block].pairs[form][:, :, head],
                    expected,
                    rtol=ROUNDING,
                    atol=ROUNDING / 100,
                )
            facts = found[block].fishers["pooled"]
            fisher = slow_fisher("pooled", 0, *rows)[0]
            ordered = sorted(fisher)
            assert float(facts.min[head]) == pytest.approx(ordered[0], rel=1e-12)
            assert float(facts.max[head]) == pytest.approx(ordered[-1], rel=1e-12)
            median = ordered[(len(ordered) - 1) // 2]
            assert float(facts.median[head]) == pytest.approx(median, rel=1e-12)
            assert float(facts.damping[head]) == pytest.approx(0.5 * median, rel=1e-12)
            share = sum(f < 2e-3 for f in fisher) / len(fisher)
            assert float(facts.below_epsilon[head]) == pytest.approx(share, abs=1e-7)
            below.add(share)
    assert max(below) > 0  # ε was met somewhere


@pytest.mark.parametrize("fisher", FISHERS)
def test_averages_equal_means_of_slow_pairs(fisher: str) -> None:
    """Also those of forms whose pairs were never made."""
    toy = Toy.make()
    a, b = toy.samples(COUNT_A, 1), toy.samples(COUNT_B, 2)
    true = redrawn(a)
    settings = CircuitSettings(min_samples=3, averages=fisher)
    layers = [toy.layer(rows) for rows in (a, b, true)]
    found = score_layer(
        layers[0],
        layers[1],
        settings,
        true=layers[2],
        heads=toy,
        forms=[Form("signed", fisher)],
    )
    for block in BLOCKS:
        slices = [toy.gradients(rows, block) for rows in (a, b, true)]
        for head in range(toy.heads_of(block)):
            rows = [gradients[:, head].tolist() for gradients in slices]
            for form in settings.average_forms:
                pairs = slow_scores(form, rows[0], rows[1], rows[2], settings)
                columns = torch.stack([pairs[0::2].mean(0), pairs[1::2].mean(0)])
                halves = torch.stack([pairs[:, 0::2].mean(1), pairs[:, 1::2].mean(1)])
                scores = found[block]
                torch.testing.assert_close(scores.columns[form][..., head], columns)
                torch.testing.assert_close(scores.rows[form][..., head], halves)


def test_ewc_and_norms_equal_a_slow_loop() -> None:
    toy = Toy.make()
    a, b = toy.samples(COUNT_A, 1), toy.samples(COUNT_B, 2)
    settings = CircuitSettings(variants=("ewc",), min_samples=3)
    found = score_layer(toy.layer(a), toy.layer(b), settings, heads=toy)
    form = Form("ewc", "task_a")
    for block in BLOCKS:
        of_a, of_b = toy.gradients(a, block), toy.gradients(b, block)
        scores = found[block]
        for head in range(toy.heads_of(block)):
            rows, others = of_a[:, head].tolist(), of_b[:, head].tolist()
            pairs = torch.tensor(
                [
                    [math.fsum(x * x * y * y for x, y in zip(g, h, strict=True)) for h in others]
                    for g in rows
                ],
                dtype=torch.float64,
            )
            damage = [
                math.fsum(f * y * y for f, y in zip(mean_square(rows), h, strict=True))
                for h in others
            ]
            assert scores.pairs[form][0, :, head].tolist() == pytest.approx(damage, rel=1e-12)
            columns = torch.stack([pairs[0::2].mean(0), pairs[1::2].mean(0)])
            halves = torch.stack([pairs[:, 0::2].mean(1), pairs[:, 1::2].mean(1)])
            torch.testing.assert_close(scores.columns[form][..., head], columns)
            torch.testing.assert_close(scores.rows[form][..., head], halves)
        torch.testing.assert_close(scores.l1_b, of_b.abs().sum(-1))
        torch.testing.assert_close(scores.norm_a, of_a.norm(dim=-1))
        torch.testing.assert_close(scores.norm_b, of_b.norm(dim=-1))


def test_kfac_equals_the_dense_kronecker_product() -> None:
    """g_iᵀ (A⁻¹ ⊗ S⁻¹) g_j with the factors summed token by token and the product written out."""
    toy = Toy.make()
    a, b = toy.samples(COUNT_A, 1), toy.samples(COUNT_B, 2)
    share = 0.3
    settings = CircuitSettings(variants=("kfac",), damping_share=share, min_samples=3)
    layer = toy.layer(a)
    found = score_layer(layer, toy.layer(b), settings, heads=toy)
    tokens = sum(len(sample.labels) for sample in a)
    for block in BLOCKS:
        of_a, of_b = toy.gradients(a, block), toy.gradients(b, block)
        for head in range(toy.heads_of(block)):
            size, width = 3, 5
            outer = {"headed": torch.zeros(size, size), "shared": torch.zeros(width, width)}
            outer = {name: value.double() for name, value in outer.items()}
            for batch in layer.batches:
                for by_head, other in zip(batch.headed(block), batch.shared(block), strict=True):
                    for t in range(len(other)):
                        outer["headed"] += torch.outer(by_head[t, head], by_head[t, head])
                        outer["shared"] += torch.outer(other[t], other[t])
            inputs, outputs = ("headed", "shared") if block == "o" else ("shared", "headed")
            outer[inputs] /= tokens
            outer[outputs] /= COUNT_A
            damped = {
                name: value
                + share**0.5 * value.trace() / len(value) * torch.eye(len(value), dtype=value.dtype)
                for name, value in outer.items()
            }
            metric = torch.linalg.inv(torch.kron(damped["headed"], damped["shared"]))
            expected = of_a[:, head] @ metric @ of_b[:, head].T
            pairs = found[block].pairs[Form("kfac", "task_a")][:, :, head]
            # a dense inverse of condition up to 1e5
            torch.testing.assert_close(pairs, expected, rtol=1e-9, atol=1e-12)


class Readout(nn.Module):
    """Two linear layers over tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 6, bias=False, dtype=torch.float64)
        self.second = nn.Linear(6, 5, bias=False, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


INPUTS = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.randint(0, 5, (8, 3), generator=torch.Generator().manual_seed(2))


def first_layer(model: Readout) -> BlockFactors:
    """The factors of the first linear layer, by two hooks' worth of autograd, as two heads of three rows."""
    hidden = model.first(INPUTS)
    logits = model.second(hidden.tanh())
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), LABELS.flatten(), reduction="sum")
    delta = torch.autograd.grad(loss, hidden)[0]
    batch = Batch(torch.arange(8), INPUTS, delta, {"q": delta}, {"q": 2})
    return BlockFactors.of(Layer(0, (batch,)), "q")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_kronecker_factors_equal_those_of_curvlinops() -> None:
    """Its empirical, expanded factors of a summed loss: inputs averaged over tokens, derivatives summed."""
    from curvlinops import KFACLinearOperator

    model = Readout()

    class ClassesSecond(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).mT  # as torch's cross-entropy wants it

    outer = ClassesSecond()
    theirs = KFACLinearOperator(
        outer,
        nn.CrossEntropyLoss(reduction="sum"),
        list(outer.parameters()),
        [(INPUTS[:4], LABELS[:4]), (INPUTS[4:], LABELS[4:])],
        fisher_type="empirical",
        kfac_approx="expand",
        check_deterministic=False,
    )
    theirs.compute_kronecker_factors()
    factors = theirs.state_dict()
    ours = KroneckerFactors.of(first_layer(model), "q", tokens=24)
    torch.testing.assert_close(ours.shared, factors["input_covariances"]["inner.first"])
    summed = factors["gradient_covariances"]["inner.first"]
    for head, rows in enumerate((slice(0, 3), slice(3, 6))):
        torch.testing.assert_close(8 * ours.headed[head], summed[rows, rows])


# kronfluence 1.0.1 makes a gradient scaler in torch's older way
@pytest.mark.filterwarnings("ignore:`torch.cuda.amp.GradScaler:FutureWarning")
def test_the_diagonal_fisher_equals_that_of_kronfluence(tmp_path: Path) -> None:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments
    from kronfluence.task import Task
    from torch.utils.data import TensorDataset

    class Summed(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            x, y = batch
            logits = model(x).flatten(0, 1)
            return nn.functional.cross_entropy(logits, y.flatten(), reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    tile = torch.empty(8, 2, 3, 4, dtype=torch.float64)
    first_layer(Readout()).build(slice(0, 2), slice(0, 3), tile)
    summed = tile.square().sum(0)
    ours = Squares(summed, summed, None, None, (8, 8, 0)).fisher("task_a")[0]

    model = prepare_model(Readout(), Summed())
    theirs = Analyzer(
        "toy", model, Summed(), cpu=True, disable_tqdm=True, disable_model_save=True,
        output_dir=str(tmp_path),
    )  # fmt: skip
    asked = FactorArguments("diagonal", use_empirical_fisher=True, lambda_dtype=torch.float64)
    theirs.fit_all_factors("f", TensorDataset(INPUTS, LABELS), 4, factor_args=asked)
    found = theirs.load_lambda_matrices("f")
    assert found is not None
    expected = found["lambda_matrix"]["first"] / found["num_lambda_processed"]["first"]
    torch.testing.assert_close(ours.flatten(0, 1), expected)
