"""Sentences say what the intervals say: conflict, nothing, too little, and that an average is blind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.interference.circuits.known_scores import World, rows

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


def test_means_are_held_beside_what_each_task_shares_with_itself() -> None:
    scores = replace(WORLD, shift=1.0, lean=-1.0).scores()
    (found,) = [one for one in scores.statements if "mean gradients of both" in one.text]
    rows_ = scores.summary.where(variant="signed").rows()
    assert found.tone == "info" and "(cosine 1)" in found.text
    known = sorted(row["cosine"] for row in rows_ if row["resolved"])
    least = min((row for row in rows_ if row["resolved"]), key=lambda row: row["cosine"])
    assert (
        f"{known[0]:.2f} [{least['cosine_low']:.2f}, {least['cosine_high']:.2f}] (layer"
        in found.text
    )
    assert f"{known[len(known) // 2]:.2f} in the middle one of {len(known)} slices" in found.text
    missing = 36 - len(known)
    assert ("Left out" in found.detail) == (missing > 0)


def test_a_task_that_shares_nothing_with_itself_says_that_0_means_little() -> None:
    ((tone, text),) = of(replace(WORLD, seed=3), "In none of 36 slices")
    assert tone == "too_noisy"
    assert "a mean near 0 does not say that they leave each other alone" in text
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
