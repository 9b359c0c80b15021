"""Decisions: each bound on both sides, groups by average linkage, cosines of full updates, and a bandit that earns its parameters."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.experts.test_lifecycle import drawn, several
from tests.experts.test_mixture import texts

from crosstune.experts.bank.log import Bank, Event, Expert
from crosstune.experts.gated import pairs
from crosstune.experts.novelty import Novelty
from crosstune.experts.policy import (
    bandit,
    may_grow,
    may_spawn,
    to_evict,
    to_freeze,
    to_merge,
    update_cosines,
)
from crosstune.experts.settings import PolicySettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.statistics.intervals import Interval
from crosstune.foundation.worlds import random_model

NEW = Novelty("new", 0.01, None, "code", "p is low")
SIMILAR = Interval(*(torch.tensor(x) for x in (0.5, 0.4, 0.6)), 0.95, torch.tensor(9.0))
BANK = Bank([Event("spawn", "code", Expert("code", "xp_code", 2, 4.0, ("q_proj",)))])


@pytest.mark.parametrize(
    ("options", "given", "go", "why"),
    [
        ({}, {}, True, "p is low"),
        ({}, {"novelty": Novelty("undecided", 0.01, None, None, "8 rows")}, False, "8 rows"),
        ({"cooldown": 60}, {"since": 60}, True, "p is low"),
        ({"cooldown": 60}, {"since": 59}, False, "59 steps after a birth, of 60"),
        ({"max_experts": 2}, {}, True, "p is low"),
        ({"max_experts": 1}, {}, False, "there are 1 experts"),
        ({"max_parameters": 8}, {}, True, "p is low"),
        ({"max_parameters": 7}, {}, False, "8 parameters, and no more than 7 may be"),
        ({"min_gain": 0.1}, {}, True, "p is low"),  # no probe has run yet
        ({"min_gain": 0.1}, {"gain": 0.1}, True, "p is low"),
        ({"min_gain": 0.1}, {"gain": 0.09}, False, "a probe won 0.09 nats per token, not 0.1"),
        ({"min_gain": 0.1}, {"gain": math.nan}, False, "a probe won nan"),
    ],
)
def test_a_birth_needs_all_that_is_asked(options: dict, given: dict, go: bool, why: str) -> None:
    given = {"novelty": NEW, "bank": BANK, "since": math.inf, "parameters": 8, **given}
    found = may_spawn(PolicySettings(**options), **given)
    assert found[0] is go and why in found[1]


def test_an_expert_grows_where_it_has_stopped_winning_and_may() -> None:
    settings = PolicySettings(grow_below=0.1, max_rank=32)
    assert may_grow(settings, [4.0, 3.0, 2.95], 16)
    assert may_grow(settings, [4.0, 3.0, 3.1], 16)
    assert not may_grow(settings, [4.0, 3.0, 2.85], 16)
    assert not may_grow(settings, [4.0, 3.0, 2.95], 17)  # 34 is above 32
    assert not may_grow(settings, [4.0], 16)
    assert not may_grow(PolicySettings(), [4.0, 4.0], 1)


def test_projections_freeze_where_steps_are_short() -> None:
    steps = {"q_proj": 1e-4, "k_proj": 1e-3, "v_proj": 1e-2}
    assert to_freeze(PolicySettings(freeze_below=1e-3), steps) == ("q_proj",)
    assert to_freeze(PolicySettings(freeze_below=1.0), steps) == ("q_proj", "k_proj")
    assert to_freeze(PolicySettings(), dict.fromkeys(steps, 0.0)) == ()


def test_what_is_little_used_and_alike_on_average_becomes_one() -> None:
    """a, b, c: b is near both, a and c are not, so that single linkage would take all three and complete linkage two as well."""
    usage = {"used": 0.5, "a": 0.01, "b": 0.0, "c": 0.04, "far": 0.02}
    cosines = torch.eye(5)
    for one, other, cosine in ((1, 2, 0.9), (2, 3, 0.8), (1, 3, 0.3), (0, 1, 0.99)):
        cosines[one, other] = cosines[other, one] = cosine

    def merged(level: float, every: int | None = 2) -> tuple[tuple[str, ...], ...]:
        settings = PolicySettings(merge_every=every, merge_similarity=level)
        return to_merge(settings, 4, usage, cosines)

    assert merged(0.5) == (("a", "b", "c"),)  # (0.8 + 0.3) / 2
    assert merged(0.6) == (("a", "b"),)
    assert merged(0.95) == merged(0.5, None) == merged(0.5, 3) == ()
    assert to_merge(PolicySettings(merge_every=1), 1, {"a": 0.0}, torch.eye(1)) == ()


def test_the_least_used_go_until_the_rest_may_stay() -> None:
    usage, parameters = {"a": 0.3, "b": 0.1, "c": 0.2}, {"a": 50, "b": 30, "c": 20}
    for most, gone in (
        (None, ()),
        (100, ()),
        (99, ("b",)),
        (70, ("b",)),
        (50, ("b", "c")),
        (1, ("b", "c", "a")),
    ):
        assert to_evict(PolicySettings(max_parameters=most), usage, parameters) == gone


def test_cosines_are_those_of_the_full_updates(tmp_path: Path) -> None:
    mixture = several(random_model("llama", tmp_path / "llama"), {"numbers": 3, "shapes": 5})
    mixture.spawn("narrow", rank=2, alpha=1.0, targets=["q_proj", "up_proj"])
    drawn(mixture, "narrow", 4)
    mixture.register("narrow", texts("animals", 48))
    mixture.spawn("nothing", rank=2)  # its update is 0
    full = []
    for expert in mixture.bank.experts.values():
        found = {
            id(m): torch.zeros(m.base_layer.weight.shape)
            for m, *_ in pairs(mixture.model, "xp_shapes")
        }
        for layer, a, b in pairs(mixture.model, expert.adapter):
            found[id(layer)] = expert.alpha / expert.rank * b.weight @ a.weight
        full.append(torch.cat([f.detach().flatten() for f in found.values()]).double())
    expected = torch.nn.functional.cosine_similarity(
        torch.stack(full)[:, None], torch.stack(full), dim=-1
    )
    torch.testing.assert_close(update_cosines(mixture), expected, rtol=0, atol=1e-6)
    assert expected[3, 3] == 0.0 and expected[0, 2].abs() > 1e-4


def stream(rule: str, seed: int, skills: int = 60) -> float:
    """Nats per token won by 1000 parameters: where a skill is unlike all before, a birth wins and going on loses; else they are alike."""
    draws, log = np.random.default_rng(seed), []
    for at in range(skills):
        similarity = float(draws.choice([0.2, 0.9]) + draws.normal(0, 0.03))
        noise = draws.normal(0, 0.1, 2)
        if rule == "bandit" and at:
            born = bandit(log, similarity, 1000)[0]
        else:
            born = rule == "always" or at == 0
        gain = 2.0 - 1.8 * similarity + noise[0] if born else 1.3 * similarity - 0.8 + noise[1]
        figures = {"gain": gain, "similarity": similarity, "parameters": 1000.0 * born}
        log.append(Event("register", f"skill {at}", figures=figures))
    won, spent = (sum(e.figures[name] for e in log) for name in ("gain", "parameters"))
    return 1000 * won / spent


def test_the_bandit_wins_more_for_its_parameters_than_either_rule() -> None:
    found = {
        rule: np.array([stream(rule, seed) for seed in range(20)])
        for rule in ("bandit", "always", "never")
    }
    assert found["bandit"].mean() > 1.5 * found["always"].mean() > 1.5 * found["never"].mean()
    for rule in ("always", "never"):
        assert (found["bandit"] > found[rule]).mean() >= 0.9


def test_the_bandit_decides_where_it_is_asked_to() -> None:
    past = [Event("register", str(at), figures={"gain": 1.0 if born else -1.0, "similarity": 0.5, "parameters": born})
            for at in range(20) for born in (0, 8)]  # fmt: skip
    known = Novelty("known", 0.9, SIMILAR, "code", "p is high")
    given = {
        "since": math.inf,
        "parameters": 8,
        "bank": Bank([*BANK.events, Event("register", "code"), *past]),
    }
    go, why = may_spawn(PolicySettings(spawn="bandit"), known, **given)
    assert go and "a birth is taken to win 1" in why
    assert not may_spawn(PolicySettings(), known, **given)[0]
    assert not may_spawn(PolicySettings(spawn="bandit", max_experts=1), known, **given)[0]
    assert bandit(past, 0.5, 8) == bandit(past, 0.5, 8)
    first = Event("register", "base", figures={"gain": 0.0, "parameters": 0.0})  # like nothing yet
    assert bandit([first, *past], 0.5, 8) == bandit(past, 0.5, 8)
    won = [event for event in past if event.figures["gain"] > 0]  # 20 nats by 160 parameters
    lost = [
        Event("register", "", figures={**e.figures, "parameters": 0.0, "gain": 0.0}) for e in won
    ]
    assert bandit([*won, *lost], 0.5, 7)[0] and not bandit([*won, *lost], 0.5, 9)[0]
    with pytest.raises(SettingsError, match="`spawn` must be 'novelty' or 'bandit'"):
        PolicySettings(spawn="always")  # type: ignore[arg-type]
