"""The worlds' tokenizer spells every script, opens a text with <s>, and comes back from its folder."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from crosstune.foundation.worlds.tokenizer import save_tokenizer

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
