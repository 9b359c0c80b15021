"""The sentences say what the tables show, in the words the house has agreed on, and no more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.studies.conflict.told import (
    at_seed,
    closing,
    component,
    known,
    moved,
    peak,
    run_with,
    site,
)

from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.verdicts import decision, statements

SETTINGS = ConflictSettings()


def found(folder, settings=SETTINGS, **rows):
    return statements(run_with(folder / "run", **rows), settings)


def only(statements, words):
    chosen = [one for one in statements if words in one.text]
    assert len(chosen) == 1, [one.text for one in statements]
    return chosen[0]


@pytest.mark.parametrize(
    ("low", "high", "tone", "words"),
    [
        (0.4, 0.6, "shown", "Learning bn cost en 0.50 [0.40, 0.60] nats per token"),
        (
            -0.1,
            1.1,
            "not_shown",
            "That learning bn cost en anything is not shown (0.50 [−0.10, 1.10]",
        ),
    ],
)
def test_forgetting_is_said_only_where_the_interval_excludes_zero(tmp_path, low, high, tone, words):
    seeds = [at_seed(0, 0.7, 0.3, 1.1), at_seed(1, 0.3, -0.1, 0.7)]
    rows = {"closing": [closing("en", 0.5, low, high, seeds=2)], "forgetting_totals": seeds}
    assert only(found(tmp_path, **rows), words).tone == tone


def test_few_seeds_that_all_show_it_tell_both_intervals(tmp_path):
    seeds = [at_seed(0, 0.42, 0.34, 0.50), at_seed(42, 0.58, 0.48, 0.68)]
    rows = {"closing": [closing("en", 0.5, -0.5, 1.5, seeds=2)], "forgetting_totals": seeds}
    one = only(found(tmp_path, **rows), "In each of the 2 seeds learning bn cost en")
    assert "0.42 [0.34, 0.50], 0.58 [0.48, 0.68]" in one.text
    assert "0.50 [−0.50, 1.50] over seeds" in one.text
    assert one.tone == "info"
    eight = [at_seed(seed, 0.5, 0.4, 0.6) for seed in range(8)]
    rows = {"closing": [closing("en", 0.5, -0.5, 1.5, seeds=8)], "forgetting_totals": eight}
    assert only(found(tmp_path / "eight", **rows), "cost en").tone == "not_shown"


def test_the_answer_is_the_firmest_and_largest_loss_and_is_not_repeated(tmp_path):
    rows = [
        closing("ar", -9.0, -9.5, -8.5),
        closing("en", 0.5, 0.4, 0.6),
        closing("en", 0.7, 0.6, 0.8, stage="3-ar"),
        closing("bn", 2.0, -0.1, 4.1, stage="3-ar"),
    ]
    unsure = [at_seed(seed, 2.0, -1.0, 5.0, task="bn", stage="3-ar") for seed in (0, 1)]
    run = run_with(tmp_path / "run", closing=rows, forgetting_totals=unsure)
    first, *others = statements(run, SETTINGS)
    assert (first.text, first.tone) == (
        "Learning ar cost en 0.70 [0.60, 0.80] nats per token.",
        "shown",
    )
    assert first not in others


def test_where_nothing_is_shown_to_be_lost_the_answer_says_so(tmp_path):
    run = run_with(tmp_path / "run", closing=[closing("ar", -2.0, -2.5, -1.5)])
    first = statements(run, SETTINGS)[0]
    assert first.tone == "not_shown"
    assert "cost any other task anything is not shown" in first.text


def test_help_is_told_from_harm(tmp_path):
    one = only(
        found(tmp_path, closing=[closing("ar", -2.0, -2.5, -1.5)]),
        "Learning bn helped ar (learned later) by 2.00 [1.50, 2.50]",
    )
    assert one.tone == "shown"
    assert one.size < 0
    assert "over 100 rows and 5 seeds" in one.detail


def test_the_learned_task_is_not_called_helped(tmp_path):
    rows = [closing("bn", -5.0, -6.0, -4.0), closing("en", 0.5, 0.4, 0.6)]
    assert not any("helped bn" in one.text for one in found(tmp_path, closing=rows))


def test_the_largest_components_are_named_in_order(tmp_path):
    parts = [
        component(name, nats)
        for name, nats in [
            ("attn.q", 0.01),
            ("embed+head", 0.3),
            ("mlp.up", 0.1),
            ("norm", -0.2),
            ("attn.v", 0.2),
        ]
    ]
    text = only(found(tmp_path, forgetting_components=parts), "Learning bn cost en").text
    assert text.endswith("most through embed+head (0.3), attn.v (0.2), mlp.up (0.1).")


def test_over_confidence_is_said_of_learned_tasks_above_ln_v_only(tmp_path):
    after = [known("en", 8.3), known("ar", 9.0), known("en", 3.0, stage="1-en")]
    one = only(found(tmp_path, retention=after), "costs more than guessing uniformly")
    assert one.text.startswith("After stage 2-bn, en")
    assert "ln V = 6.24" in one.detail


def test_conflict_names_the_worst_sites_and_the_share(tmp_path):
    rows = [
        site("L0 attn.v", -0.8, conflict=True),
        site("L1 attn.v", -0.4, conflict=True),
        site("L2 attn.v", 0.5),
        site("L3 attn.v", 0.0, resolved=False),
    ]
    one = only(found(tmp_path, agreement=rows), "gradients of en – bn")
    assert "conflict at 2 of 4 sites and agree at 1" in one.text
    assert one.tone == "shown"
    assert one.detail.index("L0 attn.v −0.80") < one.detail.index("L1 attn.v −0.40")
    assert "12 states, 16 blocks a task, 5 seeds" in one.detail
    assert "1 of whose cosines are below the noise floor" in one.detail


def test_below_the_noise_floor_is_a_result_in_those_words(tmp_path):
    rows = [site("L0 attn.v", 0.2, resolved=False)]
    one = only(found(tmp_path, agreement=rows), "gradients of en – bn")
    assert one.tone == "too_noisy"
    assert "below the noise floor" in one.detail


def test_conflict_needs_no_cosine_above_the_noise_floor(tmp_path):
    rows = [site("L0 attn.v", -0.8, resolved=False, conflict=True)]
    one = only(found(tmp_path, agreement=rows), "gradients of en – bn")
    assert one.tone == "shown"
    assert "conflict at 1 of 1 sites" in one.text
    assert "L0 attn.v below the noise floor" in one.detail


def test_too_few_blocks_are_not_called_noise(tmp_path):
    row = {**site("L0 attn.v", 0.2, resolved=False), "inner_low": math.nan}
    one = only(found(tmp_path, agreement=[row]), "en – bn cannot be judged")
    assert "too few blocks or states" in one.text
    assert one.tone == "too_noisy"


def test_a_sentence_that_says_neither_is_never_shown(tmp_path):
    rows = [
        site("L0 attn.v", 0.1),
        site("L0 attn.v", 0.5, pair="en – ar", stage="3-ar"),
        site("L0 attn.v", 0.1, pair="bn – ar", stage="3-ar"),
    ]
    every = found(tmp_path, agreement=rows)
    tones = {one.text: one.tone for one in every if "gradients of" in one.text}
    assert len(tones) == 3
    for text, tone in tones.items():
        assert (tone == "shown") == ("neither" not in text), text


def test_pairs_that_do_not_meet_in_a_stage_stay_in_the_tables(tmp_path):
    rows = [
        site("L0 attn.v", -0.8, conflict=True, pair="en – ar"),
        site("L0 attn.v", -0.8, conflict=True, pair="bn – ar"),  # ar is learned later
        site("L0 attn.v", 0.5),
    ]
    every = found(tmp_path, agreement=rows)
    assert [one.text for one in every if "gradients" in one.text] == [
        "While learning bn, gradients of en – bn agree at 1 of 1 sites; no conflict is shown."
    ]


def test_peaks_and_movement_have_the_tone_of_their_own_pair(tmp_path):
    peaks = [
        peak("No peak."),
        peak("The conflict peaks at L0 attn.v.", "conflict peak", "bn – ar", "3-ar"),
    ]
    movement = [moved("Too few.", "too few"), moved("It moved.", "shown", "bn – ar", "3-ar")]
    every = found(tmp_path, peaks_over_seeds=peaks, movement_over_seeds=movement)
    for words, tone in (
        ("No peak", "not_shown"),
        ("The conflict peaks", "shown"),
        ("Too few.", "too_noisy"),
        ("It moved.", "shown"),
    ):
        assert only(every, words).tone == tone


ALONE = {
    "closing": [closing("en", 0.5, 0.4, 0.6, seeds=1)],
    "forgetting_totals": [at_seed(0, 0.5, 0.4, 0.6)],
}


def test_one_seed_is_a_warning(tmp_path):
    assert only(found(tmp_path, **ALONE), "One seed was run").tone == "warning"


def test_one_seed_speaks_of_itself_alone(tmp_path):
    every = found(tmp_path, **ALONE)
    one = only(every, "learning bn cost en")
    assert one.tone == "info"
    assert one.text.startswith("In the one seed that was run")


def test_tasks_spelled_in_bytes_are_labelled(tmp_path):
    assert "every byte of bn:" in only(found(tmp_path), "every byte").text


def test_warnings_of_the_rows_are_repeated_once(tmp_path):
    run = run_with(tmp_path / "run")
    for _ in range(2):
        run.event("warning", text="Task bn has 20 training rows.")
    assert [one.text for one in statements(run, SETTINGS)].count(
        "Task bn has 20 training rows."
    ) == 1


def test_without_a_probe_nothing_is_said_of_gradients(tmp_path):
    bare = {"agreement": [], "peaks_over_seeds": [], "movement_over_seeds": []}
    every = found(tmp_path, replace(SETTINGS, probe=None), **bare)
    assert not any("While learning" in one.text for one in every)


def test_the_decision_holds_every_statement(tmp_path):
    every = found(tmp_path)
    assert [one["text"] for one in decision(every)] == [one.text for one in every]
    assert {one["verdict"] for one in decision(every)} >= {"shown", "warning"}
