"""Sentences say what the intervals say: conflict, nothing, too little; the methods paragraph says what was done, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.circuits.known_scores import World, rows

from crosstune.circuits import findings
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import Estimate

ORDER = ("signed (pooled", "symmetric (pooled", "directional (pooled")
HEAVY = ("directional", "symmetric")
WORLD = World(n_a=16, n_b=12).with_settings(fisher="pooled")


def told(world: World) -> list[tuple[str, str]]:
    return [(one.tone, one.text) for one in world.scores().statements]


def of(world: World, start: str) -> list[tuple[str, str]]:
    return [(tone, text) for tone, text in told(world) if start in text]


def test_planted_conflict_is_said_with_its_place_and_band() -> None:
    ((tone, text),) = of(replace(WORLD, shift=1.0, lean=-1.0), "signed (pooled Fisher) scores show")
    assert tone == "shown"
    assert "Of 36 slices of heads" in text and "conflict in 36 (most in layer" in text
    assert "synergy in none" in text and "[" in text


def test_nothing_shown_is_a_finding() -> None:
    ((tone, text),) = of(WORLD, "mean signed")
    assert (tone, text.split(":")[0]) == ("not_shown", "Nothing shown")
    assert "among 36 slices" in text


def test_too_few_samples_cannot_tell() -> None:
    found = told(World(n_a=1, n_b=6))
    assert (
        "too_noisy",
        "Whether heads conflict or agree is not known (signed (pooled Fisher)): too few samples for an interval.",
    ) in found
    assert any(tone == "too_noisy" and "stand out is not known" in text for tone, text in found)
    assert any("reliability of 36 of 36 slices is not known" in text for _, text in found)


def test_below_reliability_is_a_finding() -> None:
    ((tone, text),) = of(WORLD.with_settings(variants=("signed",)), "Below reliability")
    assert tone == "too_noisy" and "of 36 slices (signed" in text
    assert "the mean cannot be distinguished from its error" in text
    ((tone, text),) = of(WORLD.with_settings(variants=("signed",)), "order samples otherwise")
    assert tone == "too_noisy" and "of 36 slices (signed" in text


def test_signed_findings_come_first() -> None:
    texts = [text for _, text in told(replace(WORLD, shift=1.0, lean=1.0))]
    first = [next(at for at, text in enumerate(texts) if name in text) for name in ORDER]
    assert first == sorted(first) and first[0] == 0


def within(found: Table, **changed: list) -> list[tuple[str, str, str]]:
    """What is said of a table of heads with some columns changed."""
    rows_ = [
        {**row, **{name: values[at % len(values)] for name, values in changed.items()}}
        for at, row in enumerate(found.rows())
    ]
    told = findings._within_tasks(rows_, Form("signed", "pooled"))
    return [(one.tone, one.text, one.detail) for one in told]


def test_means_are_compared_with_those_within_each_task() -> None:
    table = replace(WORLD, shift=1.0, lean=-1.0).scores().summary.where(variant="signed", block="q")
    cosines = [-0.5, 0.25, 0.75, 0.0]
    bounds = {"cosine_low": [-0.6, 0.1, 0.7, -0.1], "cosine_high": [-0.4, 0.4, 0.8, 0.1]}
    flags = [True, True, True, False]
    ((tone, text, detail),) = within(table, cosine=cosines, **bounds, resolved=flags)
    assert tone == "info"
    assert (
        "(cosine 1), the mean gradients of both have cosines of −0.50 [−0.60, −0.40] (layer 0 Q head 0) to 0.75 [0.70, 0.80] "
        "(layer 2 Q head 2), median 0.25 over 9 slices (signed (pooled Fisher))."
    ) in text
    assert "No cosine in 3 of 12 slices" in detail
    ((_, text, detail),) = within(table, cosine=cosines, **bounds, resolved=[True])
    assert "over 12 slices" in text and "No cosine" not in detail
    only = [True] + [False] * 11
    ((_, text, _),) = within(table, cosine=cosines, **bounds, resolved=only)
    assert (
        "have a cosine of −0.50 [−0.60, −0.40] (layer 0 Q head 0), the only slice where there is one"
        in text
    )


def test_without_a_mean_within_both_tasks_0_means_little() -> None:
    table = WORLD.scores().summary.where(variant="signed", block="q")
    lows = {"own_a_low": [1.0, -1.0, -1.0], "own_b_low": [1.0, -1.0, 1.0]}
    ((tone, text, detail),) = within(table, resolved=[False], **lows)
    assert tone == "too_noisy" and text.startswith("In none of 12 slices are the means")
    assert "no sign that they leave each other alone" in text
    assert "above 0 in 4 slices for A, 8 for B" in detail
    ((tone, text, _),) = within(table, own_a_low=[float("nan")], own_b_low=[1.0])
    assert tone == "too_noisy"
    assert (
        "The mean score over pairs within task A has no interval (signed (pooled Fisher)): too few samples"
        in text
    )
    ((_, text, _),) = within(table, own_a_low=[float("nan")], own_b_low=[float("nan")])
    assert text.startswith(
        "The mean score over pairs within task A and within task B has no interval"
    )
    alone = WORLD.with_settings(variants=("directional",))
    assert of(alone, "within both tasks") == [] and of(alone, "(cosine 1)") == []


@pytest.mark.parametrize("averages", ["task_a", "pooled"])
def test_nothing_is_shown_of_scores_in_units_of_each_head(averages: str) -> None:
    world = World(n_a=16, n_b=12, shift=1.0, lean=1.0)
    found = told(world.with_settings(variants=("directional", "ewc"), averages=averages))
    assert "shown" not in {tone for tone, _ in found}
    assert sum("heads are not ranked by it" in text for _, text in found) == 2


@pytest.mark.parametrize(("averages", "how"), [("task_a", "exactly"), ("held_out", "nearly")])
def test_whoever_asks_for_the_blind_average_is_told(
    averages: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = WORLD.with_settings(averages=averages, variants=("directional",)).scores().statements[0]
    assert first.tone == "warning"
    assert (
        f"`{averages}` say nothing about task A" in first.text
        and f"leave {how} ‖g_j‖₁" in first.text
    )
    assert "averages: pooled" in first.text
    assert "between 1 and 1" in first.detail, (
        "the formulas of these scores know task A's Fisher and the pooled one"
    )


def test_other_averages_are_not_called_blind() -> None:
    assert of(WORLD, "say nothing about task A") == []
    signed = WORLD.with_settings(averages="task_a", variants=("signed",))
    assert of(signed, "say nothing about task A") == []


def test_heads_stand_out_block_by_block() -> None:
    scores = WORLD.begin()
    for layer in range(3):
        blocks = WORLD.layer(layer)
        for side in (blocks["k"].columns, blocks["k"].rows):
            for form in side:
                side[form][..., 1] *= 5 if layer == 2 and form.variant in HEAVY else 1
        scores.put(layer, blocks)
    (found,) = [one for one in scores.statements if "mean symmetric" in one.text]
    assert found.tone == "shown" and "K 1 of 6 (most in layer 2 K head 1" in found.text
    (row,) = scores.summary.where(variant="symmetric", block="k", layer=2, head=1).rows()
    middle = sum(scores.summary.where(variant="symmetric", block="k").column("mean")) / 6
    assert f"{row['mean']:.3g}, the mean head {middle:.3g}, difference" in found.text
    assert str(Estimate.of(row, "contrast")) in found.text
    (note,) = [
        one for one in scores.statements if "directional" in one.text and "M/‖g_j‖₁" in one.text
    ]
    assert note.tone == "not_shown" and "heads are not ranked by it" in note.text
    shares = scores.summary.where(variant="directional").column("mean_l1")
    assert f"between {min(shares):.3g} and {max(shares):.3g} over 36 slices" in note.text
    assert "16 × 12 samples" in found.detail and "against the mean head" in found.detail


def test_groups_are_said() -> None:
    ((tone, text),) = of(replace(WORLD, rows_a=rows("a", 16, group=4)), "come in groups")
    assert tone == "info" and "16 of task A in 4 units" in text


def paragraph(**options: object) -> str:
    return World().with_settings(**options).begin().methods_paragraph()


def test_the_usual_measurement_is_told_whole() -> None:
    text = paragraph(damping_share=0.1)
    for part in (
        "8 samples of task A (8 independent, 68 scored tokens)",
        "6 of task B",
        "in blocks Q, K, V, O of 4 of 4 query heads (served by 2 key-value heads) in 3 of 3 layers",
        "M_ij = Σ_k g_ik²/D_k · |g_jk|",
        "F of the directional score is the mean over A's samples",
        "F of the signed and symmetric score is the mean of both tasks'",
        "D = max(F, ε) + λ, with λ = 0.1 times the median",
        "In averages over pairs, F is the mean of both tasks'",
        "hence another Fisher for averages",
        "Westfall and Young 1993",
        "The directional score changes under rescalings",
        "one key-value head is enough): the weights of one head may be rescaled alone without changing the model",
        "heads are not ranked by it",
    ):
        assert part in text
    assert "\n" not in text


def test_what_was_not_done_is_not_told() -> None:
    text = paragraph(variants=("ewc",))
    assert (
        "damped elementwise" not in text
        and "In averages" not in text
        and "kronecker" not in text.lower()
    )
    assert "Kirkpatrick et al. 2017" in text
    signed = paragraph(variants=("signed", "kfac"))
    assert "rescalings" not in signed and "Martens and Grosse 2015" in signed


@pytest.mark.parametrize(
    ("damping", "formula"),
    [("floor", "D = max(F, ε, λ)"), ("conditional", "λ more where F < 10 ε")],
)
def test_the_damping_is_the_one_used(damping: str, formula: str) -> None:
    assert formula in paragraph(damping=damping)


def test_a_blind_average_is_called_so() -> None:
    assert "say nothing about A" in paragraph(averages="task_a")
    assert "labels drawn from the model" in paragraph(fisher="true")


@pytest.mark.parametrize(
    ("sizes", "who"), [((0, 6), "A has"), ((8, 0), "B has"), ((0, 0), "A and task B have")]
)
def test_without_samples_nothing_was_scored(sizes: tuple[int, int], who: str) -> None:
    with pytest.warns(UserWarning, match="no samples"):
        text = World(*sizes).begin().methods_paragraph()
    assert text == f"No pair of samples was scored: task {who} no samples."


def test_groups_are_counted() -> None:
    text = replace(World(), rows_b=rows("b", 6, group=3)).begin().methods_paragraph()
    assert "6 of task B (2 independent" in text
