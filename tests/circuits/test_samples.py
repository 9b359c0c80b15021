"""Samples: chosen by content and seed, spread over groups; what cannot be paired is refused."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from tests.interference import tiny

from crosstune.circuits.samples import check_length, choose_samples
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data import Row, Task
from crosstune.foundation.errors import DataError, SettingsError

SETTINGS = CircuitSettings(rows=8, length=16)


def ids(samples: object) -> list[str]:
    return [row.id for row in samples.rows]  # type: ignore[attr-defined]


def test_samples_do_not_depend_on_the_order_of_rows_but_on_the_seed() -> None:
    a, b = tiny.rows("en", 20), tiny.rows("bn", 20)
    first = choose_samples(a, b, tiny.tokenizer(), SETTINGS)
    random.Random(1).shuffle(a)
    assert choose_samples(a, b, tiny.tokenizer(), SETTINGS) == first
    other = choose_samples(a, b, tiny.tokenizer(), CircuitSettings(rows=8, length=16, seed=1))
    assert ids(other[0]) != ids(first[0])
    assert [len(one) for one in first] == [8, 8]


def test_texts_and_encodings_lie_as_the_rows_do() -> None:
    samples, _ = choose_samples(
        [Row("x", "the cat", prompt="now "), Row("y", "a dog")],
        tiny.rows("bn", 2),
        tiny.tokenizer(),
        SETTINGS,
    )
    assert [row.row_id for row in samples.encoded] == ids(samples)
    assert dict(zip(ids(samples), samples.texts, strict=True)) == {"x": "now the cat", "y": "a dog"}


def test_every_group_speaks_before_one_speaks_twice() -> None:
    rows = [
        Row(f"{d}-{line}", f"cat {d} {line}", group=f"d{d}") for d in range(6) for line in range(9)
    ]
    samples, _ = choose_samples(rows, tiny.rows("bn", 2), tiny.tokenizer(), SETTINGS)
    spoken = [row_id.split("-")[0] for row_id in ids(samples)]
    assert len(set(spoken[:6])) == 6
    assert len(spoken) == 8


def test_parallel_tasks_are_held_on_the_same_sentences() -> None:
    a = [Row(f"a{n}", f"one {n}", group=f"g{n}") for n in range(30)]
    b = [Row(f"b{n}", f"two {n}", group=f"g{n}") for n in range(30)]
    one, other = choose_samples(a, b, tiny.tokenizer(), SETTINGS)
    assert [row.group for row in one.rows] == [row.group for row in other.rows]


def test_of_a_task_the_train_rows_are_taken() -> None:
    task = Task("stories", [Row("in", "the cat")], [Row("out", "a dog")])
    samples, _ = choose_samples(task, ["the bird"], tiny.tokenizer(), SETTINGS)
    assert ids(samples) == ["in"]


def test_a_task_may_be_empty() -> None:
    samples, other = choose_samples(["the cat"], [], tiny.tokenizer(), SETTINGS)
    assert (len(samples), len(other)) == (1, 0)


def test_a_row_of_both_tasks_is_refused_by_its_id() -> None:
    with pytest.raises(DataError, match=r"task_b.*own squared gradient.*twin"):
        choose_samples([Row("a", "the cat")], [Row("twin", "the cat")], tiny.tokenizer(), SETTINGS)


def test_a_row_that_scores_nothing_is_refused_by_its_id() -> None:
    silent = tiny.tokenizer()  # adds no opening token, so nothing predicts a single word
    with pytest.raises(DataError, match=r"task_a.*scored token.*short"):
        choose_samples([Row("short", "dog")], ["the bird"], silent, SETTINGS)


def test_a_length_beyond_the_context_is_refused() -> None:
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=12))
    with pytest.raises(SettingsError, match=r"length.*12 tokens.*16"):
        check_length(model, SETTINGS)
    check_length(SimpleNamespace(config=SimpleNamespace()), SETTINGS)
