"""The embedded world: learnt, cached, deterministic, whole when two processes make it at once."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.foundation.data import MEANINGS
from crosstune.foundation.errors import TrainingError
from crosstune.foundation.worlds import WorldSettings, embedded_world
from crosstune.foundation.worlds import embedded as module
from crosstune.foundation.worlds.embedded import save_tokenizer

SMALL = WorldSettings(hidden_size=32, layers=2, sentences=1000, steps=30, batch=16)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path))
    return tmp_path


def test_a_world_is_an_ordinary_folder_that_has_learnt(cache):
    before = torch.get_rng_state()
    world = embedded_world(SMALL)
    assert torch.equal(torch.get_rng_state(), before)
    model = AutoModelForCausalLM.from_pretrained(world.folder)
    tokenizer = AutoTokenizer.from_pretrained(world.folder)
    assert model.num_parameters() == world.parameters
    assert model.config.vocab_size == len(tokenizer) == 512
    assert world.uniform_nats == pytest.approx(math.log(512))
    assert world.floor_nats < world.held_out_nats < world.uniform_nats


def test_the_second_call_reads_the_first_ones_folder(cache, monkeypatch):
    first = embedded_world(SMALL)
    monkeypatch.setattr(module, "_make", None)  # calling it would fail
    assert embedded_world(SMALL) == first
    assert [path.name for path in (cache / "worlds").iterdir()] == [first.folder.name]


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path, monkeypatch):
    def bits(folder, settings):
        monkeypatch.setenv("CROSSTUNE_CACHE", str(tmp_path / folder))
        return (embedded_world(settings).folder / "model.safetensors").read_bytes()

    assert bits("a", SMALL) == bits("b", SMALL)
    assert bits("a", SMALL) != bits("a", replace(SMALL, seed=1))


def test_a_world_that_breaks_off_leaves_nothing_behind(cache, monkeypatch):
    def broken(*args):
        raise TrainingError("x", law="y", found="z", remedy="w")

    monkeypatch.setattr(module, "_pretrain", broken)
    with pytest.raises(TrainingError):
        embedded_world(SMALL)
    assert list((cache / "worlds").iterdir()) == []


def test_two_makers_of_one_world_end_with_one_whole_folder(cache, monkeypatch):
    monkeypatch.setattr(module, "_pretrain", lambda *args: None)  # the race is in the folder
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: embedded_world(SMALL).folder, range(2))
    assert first == second
    assert [path.name for path in (cache / "worlds").iterdir()] == [first.name]
    AutoModelForCausalLM.from_pretrained(first)


def test_the_sentences_learnt_from_are_not_those_of_tasks():
    settings = WorldSettings()
    assert module.FIRST_MEANING > 20_000
    assert module.FIRST_MEANING + settings.sentences + 256 < MEANINGS


def test_the_default_world_has_learnt_its_language():
    world = embedded_world()  # the user's cache: made once, used by every test that wants a model
    assert world.unigram_nats > 4.0
    # The floor is ln MEANINGS nats a sentence, known from how sentences are made.
    assert world.floor_nats < world.held_out_nats < world.floor_nats + 0.2
    assert 200_000 < world.parameters < 400_000


def test_a_loss_that_explodes_is_named_at_once(cache):
    with pytest.raises(TrainingError, match="finite"):
        embedded_world(replace(SMALL, learning_rate=1e30))


LANGUAGES = ("toy:latin-svo", "toy:bengali-sov")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    return folder, save_tokenizer(folder, LANGUAGES, 320, 64)


@pytest.mark.parametrize("text", ["plain words", "বাংলা লেখা", "عربي", "🙂\n\ttabs"])
def test_every_text_comes_back(saved, text) -> None:
    _, tokenizer = saved
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_it_is_as_large_as_asked_and_pads_with_the_end_of_text(saved) -> None:
    _, tokenizer = saved
    assert len(tokenizer) == 320
    assert tokenizer.pad_token == tokenizer.eos_token


def test_the_folder_holds_the_same_tokenizer(saved) -> None:
    folder, tokenizer = saved
    again = AutoTokenizer.from_pretrained(folder)
    assert again("বাংলা words")["input_ids"] == tokenizer("বাংলা words")["input_ids"]
