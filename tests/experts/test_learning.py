"""Skills one after another on a tiny model: each policy does what it says, a kill changes no bit, and the door tells the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experts.test_mixture import texts
from transformers import TrainerCallback

from crosstune.experts import PolicySettings, RouterSettings, SkillsSettings, learn_skills, learning
from crosstune.experts.accounts import SkillRows
from crosstune.experts.learning import ALL, SkillLearner
from crosstune.foundation.data import Row, Task
from crosstune.foundation.errors import CheckpointError, DataError
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.training import StageResult, TrainingSettings
from crosstune.foundation.worlds import random_model

TRAINING = TrainingSettings(
    learning_rate=1e-2, steps=12, batch_rows=4, length=32, checkpoint_every=5
)


def task(skill: str, seed: int = 0, count: int = 150) -> Task:
    rows = [Row(f"{skill} {seed} {at}", text) for at, text in enumerate(texts(skill, count, seed))]
    return Task(skill, tuple(rows[12:]), tuple(rows[:12]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("llama", tmp_path_factory.mktemp("models") / "llama")


def settings(policy: PolicySettings | None = None, **options: Any) -> SkillsSettings:
    return SkillsSettings(rank=2, training=TRAINING, policy=policy or PolicySettings(), **options)


def learner(folder: Path, place: Path, chosen: SkillsSettings) -> SkillLearner:
    """It has come to know what the model itself answers."""
    found = SkillLearner(load_model(folder), load_tokenizer(folder), chosen, folder=place)
    found.learn(rows(found, "animals"), known=True)
    return found


def rows(found: SkillLearner, skill: str, seed: int = 0) -> SkillRows:
    return SkillRows.of(task(skill, seed), found.mixture.tokenizer, TRAINING.length)


def test_what_is_new_is_born_and_what_comes_again_learns_again(
    folder: Path, tmp_path: Path
) -> None:
    stream = [task("numbers"), task("shapes"), task("numbers", seed=5)]
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    found = learn_skills(
        model, tokenizer, stream, settings(), known=task("animals"), output_folder=tmp_path
    )
    assert [one.born for one in found.skills] == [False, True, True, False]
    assert [one.expert for one in found.skills] == ["base", "numbers", "shapes", "numbers"]
    kinds = [event.kind for event in found.mixture.bank.events]
    assert kinds == ["register", "spawn", "register", "spawn", "register", "unfreeze", "register"]
    assert all(one.gain[1] > 0 for one in found.skills[1:])
    lost = found.forgetting()
    assert float(lost["shapes"]["experts"].value) == 0.0
    assert float(lost["numbers"]["whole"].value) == 0.0  # learned last
    figures = found.skills[1].figures
    assert (figures["steps"], figures["flops"] > 0) == (12.0, True)
    assert 0 < figures["trainable_share"] < 0.5
    again = learn_skills(
        load_model(folder),
        tokenizer,
        stream,
        settings(),
        known=task("animals"),
        output_folder=tmp_path,
    )
    assert str(again.skills) == str(found.skills)  # with NaN where a row is too short
    new, old = stream[0], task("animals")
    for tasks, chosen, known in (
        ([stream[1], new, stream[2]], settings(), old),
        ([task("numbers", seed=6), *stream[1:]], settings(), old),
        ([*stream[1:]], settings(), new),
        ([*stream[:2]], settings(), old),
        (stream, settings(PolicySettings(cooldown=1)), old),
    ):
        with pytest.raises(CheckpointError):
            learn_skills(
                load_model(folder), tokenizer, tasks, chosen, known=known, output_folder=tmp_path
            )


class Killer(TrainerCallback):  # type: ignore[misc]
    """Stops everything after the seventh step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


EVERYTHING = PolicySettings(
    min_gain=1e-6, probe_steps=4, grow_below=1e9, max_rank=4, freeze_below=0.01
)


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_killed_in_a_probe_a_stage_or_after_growth_it_goes_on_to_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """A birth is a probe, a stage, growth, and a stage of twice the rank, with projections frozen on the way."""

    def learned(place: Path) -> SkillLearner:
        found = learner(folder, place, settings(EVERYTHING, router=router, replay=8))
        found.learn(rows(found, "numbers"))
        return found

    router = RouterSettings(kind="learned", immature=4, top=1)
    trained, calls = learning.train_stage, []

    def killed(*args: Any, callbacks: Sequence[TrainerCallback], **options: Any) -> StageResult:
        calls.append(options)
        more = [Killer()] * (len(calls) == killed_at)
        return trained(*args, callbacks=[*callbacks, *more], **options)

    whole = learned(tmp_path / "whole")
    monkeypatch.setattr(learning, "train_stage", killed)
    if killed_at > 1:  # a probe of 4 steps is over before the seventh
        with pytest.raises(KeyboardInterrupt):
            learned(tmp_path / "killed")
    resumed = learned(tmp_path / "killed")
    events = [(event.kind, event.name) for event in whole.mixture.bank.events]
    assert {"grow", "freeze", "evict"} <= {kind for kind, _ in events}
    assert [(event.kind, event.name) for event in resumed.mixture.bank.events] == events
    for mine, other in zip(
        resumed.mixture.parameters_of("numbers"),
        whole.mixture.parameters_of("numbers"),
        strict=True,
    ):
        assert torch.equal(mine, other)
    assert str(resumed.learned[-1].held_out) == str(whole.learned[-1].held_out)


def test_an_expert_grows_until_another_round_wins_enough_or_the_rank_is_reached(
    folder: Path, tmp_path: Path
) -> None:
    found = learner(folder, tmp_path, settings(PolicySettings(grow_below=1e9, max_rank=8)))
    one = found.learn(rows(found, "numbers"))
    assert found.mixture.bank.expert("numbers").rank == 8
    assert one.figures["steps"] == 36.0
    other = learner(folder, tmp_path / "b", settings(PolicySettings(grow_below=1e-9, max_rank=8)))
    assert other.learn(rows(other, "numbers")).figures["steps"] == 12.0


def test_a_probe_that_wins_too_little_prevents_a_birth(folder: Path, tmp_path: Path) -> None:
    found = learner(folder, tmp_path, settings(PolicySettings(min_gain=50.0, probe_steps=3)))
    one = found.learn(rows(found, "numbers"))
    assert (one.born, one.expert, list(found.mixture.bank.experts)) == (False, "base", [])
    assert "a probe won" in one.why


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (PolicySettings(cooldown=13), "12 steps after a birth"),
        (PolicySettings(max_experts=1), "no more may be"),
    ],
)
def test_a_birth_that_may_not_be_lets_the_nearest_expert_go_on(
    folder: Path, tmp_path: Path, policy: PolicySettings, why: str
) -> None:
    found = learner(folder, tmp_path, settings(policy))
    assert found.learn(rows(found, "numbers")).born
    second = found.learn(rows(found, "shapes"))
    assert (second.born, why in second.why) == (False, True)
    assert second.expert in ("numbers", "base")


def test_who_is_used_least_goes_under_a_cap_and_the_model_answers_its_skill(
    folder: Path, tmp_path: Path
) -> None:
    size = learner(folder, tmp_path / "size", settings()).mixture.parameters_at(2)
    found = learner(folder, tmp_path, settings(PolicySettings(max_parameters=size)))
    found.learn(rows(found, "numbers"))
    found.learn(rows(found, "shapes"))
    (left,) = found.mixture.bank.experts
    gone = ({"numbers", "shapes"} - {left}).pop()
    assert found.answers[gone] == "base"
    assert [event.name for event in found.mixture.bank.events if event.kind == "evict"] == [gone]
    assert found.mixture.bank.events[-1].figures["usage"] >= 0
    again = SkillLearner(
        load_model(folder), load_tokenizer(folder), found.settings, folder=tmp_path
    )
    assert again.answers == found.answers  # a run that goes on knows who has gone
    assert gone == "numbers"  # which was saved before, so that it stays on disk
    assert {path.name for path in tmp_path.glob("learned/mixture/experts/xp_*")} == {
        "xp_numbers",
        "xp_shapes",
    }


def test_experts_that_are_alike_become_one_unless_a_skill_loses(
    folder: Path, tmp_path: Path
) -> None:
    """With every expert called alike and of little use: two whose update is one another's merge, two that differ do not."""
    policy = PolicySettings(merge_every=1, merge_usage=1.0, merge_similarity=-0.99, probe_steps=3)
    found = learner(folder, tmp_path, settings(policy, replay=8))
    found.learn(rows(found, "numbers"))
    found.learn(rows(found, "shapes"))
    assert set(found.mixture.bank.experts) == {"numbers", "shapes"}  # half of each is worse
    pair = (found.mixture.parameters_of(name) for name in ("numbers", "shapes"))
    for mine, other in zip(*pair, strict=True):
        other.data.copy_(mine)
    found.answers["shapes"] = "numbers"
    found._tidy()
    assert list(found.mixture.bank.experts) == ["numbers and shapes"]
    assert set(found.answers.values()) == {"base", "numbers and shapes"}
    assert found.mixture.learning is None


def test_a_sequential_run_has_one_adapter_and_no_router(folder: Path, tmp_path: Path) -> None:
    found = learner(folder, tmp_path, settings(sequential=True, replay=8))
    assert not found.mixture.bank.experts  # what the model knows is not trained
    found.learn(rows(found, "numbers"))
    before = [factor.clone() for factor in found.mixture.parameters_of(ALL)]
    one = found.learn(rows(found, "shapes"))
    assert (list(found.mixture.bank.experts), found.mixture.router) == ([ALL], None)
    assert set(found.mixture.replay.rows) == {"animals", "numbers", "shapes"}
    moved = zip(found.mixture.parameters_of(ALL), before, strict=True)
    assert any(not torch.equal(mine, old) for mine, old in moved)
    for losses in one.held_out.values():
        assert losses.routed == losses.known


def test_rows_that_are_taken_for_new_again_get_a_name_of_their_own(
    folder: Path, tmp_path: Path
) -> None:
    found = learner(folder, tmp_path, settings())
    found.learn(rows(found, "numbers"))
    assert found._free("numbers") == "numbers 2"
    assert found._free("base") == "base 2"
    assert found._free("Numbers!") == "Numbers! 2"  # their adapters would be called alike


def test_short_answers_are_assessed_by_more_rows(folder: Path, tmp_path: Path) -> None:
    """Four labels a row: 64 rows have too few tokens to decide."""
    found = learner(folder, tmp_path, settings())
    skill = rows(found, "shapes")
    short = tuple(
        replace(row, labels=[-100] * (len(row.labels) - 4) + row.labels[-4:], scored_tokens=4)
        for row in skill.train
    )
    assert len(found._enough(skill.train)) == learning.ASSESSED
    assert len(found._enough(short)) == 2 * learning.ASSESSED
    assert found.learn(replace(skill, train=short)).verdict == "new"


def test_a_skill_of_two_rows_is_refused_and_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    found = learner(folder, tmp_path, settings())
    found.learn(rows(found, "numbers"))
    two = SkillRows.of(task("shapes", count=14), found.mixture.tokenizer, TRAINING.length)
    with pytest.raises(DataError):
        found.learn(two)
    again = SkillLearner(load_model(folder), load_tokenizer(folder), settings(), folder=tmp_path)
    assert list(again.mixture.bank.experts) == ["numbers"]
    assert math.isfinite(again.mixture.router.temperature)
