"""Who forgot: the router's cost is the loss with gates less the loss with the skill known, token by token."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from tests.experts.test_mixture import folder, fresh, rows_of, three  # noqa: F401
from tests.studies.skills.test_tables import losses

from crosstune.experts.bank.log import Event
from crosstune.experts.health import POSITIONS, SkillHealth, skill_health
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.data import as_rows, collate, encode
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.evaluation import score_rows, token_nats
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.foundation.training import StageData, TrainingSettings, train_stage


@pytest.mark.parametrize(("skill", "words"), [("base", "animals"), ("shapes", "shapes")])
def test_both_losses_are_those_of_scored_rows(three, skill: str, words: str) -> None:  # noqa: F811
    rows = rows_of(three, words, seed=4)
    health = skill_health(three, skill, rows)
    assert float(health.loss.value) == pytest.approx(score_rows(three, rows, pad_id=0).loss)
    with three.answering(*(() if skill == "base" else (skill,))):
        alone = score_rows(three, rows, pad_id=0)
    assert float(health.known_loss.value) == pytest.approx(alone.loss)
    assert health.known == pytest.approx(tuple(alone.by_unit(alone.nats).tolist()))
    assert (sum(health.tokens), health.bytes) == (int(alone.tokens.sum()), int(alone.bytes.sum()))
    cost = health.router_forgetting
    assert float(cost.value) == pytest.approx(
        float(health.loss.value) - float(health.known_loss.value)
    )
    assert cost.low < cost.value < cost.high
    assert health.usage.keys() == {"base", "numbers", "shapes"}
    assert sum(health.usage.values()) == pytest.approx(1.0)
    assert max(health.usage, key=health.usage.get) == skill
    assert 0.0 < health.entropy < 1.0


def test_the_cost_of_places_is_that_of_their_tokens(three) -> None:  # noqa: F811
    rows = rows_of(three, "shapes", seed=4)
    health = skill_health(three, "shapes", rows)
    costs: dict[int, list[float]] = {}
    for row in rows:
        batch = collate([row], 0)
        with torch.no_grad():
            routed = token_nats(three, batch)[0]
            with three.answering("shapes"):
                cost = routed - token_nats(three, batch)[0]
        for at, value in enumerate(cost.tolist(), start=1):  # every token but the first is scored
            place = max(edge for edge in POSITIONS if edge <= at)
            costs.setdefault(place, []).append(value)
    expected = [sum(costs[at]) / len(costs[at]) if at in costs else math.nan for at in POSITIONS]
    assert health.by_position == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
    assert len(costs) > 3 and 0 not in costs


def test_without_a_router_the_skills_expert_answers(folder) -> None:  # noqa: F811
    mixture = fresh(folder)
    mixture.spawn("numbers", rank=2)
    for value in mixture.parameters_of("numbers"):
        value.data.normal_()
    mixture.bank.record(Event("register", "numbers"))
    health = skill_health(mixture, "numbers", rows_of(mixture, "numbers"))
    alone = skill_health(mixture, "base", rows_of(mixture, "numbers"))
    assert health.routed == health.known != alone.known
    assert health.usage == {}


def test_one_answering_all_has_no_entropy_and_all_alike_have_most() -> None:
    for usage, entropy in (
        ({"a": 1.0}, 0.0),
        ({"a": 1.0, "b": 0.0}, 0.0),
        ({"a": 0.5, "b": 0.5}, 1.0),
    ):
        assert SkillHealth((), (), (), 0, usage, ()).entropy == pytest.approx(entropy)


def test_what_was_forgotten_is_paired_by_rows_and_adds_up() -> None:
    then, now = losses(2.0, 1.5), losses(2.5, 1.75)
    lost = now.forgotten_since(then)
    paired = ratio_jackknife([5.0] * 4, then.tokens)  # every row lost the same: no spread is left
    assert float(lost["whole"].value) == pytest.approx(0.5)
    assert float(lost["whole"].low) == pytest.approx(float(paired.low))
    assert float(lost["experts"].value) + float(lost["router"].value) == pytest.approx(0.5)


def test_what_an_expert_wins_is_against_the_same_rows(three) -> None:  # noqa: F811
    rows = rows_of(three, "shapes", seed=4)
    health = skill_health(three, "shapes", rows)
    with three.answering():
        alone = score_rows(three, rows, pad_id=0)
    won = health.won(alone)
    assert float(won.value) == pytest.approx(alone.loss - float(health.known_loss.value))
    assert won.low < won.value < won.high


def test_bits_count_the_bytes_of_the_text() -> None:
    assert losses(1.0, 1.0).bits_per_byte == pytest.approx(1.15 / 2 / 0.6931471805599453)


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
        after[name] = float(skill_health(mixture, name, held_out[name]).known_loss.value)
    for name, some in held_out.items():
        health = skill_health(mixture, name, some)
        assert float(health.known_loss.value) == pytest.approx(
            after[name], rel=1e-6
        )  # experts forget nothing
        assert health.router_forgetting.value < 0.35  # .03, .10, .13 and .04 were seen
        if name != "base":
            assert start[name] - float(health.loss.value) > 1.0
