"""Uniform is ln V; unigram is what the frequencies of the train rows cost."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import DataError
from crosstune.foundation.evaluation import chance_lines


def row(name: str, *tokens: int, prompt: int = 1) -> Encoded:
    labels = [-100] * prompt + list(tokens[prompt:])
    return Encoded(name, list(tokens), labels, len(tokens) - prompt, 9, False, unit=name)


def test_by_hand() -> None:
    # scored train tokens: 1 1 2; with half a count on each of four tokens: p = 2.5, 1.5, .5, .5 of 5
    lines = chance_lines([row("x", 3, 1, 1, 2)], [row("y", 0, 1, 3), row("z", 0, 2)], 4)
    assert lines.uniform.value == math.log(4)
    expected = -(math.log(2.5 / 5) + math.log(0.5 / 5) + math.log(1.5 / 5)) / 3
    assert lines.unigram.value == pytest.approx(expected)
    assert lines.unigram.n == 2
    assert lines.unigram.chance == math.log(4)


def test_without_train_rows_it_is_uniform() -> None:
    lines = chance_lines([], [row("y", 0, 1, 3)], 7)
    assert lines.unigram.value == pytest.approx(math.log(7))


def test_prompts_are_not_counted() -> None:
    with_prompt = chance_lines([row("x", 0, 3, 3, 3, 1, prompt=4)], [row("y", 0, 1)], 4)
    without = chance_lines([row("x", 0, 1)], [row("y", 0, 1)], 4)
    assert with_prompt.unigram.value == without.unigram.value


def test_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(DataError, match="token 9 in row 'y'"):
        chance_lines([], [row("y", 0, 9)], 4)
