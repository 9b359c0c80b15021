"""The engine: whole layers, chosen heads and blocks, memory, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from tests.circuits.toy_attention import BLOCKS, Batch, Layer, Toy
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import _disable_current_modes

from crosstune.circuits.scoring.engine import BlockScores, score_layer
from crosstune.circuits.settings import FISHERS, CircuitSettings, Form
from crosstune.foundation.errors import DataError, MeasurementError, SettingsError

TOY = Toy.make()
A, B = TOY.samples(10, 1), TOY.samples(6, 2)
LAYERS = (TOY.layer(A), TOY.layer(B))
SETTINGS = CircuitSettings(min_samples=3)
EVERY = [
    *(Form(v, f) for v in ("directional", "signed", "symmetric") for f in FISHERS),
    Form("ewc", "task_a"),
    Form("kfac", "task_a"),
]


def score(**options: object) -> dict[str, BlockScores]:
    settings = replace(SETTINGS, **options)
    return score_layer(*LAYERS, settings, heads=TOY)


def test_chosen_heads_are_scored_as_among_all() -> None:
    """Key-value heads are those that serve the chosen query heads, once."""
    every, some = score(), score(heads=(3, 2), blocks=("o", "k"))
    assert {block: scores.heads for block, scores in some.items()} == {"o": (2, 3), "k": (1,)}
    for block, scores in some.items():
        for form, pairs in scores.pairs.items():
            torch.testing.assert_close(pairs, every[block].pairs[form][:, :, list(scores.heads)])


def test_single_precision_factors_score_alike() -> None:
    exact = score()
    rough = score_layer(
        TOY.layer(A, dtype=torch.float32),
        TOY.layer(B, dtype=torch.float32),
        SETTINGS,
        heads=TOY,
    )
    for block in BLOCKS:
        for form, pairs in rough[block].pairs.items():
            assert pairs.dtype == torch.float32
            expected = exact[block].pairs[form]
            # float32: sums of 6 tokens and 15 entries, 1.2e-7 * 21, times 40 for entries over a small Fisher
            assert (pairs.double() - expected).abs().max() < 1e-4 * expected.abs().max()


def test_too_few_samples_of_a_are_refused_with_both_numbers() -> None:
    with pytest.raises(DataError, match="at least 11 samples.*found 10 samples"):
        score(min_samples=11)
    score(min_samples=10)  # and the six of B do not count


def test_the_true_fisher_is_that_of_its_own_factors() -> None:
    settings = replace(SETTINGS, fisher="true")
    found = score_layer(*LAYERS, settings, heads=TOY, true=LAYERS[0])
    own = score_layer(*LAYERS, replace(SETTINGS, fisher="task_a"), heads=TOY)
    for form, other in zip(settings.forms, own["q"].pairs.values(), strict=True):
        torch.testing.assert_close(found["q"].pairs[form], other)  # A's own labels were given


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("task", "name"), [(0, "A"), (1, "B")])
def test_a_gradient_that_is_not_finite_is_refused_by_name(
    task: int, name: str, value: float
) -> None:
    layers = [TOY.layer(A), TOY.layer(B)]
    layers[task].batches[0].deltas["q"][1, 0, 2 * 3] = value
    words = f"gradients of task {name}, block q of layer 3, head 2.*finite"
    with pytest.raises(MeasurementError, match=words):
        score_layer(*layers, replace(SETTINGS, heads=(0, 2, 3)), heads=TOY)


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="`computation_device`.*torch sees none"):
        score(computation_device="cuda")


@pytest.mark.gpu
def test_scores_on_cuda_are_those_of_the_cpu() -> None:
    there = score_layer(
        *LAYERS,
        replace(SETTINGS, computation_device="cuda"),
        heads=TOY,
        true=LAYERS[0],
        forms=EVERY,
    )
    here = score_layer(*LAYERS, SETTINGS, heads=TOY, true=LAYERS[0], forms=EVERY)
    for block in BLOCKS:
        for form in EVERY:
            torch.testing.assert_close(there[block].pairs[form], here[block].pairs[form])


# memory ------------------------------------------------------------------------------------------


def random_layer(samples: int, tokens: int, width: int, heads: int, size: int, seed: int) -> Layer:
    generator = torch.Generator().manual_seed(seed)

    def values(count: int, features: int) -> torch.Tensor:
        return torch.randn(count, tokens, features, generator=generator)

    counts = {"q": heads, "k": heads // 2, "v": heads // 2, "o": heads}
    batches = []
    for places in torch.arange(samples).split(16):
        n = len(places)
        deltas = {b: values(n, h * size) for b, h in counts.items() if b != "o"}
        deltas["o"] = values(n, width)
        batches.append(Batch(places, values(n, width), values(n, heads * size), deltas, counts))
    return Layer(0, tuple(batches))


def peak_of(run: Callable[[], object]) -> int:
    """The most bytes that torch had allocated at once since the call began."""
    # Memory, and not the copies that another arithmetic makes.
    with (
        _disable_current_modes(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found,
    ):
        run()
    live = peak = 0
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.filterwarnings("ignore:Profiler clears events:UserWarning")
@pytest.mark.parametrize(
    ("forms", "budgets"),
    [
        (None, (0.004, 0.0015, 0.0008)),
        (
            [Form("signed", "held_out"), Form("directional", "leave_one_out")],
            (0.005, 0.0015, 0.001),
        ),
        ([Form("kfac", "task_a"), Form("signed", "true")], (0.005, 0.003, 0.0025)),
    ],
    ids=["default", "halves", "kfac"],
)
def test_memory_stays_within_the_budget(
    forms: Sequence[Form] | None, budgets: tuple[float, ...]
) -> None:
    """By torch's own accounting, beside the results; from all heads at once down to a part of one."""
    heads = replace(TOY, heads=6, kv_heads=3)
    a, b, true = (random_layer(32, 16, 64, 6, 16, seed) for seed in range(3))
    found, peaks = [], []
    for budget in budgets:
        settings = CircuitSettings(budget_gib=budget, averages="pooled")
        results: list[dict[str, BlockScores]] = []

        def run(settings: CircuitSettings = settings, kept: list[object] = results) -> None:
            kept.append(score_layer(a, b, settings, heads=heads, true=true, forms=forms))

        peak = peak_of(run)
        kept = sum(x.nbytes for s in results[0].values() for x in s.pairs.values())
        peaks.append(peak - kept)
        assert peaks[-1] <= budget * 2**30
        found.append(results[0])
    assert peaks[0] > 1.5 * peaks[-1]  # so that the smaller budget was felt
    for other in found[1:]:
        for block in BLOCKS:
            for form, pairs in found[0][block].pairs.items():
                # float32: a thousand terms in another order, 1.2e-7 * sqrt(1e3), times a condition of ~5
                gap = (other[block].pairs[form] - pairs).abs().max()
                assert gap <= 2e-5 * pairs.abs().max()
