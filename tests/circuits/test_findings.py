"""Sentences say what the intervals say: conflict, nothing, too little, and that an average is blind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.circuits.known_scores import World, rows

from crosstune.circuits import findings as words
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Table

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
        "Whether heads conflict or agree cannot be told (signed (pooled Fisher)): too few samples for an interval.",
    ) in found
    assert any(tone == "too_noisy" and "stand out cannot be told" in text for tone, text in found)
    assert any("reliability of 36 of 36 slices is not known" in text for _, text in found)


def test_below_reliability_is_a_finding() -> None:
    ((tone, text),) = of(WORLD.with_settings(variants=("signed",)), "Below reliability")
    assert tone == "too_noisy" and "of 36 slices (signed" in text
    assert "the mean cannot be told from its error" in text
    ((tone, text),) = of(WORLD.with_settings(variants=("signed",)), "order samples otherwise")
    assert tone == "too_noisy" and "of 36 slices (signed" in text


def test_signed_findings_come_first() -> None:
    texts = [text for _, text in told(replace(WORLD, shift=1.0, lean=1.0))]
    first = [next(at for at, text in enumerate(texts) if name in text) for name in ORDER]
    assert first == sorted(first) and first[0] == 0


def beside(found: Table, **changed: list) -> list[tuple[str, str, str]]:
    """What is said of a table of heads with some columns changed."""
    rows_ = [
        {**row, **{name: values[at % len(values)] for name, values in changed.items()}}
        for at, row in enumerate(found.rows())
    ]
    told = words._beside_itself(rows_, Form("signed", "pooled"))
    return [(one.tone, one.text, one.detail) for one in told]


def test_means_are_held_beside_what_each_task_shares_with_itself() -> None:
    table = replace(WORLD, shift=1.0, lean=-1.0).scores().summary.where(variant="signed", block="q")
    cosines = [-0.5, 0.25, 0.75, 0.0]
    bounds = {"cosine_low": [-0.6, 0.1, 0.7, -0.1], "cosine_high": [-0.4, 0.4, 0.8, 0.1]}
    flags = [True, True, True, False]
    ((tone, text, detail),) = beside(table, cosine=cosines, **bounds, resolved=flags)
    assert tone == "info"
    assert (
        "(cosine 1), the mean gradients of both have cosines of -0.50 [-0.60, -0.40] (layer 0 Q head 0) to 0.75 [0.70, 0.80] "
        "(layer 2 Q head 2), median 0.25 over 9 slices (signed (pooled Fisher))."
    ) in text
    assert "Not told: 3 of 12 slices" in detail
    ((_, text, detail),) = beside(table, cosine=cosines, **bounds, resolved=[True])
    assert "over 12 slices" in text and "Not told" not in detail
    only = [True] + [False] * 11
    ((_, text, _),) = beside(table, cosine=cosines, **bounds, resolved=only)
    assert (
        "have a cosine of -0.50 [-0.60, -0.40] (layer 0 Q head 0), the only slice where it can be told"
        in text
    )


def test_a_task_that_cannot_be_told_to_share_anything_says_that_0_means_little() -> None:
    table = WORLD.scores().summary.where(variant="signed", block="q")
    lows = {"own_a_low": [1.0, -1.0, -1.0], "own_b_low": [1.0, -1.0, 1.0]}
    ((tone, text, detail),) = beside(table, resolved=[False], **lows)
    assert tone == "too_noisy" and text.startswith("In none of 12 slices can both tasks")
    assert "is no sign that they leave each other alone" in text
    assert "above 0 in 4 slices for A, 8 for B" in detail
    ((tone, text, _),) = beside(table, own_a_low=[float("nan")], own_b_low=[1.0])
    assert tone == "too_noisy"
    assert (
        "What task A shares with itself cannot be told (signed (pooled Fisher)): too few samples"
        in text
    )
    ((_, text, _),) = beside(table, own_a_low=[float("nan")], own_b_low=[float("nan")])
    assert text.startswith("What task A shares with itself and task B with itself cannot be told")
    alone = WORLD.with_settings(variants=("directional",))
    assert of(alone, "share something with themselves") == [] and of(alone, "(cosine 1)") == []


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
    assert f"[{row['contrast_low']:.3g}, {row['contrast_high']:.3g}]" in found.text
    (note,) = [
        one for one in scores.statements if "directional" in one.text and "M/‖g_j‖₁" in one.text
    ]
    assert note.tone == "info" and "heads are not ranked by it" in note.text
    shares = scores.summary.where(variant="directional").column("mean_l1")
    assert f"between {min(shares):.3g} and {max(shares):.3g} over 36 slices" in note.text
    assert "16 × 12 samples" in found.detail and "against the mean head" in found.detail


def test_groups_are_said() -> None:
    ((tone, text),) = of(replace(WORLD, rows_a=rows("a", 16, group=4)), "come in groups")
    assert tone == "info" and "16 of task A in 4 units" in text
