"""A mixture: births change nothing, old experts cannot be forgotten, gates are causal, and caches, packing and padding change none."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig, Trainer, TrainingArguments

from crosstune.experts.mixture import ExpertMixture
from crosstune.experts.settings import NoveltySettings, RouterSettings
from crosstune.foundation.data import Encoded, Row, Task, collate, encode, pack
from crosstune.foundation.errors import (
    DataError,
    ModelError,
    SettingsError,
    TrainingError,
    UnsupportedError,
)
from crosstune.foundation.models import load_model, load_tokenizer, model_inputs
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.worlds import random_model

WORDS = {
    "animals": ["cat", "dog", "cow", "hen", "owl", "fox", "bee", "ant"],
    "numbers": ["17", "23", "42", "58", "64", "71", "86", "95"],
    "shapes": ["[", "]", "{", "}", "(", ")", "<", ">"],
}


def texts(skill: str, count: int = 24, seed: int = 0) -> list[str]:
    draw = random.Random(f"{skill} {seed}")
    return [" ".join(draw.choices(WORDS[skill], k=draw.randrange(6, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_model("llama", tmp_path_factory.mktemp("models") / "llama")


def fresh(folder: Path, **options: Any) -> ExpertMixture:
    return ExpertMixture(load_model(folder), load_tokenizer(folder), length=48, **options)


def rows_of(mixture: ExpertMixture, skill: str, seed: int = 0) -> list[Encoded]:
    rows = [Row(f"{skill}{at}", text) for at, text in enumerate(texts(skill, seed=seed))]
    return encode(rows, mixture.tokenizer, 48)


def learn(mixture: ExpertMixture, skill: str, folder: Path, steps: int = 4) -> None:
    mixture.spawn(skill, rank=4)
    data = StageData(rows_of(mixture, skill), mixture.tokenizer.pad_token_id)
    chosen = TrainingSettings(steps=steps, batch_rows=8, learning_rate=1e-2)
    callbacks = [mixture.callback()]
    train_stage(mixture, data, chosen, output_folder=folder / skill, callbacks=callbacks)
    mixture.register(skill, texts(skill, 48))


def with_skills(folder: Path, stages: Path) -> ExpertMixture:
    """The model itself for animals, and two experts that have learned something."""
    mixture = fresh(folder)
    mixture.register("base", texts("animals", 48))
    for skill in ("numbers", "shapes"):
        learn(mixture, skill, stages)
    return mixture.eval()


@pytest.fixture(scope="module")
def three(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ExpertMixture:
    return with_skills(folder, tmp_path_factory.mktemp("stages"))


def logits(mixture: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = mixture(**model_inputs(batch)).logits
    return found


def batch_of(
    mixture: ExpertMixture, skill: str, count: int = 4, **options: Any
) -> dict[str, Tensor]:
    return collate(rows_of(mixture, skill, seed=1)[:count], 0, **options)


def close(one: Tensor, other: Tensor) -> None:
    """1e-5 of the largest: float32 sums of another order."""
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))


def test_a_birth_changes_no_bit_and_the_newcomer_learns(folder: Path) -> None:
    mixture = fresh(folder).eval()
    batch = batch_of(mixture, "animals")
    before = logits(mixture, batch)
    mixture.spawn("numbers", rank=4)
    assert torch.equal(logits(mixture, batch), before)
    mixture(**model_inputs(batch)).logits.sum().backward()
    with_gradient = [p for p in mixture.parameters_of("numbers") if p.grad is not None]
    assert any(bool(p.grad.any()) for p in with_gradient)
    learning = {p for p in mixture.parameters() if p.requires_grad}
    assert learning == set(mixture.parameters_of("numbers"))
    with mixture.answering():
        assert torch.equal(logits(mixture, batch), before)


def test_with_the_skill_known_a_later_stage_changes_no_bit(folder: Path, tmp_path: Path) -> None:
    mixture = fresh(folder)
    learn(mixture, "numbers", tmp_path)
    batch = batch_of(mixture, "numbers")
    with mixture.answering("numbers"):
        before = logits(mixture, batch)
    learn(mixture, "shapes", tmp_path)
    with mixture.answering("numbers"):
        assert torch.equal(logits(mixture, batch), before)
    with mixture.answering("shapes"):
        assert not torch.allclose(logits(mixture, batch), before)


def test_gates_tell_skills_apart(three: ExpertMixture) -> None:
    """From the prefix alone: of new rows, most of the gate at the last token."""
    names = three.router.names
    assert names == ("base", "numbers", "shapes")
    for name, skill in zip(names, ("animals", "numbers", "shapes"), strict=True):
        for features, mask in three.routing.features(rows_of(three, skill, seed=1)):
            gates = three.router.gates(features)
            last = mask.sum(dim=1) - 1
            own = gates[torch.arange(len(last)), last, names.index(name)]
            assert float(own.mean()) > 0.6


def test_no_later_token_reaches_a_gate_or_a_logit(three: ExpertMixture) -> None:
    batch = batch_of(three, "numbers")
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 6:] = other["input_ids"][:, 6:].flip(1)
    close(logits(three, other)[:, :6], logits(three, batch)[:, :6])


def test_padding_and_batches_change_nothing(three: ExpertMixture) -> None:
    rows = rows_of(three, "shapes", seed=1)[:4]
    right, left = (logits(three, collate(rows, 0, side=side)) for side in ("right", "left"))
    for at, row in enumerate(rows):
        size = len(row.input_ids)
        alone = logits(three, collate([row], 0))[0]
        close(right[at, :size], alone)
        close(left[at, -size:], alone)


def test_packed_rows_are_the_rows_one_by_one(three: ExpertMixture) -> None:
    rows = [*rows_of(three, "numbers", seed=1)[:3], *rows_of(three, "shapes", seed=1)[:3]]
    alone = {row.row_id: logits(three, collate([row], 0))[0] for row in rows}
    packs = pack(rows, 120)
    found = logits(three, collate(packs, 0))
    for at, row in enumerate(packs):
        start = 0
        for name, size in zip(row.rows, row.lengths, strict=True):
            close(found[at, start : start + size], alone[name])
            start += size


def test_generation_with_a_cache_is_generation_without(three: ExpertMixture) -> None:
    """The router's running mean goes along."""
    rows = rows_of(three, "numbers", seed=2)[:3]
    batch = collate(rows, 0, side="left")
    inputs = {key: batch[key][:, :-2] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    cached = three.generate(**inputs, **options, use_cache=True)
    assert torch.equal(cached, three.generate(**inputs, **options, use_cache=False))
    with pytest.raises(UnsupportedError, match="`generate` must go on from one cache"):
        three.generate(**inputs, num_beams=2)


def test_experts_without_mass_cost_nothing(folder: Path, tmp_path: Path) -> None:
    mixture = fresh(folder, router=RouterSettings(top=1))
    mixture.register("base", texts("animals", 48))
    learn(mixture, "numbers", tmp_path)
    logits(mixture.eval(), batch_of(mixture, "animals"))
    gates = mixture.routing.gates[0]
    assert gates.values.shape[-1] == len(gates.names) <= 1


def test_checkpointing_of_activations_changes_no_gradient(folder: Path) -> None:
    found = []
    for checkpointed in (False, True):
        mixture = fresh(folder)
        mixture.spawn("numbers", rank=4)
        if checkpointed:
            mixture.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        batch = batch_of(mixture, "numbers")
        mixture.train()(**model_inputs(batch)).logits.square().mean().backward()
        found.append([p.grad for p in mixture.parameters_of("numbers")])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def trained(mixture: ExpertMixture, place: Path, **options: Any) -> Trainer:
    """By a trainer of transformers that saves as it does unless told."""
    mixture.spawn("numbers", rank=4)
    arguments = TrainingArguments(
        str(place), max_steps=3, save_steps=2, report_to="none", use_cpu=True,
        disable_tqdm=True, learning_rate=1e-2,
    )  # fmt: skip
    rows = [
        {"input_ids": row.input_ids, "labels": row.labels, "attention_mask": [1] * len(row.labels)}
        for row in rows_of(mixture, "numbers")
    ]
    trainer = Trainer(
        mixture,
        arguments,
        train_dataset=rows,
        data_collator=lambda some: {
            key: torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(one[key]) for one in some],
                batch_first=True,
                padding_value=-100 if key == "labels" else 0,
            )
            for key in some[0]
        },
        callbacks=[mixture.callback()],
    )
    assert trainer.train(**options).training_loss > 0.0
    return trainer


def test_a_trainer_of_transformers_trains_it(folder: Path, tmp_path: Path) -> None:
    mixture = fresh(folder)
    frozen = mixture.get_base_model().lm_head.weight.clone()
    trained(mixture, tmp_path)
    moved = [p for p in mixture.parameters_of("numbers") if bool(p.any())]
    assert len(moved) == len(mixture.parameters_of("numbers"))
    assert torch.equal(mixture.get_base_model().lm_head.weight, frozen)


def test_such_a_trainer_saves_what_learns_of_a_tied_model_and_goes_on(tmp_path: Path) -> None:
    folder = random_model("gpt2", tmp_path / "gpt2")
    router = RouterSettings(kind="learned")
    mixture, again = (fresh(folder, router=router) for _ in range(2))
    trained(mixture, tmp_path / "run")
    saved = load_file(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    own = {*map(id, mixture.parameters_of("numbers"))}
    names = [name for name, value in mixture.named_parameters() if id(value) in own]
    assert sorted(saved) == sorted([*names, *(f"router.{n}" for n in mixture.router.state_dict())])
    trained(again, tmp_path / "run", resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for one, other in zip(mixture.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    mixture = fresh(folder)
    data, chosen = (
        StageData(rows_of(mixture, "numbers"), 0),
        TrainingSettings(steps=1, batch_rows=2),
    )
    mixture.model.lm_head.weight.requires_grad_(True)
    watch = [mixture.callback()]
    with pytest.raises(TrainingError, match="`optimizer` must hold the factors"):
        train_stage(mixture, data, chosen, output_folder=tmp_path, callbacks=watch)
    with pytest.raises(SettingsError, match="must be an expert of the mixture"):
        mixture.register("numbers", texts("numbers"))
    mixture.spawn("numbers", rank=2)
    with pytest.raises(TrainingError, match="`spawn` must come when no expert is learning"):
        mixture.spawn("shapes")
    with pytest.raises(DataError, match="`rows` must"):
        mixture.register("numbers", [])
    with pytest.raises(DataError, match="must be at least 32 different ones.*found 2"):
        mixture.register("numbers", texts("numbers")[:2] * 20)
    assert mixture.learning == "numbers"
    rows = tuple(Row(text, text) for text in set(texts("numbers", 48)))
    factor = mixture.parameters_of("numbers")[0]
    whole = factor.detach().clone()
    factor.data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="`numbers` must have finite factors"):
        mixture.register("numbers", texts("numbers", 48))
    factor.data.copy_(whole)
    mixture.register(Task("numbers", train=rows[1:], test=rows[:1]))
    with pytest.raises(SettingsError, match="be no other expert's"):
        mixture.spawn("Numbers")


def test_what_is_new_and_what_is_known(folder: Path) -> None:
    mixture = fresh(folder, novelty=NoveltySettings(min_rows=16, min_tokens=100))
    assert mixture.assess(texts("animals")).is_new  # nothing is known yet
    mixture.register("base", texts("animals", 48))
    again = mixture.assess(texts("animals", 48, seed=3))
    assert (again.verdict, again.nearest) == ("known", "base")
    assert mixture.assess(texts("shapes", 48)).is_new
    assert mixture.assess(texts("shapes", 4)).verdict == "undecided"
    mixture.register("base", texts("numbers", 48))  # though it is new: the model is to answer it
    assert mixture.assess(texts("animals", 48, seed=3)).verdict == "known"


def test_a_cache_goes_on_however_positions_are_told(three: ExpertMixture) -> None:
    ids = torch.tensor([rows_of(three, "numbers", seed=1)[0].input_ids])
    with torch.no_grad():
        whole = three(ids).logits
        for told in (False, True):
            first = three(ids[:, :6], use_cache=True)
            mask = torch.ones_like(ids) if told else None
            rest = three(ids[:, 6:], attention_mask=mask, past_key_values=first.past_key_values)
            close(rest.logits, whole[:, 6:])


def test_calls_that_hide_where_sequences_begin_are_refused(three: ExpertMixture) -> None:
    batch = batch_of(three, "numbers")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    base = three.get_base_model()
    with torch.no_grad():
        close(base(ids, mask).logits, three(ids, mask).logits)  # by position, too
    with pytest.raises(UnsupportedError, match="a call of a part of the model"):
        base.model(input_ids=ids)
    square = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1).bool().tril()
    with pytest.raises(UnsupportedError, match="a mask of another shape"):
        three(ids, square)
    beams = GenerationConfig(num_beams=2)
    with pytest.raises(UnsupportedError, match="`generate` must go on from one cache"):
        three.generate(input_ids=ids, generation_config=beams)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "`rank` must be at least 1"),
        ({"alpha": 0.0}, "`alpha` must be positive"),
        (
            {"targets": ["q_proj", "lm_head"]},
            "`targets` must be linear modules.*lm_head.*down_proj",
        ),
    ],
)
def test_a_birth_that_cannot_be_is_refused(folder: Path, options: Any, message: str) -> None:
    mixture = fresh(folder)
    with pytest.raises(SettingsError, match=message):
        mixture.spawn("numbers", **options)
    mixture.spawn("numbers", targets=["q_proj"])
    mixture.register("numbers", texts("numbers", 48))
    assert len(mixture.spawn("shapes").targets) == 7  # its own, not those of the first
    for site in (-1, 99):
        with pytest.raises(SettingsError, match="`site` must be from 0 to"):
            fresh(folder, site=site)
    with pytest.raises(ModelError, match="must have no adapters"):
        ExpertMixture(mixture.get_base_model(), mixture.tokenizer)
