"""Who forgot: the router's cost is the loss with gates less the loss with the skill known, token by token."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.experts.test_mixture import folder, learn, rows_of, texts, three  # noqa: F401

from crosstune.experts.health import SkillHealth, skill_health
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.data import as_rows, encode
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.training import StageData, TrainingSettings, train_stage


@pytest.mark.parametrize(("skill", "words"), [("base", "animals"), ("shapes", "shapes")])
def test_both_losses_are_those_of_scored_rows(three, skill: str, words: str) -> None:  # noqa: F811
    rows = rows_of(three, words, seed=4)
    health = skill_health(three, skill, rows)
    assert health.loss.value == pytest.approx(score_rows(three, rows, pad_id=0).loss)
    with three.answering(*(() if skill == "base" else (skill,))):
        alone = score_rows(three, rows, pad_id=0).loss
    assert health.known_loss.value == pytest.approx(alone)
    cost = health.router_forgetting
    assert cost.value == pytest.approx(health.loss.value - health.known_loss.value)
    assert cost.low < cost.value < cost.high
    assert health.usage.keys() == {"base", "numbers", "shapes"}
    assert sum(health.usage.values()) == pytest.approx(1.0)
    assert max(health.usage, key=health.usage.get) == skill
    assert 0.0 < health.entropy < 1.0


def test_positions_add_up_and_what_is_not_scored_is_unmeasured() -> None:
    routed = torch.tensor([[0.0, 3.0, 2.0, 1.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    scored = torch.tensor([[False, True, True, True], [False, True, False, False]])
    health = SkillHealth("a", routed, routed / 2, scored, ("x", "y"), {"a": 1.0})
    assert health.by_position([0, 1, 2]) == pytest.approx([math.nan, 1.0, 0.75], nan_ok=True)
    assert health.router_forgetting.value == pytest.approx(3.5 / 4)
    assert health.entropy == 0.0


def test_a_skill_without_an_expert_is_refused(three) -> None:  # noqa: F811
    with pytest.raises(SettingsError, match="must be an expert of the mixture"):
        skill_health(three, "cooking", rows_of(three, "shapes"))


def real_rows(shared: Path) -> dict[str, list[str]]:
    """Texts of four skills, 110 each."""
    data = shared / "data"

    def read(file: str) -> list[dict[str, str]]:
        lines = (data / file).read_text("utf-8").splitlines()[:110]
        return [json.loads(line) for line in lines]

    wiki = (data / "english/wikitext-2/valid.txt").read_text("utf-8").split("\n")
    return {
        "base": [line["text"] for line in read("english/tinystories_train.jsonl")],
        "wiki": [line for line in wiki if len(line) > 300][:110],
        "code": [f"{line['text']}\n{line['code']}" for line in read("code/mbpp.jsonl")],
        "bn": [line["text"] for line in read("languages/bn.jsonl")],
    }


@pytest.mark.slow
def test_real_skills_are_learned_and_only_the_gates_forget(shared: Path, tmp_path: Path) -> None:
    """stories260K, stories → wiki → code → bn, 30 steps of 8 × 96 tokens each; nothing is replayed."""
    place = shared / "models" / "stories260K"
    tokenizer = load_tokenizer(place)
    mixture = ExpertMixture(load_model(place), tokenizer, length=96)
    rows = {
        name: encode(as_rows(some, "rows"), tokenizer, 96)
        for name, some in real_rows(shared).items()
    }
    learned = {name: some[:80] for name, some in rows.items()}
    held_out = {name: some[80:] for name, some in rows.items()}
    start = {name: score_rows(mixture, some, pad_id=0).loss for name, some in held_out.items()}
    after, texts_of = {}, real_rows(shared)
    for name in rows:
        if name != "base":
            assert mixture.assess(texts_of[name][:80]).is_new
            mixture.spawn(name, rank=8)
            chosen = TrainingSettings(steps=30, batch_rows=8, learning_rate=5e-3, length=96)
            data = StageData(learned[name], 0)
            train_stage(
                mixture, data, chosen, output_folder=tmp_path / name, callbacks=[mixture.callback()]
            )
        mixture.register(name, texts_of[name][:80])
        assert mixture.assess(texts_of[name][80:]).verdict != "new"
        after[name] = skill_health(mixture, name, held_out[name]).known_loss.value
    for name, some in held_out.items():
        health = skill_health(mixture, name, some)
        assert health.known_loss.value == pytest.approx(
            after[name], rel=1e-6
        )  # experts forget nothing
        assert health.router_forgetting.value < 0.35  # .03, .10, .13 and .04 were seen
        if name != "base":
            assert start[name] - health.loss.value > 1.0
