"""The sentences say what the tables show, in the words the house has agreed on, and no more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.studies.conflict.told import closing, component, known, moved, peak, run_with, site

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
        (0.4, 0.6, "shown", "Learning bn cost en 0.5 nats per token"),
        (-0.1, 1.1, "not_shown", "Whether learning bn cost en anything is not shown"),
    ],
)
def test_forgetting_is_said_only_where_the_interval_excludes_zero(tmp_path, low, high, tone, words):
    assert only(found(tmp_path, closing=[closing("en", 0.5, low, high)]), words).tone == tone


def test_help_is_told_from_harm(tmp_path):
    one = only(
        found(tmp_path, closing=[closing("ar", -2.0, -2.5, -1.5)]), "Learning bn helped ar by 2"
    )
    assert one.tone == "shown"
    assert "components add up to −2" in one.detail


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
    assert text.endswith("the largest parts through embed+head (0.3), attn.v (0.2), mlp.up (0.1).")


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
    one = only(found(tmp_path, agreement=rows), "While learning 2-bn")
    assert (
        "en – bn conflict at 2 sites, agreement at 1 of 4 sites (1 cosine below the noise floor)"
        in one.text
    )
    assert one.tone == "shown"
    assert one.detail.index("L0 attn.v −0.80") < one.detail.index("L1 attn.v −0.40")
    assert "12 states, 16 blocks a task, 5 seeds" in one.detail


def test_below_the_noise_floor_is_a_result_in_those_words(tmp_path):
    one = only(
        found(tmp_path, agreement=[site("L0 attn.v", 0.2, resolved=False)]), "While learning"
    )
    assert one.tone == "too_noisy"
    assert "below the noise floor" in one.text


def test_conflict_needs_no_cosine_above_the_noise_floor(tmp_path):
    rows = [site("L0 attn.v", -0.8, resolved=False, conflict=True)]
    one = only(found(tmp_path, agreement=rows), "While learning 2-bn")
    assert one.tone == "shown"
    assert "en – bn conflict at 1 site," in one.text
    assert "L0 attn.v below the noise floor" in one.detail


def test_too_few_blocks_are_not_called_noise(tmp_path):
    row = {**site("L0 attn.v", 0.2, resolved=False), "inner_low": math.nan}
    one = only(found(tmp_path, agreement=[row]), "While learning 2-bn")
    assert "too few blocks or states" in one.text
    assert one.tone == "too_noisy"


def test_no_conflict_is_not_shown_rather_than_denied(tmp_path):
    rows = [site("L0 attn.v", 0.1), site("L1 attn.v", -0.1)]
    one = only(found(tmp_path, agreement=rows), "While learning 2-bn")
    assert one.tone == "not_shown"
    assert "neither conflict nor agreement of en – bn is shown" in one.text


def test_agreement_is_shown_where_it_is(tmp_path):
    one = only(found(tmp_path), "While learning 2-bn")
    assert one.tone == "shown"
    assert "en – bn agree at 1 of 2 sites, no conflict is shown" in one.text


def test_pairs_without_the_learned_task_stay_in_the_tables(tmp_path):
    rows = [site("L0 attn.v", -0.8, conflict=True, pair="en – ar"), site("L0 attn.v", 0.5)]
    assert "en – ar" not in only(found(tmp_path, agreement=rows), "While learning 2-bn").text


def test_the_strongest_tone_of_a_stage_is_shown(tmp_path):
    peaks = [peak("No peak."), peak("The conflict peaks at L0 attn.v.", "conflict peak", "bn – ar")]
    movement = [moved("Too few.", "too few"), moved("It is shown.", "shown", "bn – ar")]
    every = found(tmp_path, peaks_over_seeds=peaks, movement_over_seeds=movement)
    assert only(every, "Peaks while learning").tone == "shown"
    assert only(every, "Movement while learning").tone == "shown"


def test_one_seed_is_a_warning_and_stands_first(tmp_path):
    first = found(tmp_path, closing=[closing("en", 0.5, 0.4, 0.6, seeds=1)])[0]
    assert first.tone == "warning"
    assert "One seed was run" in first.text


def test_one_seed_speaks_of_itself_alone(tmp_path):
    every = found(tmp_path, closing=[closing("en", 0.5, 0.4, 0.6, seeds=1)])
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
    every = found(tmp_path, replace(SETTINGS, probe=None))
    assert not any("learning 2-bn:" in one.text for one in every)


def test_the_decision_holds_every_statement(tmp_path):
    every = found(tmp_path)
    assert [one["text"] for one in decision(every)] == [one.text for one in every]
    assert {one["verdict"] for one in decision(every)} >= {"shown", "warning"}
