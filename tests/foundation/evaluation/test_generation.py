"""A continuation depends on model and prompt alone: not on the batch, the padding, or random states; how texts repeat."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.foundation.training import tiny

from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.evaluation import continuations, distinct_2, longest_repeat
from crosstune.foundation.models import Stream, load_model, load_tokenizer


class Letters:
    """One token a letter: `a` is 3, `b` is 4, …; 1 opens a text, 2 ends it."""

    eos_token_id: int | None = 2
    padding_side = "right"
    opening: tuple[int, ...] = (1,)

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [*self.opening, *(ord(letter) - ord("a") + 3 for letter in text)]}

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(chr(at - 3 + ord("a")) for at in ids if at > 2)


PROMPTS = ["a", "hello", "abcdefghijklmnop", "zz"]


def gpt2(seed: int = 0) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def lively(model: Any) -> Any:
    """Larger weights, so that the most likely token depends on all that came before."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(12)
    return model


def by_hand(model: Any, prompt: str, count: int) -> str:
    """No padding, no cache: the whole text is read again for every token."""
    ids, tokenizer = Letters()(prompt)["input_ids"], Letters()
    written: list[int] = []
    while len(written) < count:
        with torch.no_grad():
            found = int(model(input_ids=torch.tensor([ids + written])).logits[0, -1].argmax())
        if found == tokenizer.eos_token_id:
            break
        written.append(found)
    return tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("make", [tiny.model, gpt2], ids=["rotary", "learned positions"])
def test_a_batch_writes_what_each_prompt_writes_alone(make: Any) -> None:
    for seed in range(5):  # the law would hold trivially for a model that always writes the same
        model = lively(make(seed))
        alone = [by_hand(model, prompt, 12) for prompt in PROMPTS]
        if len(set(alone)) > 1:
            break
    assert len(set(alone)) > 1
    assert continuations(model, Letters(), PROMPTS, new_tokens=12) == alone
    assert continuations(model, Letters(), PROMPTS[::-1], new_tokens=12) == alone[::-1]
    assert [continuations(model, Letters(), [one], new_tokens=12)[0] for one in PROMPTS] == alone


def test_a_continuation_ends_before_the_end_of_text_token() -> None:
    model, tokenizer = lively(tiny.model()), Letters()
    tokenizer.eos_token_id = None
    endless = continuations(model, tokenizer, PROMPTS, new_tokens=12)
    # Another letter than the first, and than the prompt's last, which would be taken for its end.
    prompt, text, letter = next(
        (prompt, text, letter)
        for prompt, text in zip(PROMPTS, endless, strict=True)
        for letter in text[1:]
        if letter not in {text[0], prompt[-1]}
    )
    tokenizer.eos_token_id = tokenizer(letter)["input_ids"][-1]
    found = continuations(model, tokenizer, [prompt], new_tokens=12)[0]
    assert found == text[: text.index(letter)]


def test_a_tokenizer_that_closes_texts_does_not_end_the_prompt() -> None:
    class Closing(Letters):
        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [*super().__call__(text)["input_ids"], 2]}

    model = lively(tiny.model())
    assert continuations(model, Closing(), PROMPTS) == continuations(model, Letters(), PROMPTS)


def test_the_model_and_the_random_states_are_as_they_were() -> None:
    model = tiny.model(attention_dropout=0.5).train()
    before, state = tiny.weights(model), torch.get_rng_state()
    first = continuations(model, Letters(), PROMPTS)
    assert first == continuations(model, Letters(), PROMPTS)  # no dropout
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert tiny.same_bits(before, tiny.weights(model))
    assert torch.equal(state, torch.get_rng_state())


def test_a_context_of_the_prefill_is_left_before_the_next_token() -> None:
    """A prompt of one token looks like a step of decoding; by hand, only the first place is written."""

    def rewritten(model: Any, count: int) -> str:
        written: list[int] = []
        while len(written) < count:
            where = torch.arange(1 + len(written))[None] == 0
            with torch.no_grad(), Stream.of(model).write(1, values, where):
                found = model(input_ids=torch.tensor([[1, *written]])).logits[0, -1].argmax()
            if found == Letters.eos_token_id:
                break
            written.append(int(found))
        return Letters().decode(written, skip_special_tokens=True)

    values = 3 * torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        model = lively(tiny.model(seed)).eval()
        expected = rewritten(model, 12)
        with Stream.of(model).write(1, values):
            always = continuations(model, Letters(), [""], new_tokens=12)
        if expected not in (*always, *continuations(model, Letters(), [""], new_tokens=12)):
            break
    else:
        pytest.fail("written states never mattered")
    prefill = Stream.of(model).write(1, values)
    assert continuations(model, Letters(), [""], new_tokens=12, prefill=prefill) == [expected]


SAID = st.lists(st.sampled_from(["a", "b", "cd"]), max_size=9).map(" ".join)


@given(st.lists(SAID, max_size=4))
def test_distinct_pairs_are_counted_one_by_one(texts: list[str]) -> None:
    seen: list[str] = []
    for text in texts:
        words = text.split()
        seen += [words[at] + " " + words[at + 1] for at in range(len(words) - 1)]
    different = sum(pair not in seen[:at] for at, pair in enumerate(seen))
    found = distinct_2(texts)
    assert math.isnan(found) if not seen else found == different / len(seen)


@given(SAID)
def test_the_longest_repeat_is_that_of_any_two_places(text: str) -> None:
    words = text.split()
    repeats = [
        size
        for first in range(len(words))
        for second in range(first)
        for size in range(1, len(words) - first + 1)
        if words[first : first + size] == words[second : second + size]
    ]
    assert longest_repeat(text) == max(repeats, default=0)


def test_bad_prompts_and_lengths_are_refused() -> None:
    class Bare(Letters):
        opening = ()

    model = tiny.model()
    assert continuations(model, Letters(), []) == []
    with pytest.raises(DataError, match="at least one token"):
        continuations(model, Bare(), ["a", ""])
    for count in (0, 64):
        with pytest.raises(SettingsError, match="context of 64"):
            continuations(model, Letters(), ["a"], new_tokens=count)


def test_a_real_model_writes_what_transformers_generates(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    prompts = ["Once upon a time", "The little dog was very", "Tom"]
    found = continuations(model, tokenizer, prompts, new_tokens=20)
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        generated = model.generate(ids, do_sample=False, max_new_tokens=20)[0]
        assert prompt + text == tokenizer.decode(generated, skip_special_tokens=True)
        assert text.strip()
