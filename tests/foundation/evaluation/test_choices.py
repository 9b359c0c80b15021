"""Choices: the model's own loss of each label after each prompt, and an accuracy with its interval and chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from tests.foundation.data.test_tokens import byte_level

from crosstune.foundation.data import Row, encode
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.evaluation import ChoiceScores, score_choices
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import random_model

ROWS = [
    Row("1", " yes", prompt="is it so?"),
    Row("2", " no", prompt="was it not so at all?"),
    Row("3", " no", prompt="so?"),
]
CHOICES = [" yes", " no", " hardly at all"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = random_model("llama", tmp_path_factory.mktemp("tiny") / "model")
    return load_model(folder), load_tokenizer(folder)


def one_by_one(model: Any, tokenizer: Any, rows: list[Row], choices: list[str]) -> torch.Tensor:
    """The model's own mean loss of one row with one choice, times the tokens it is the mean of."""
    nats = torch.zeros(len(rows), len(choices), dtype=torch.float64)
    for at, row in enumerate(rows):
        for place, choice in enumerate(choices):
            (item,) = encode([replace(row, text=choice)], tokenizer, 512)
            ids, labels = torch.tensor([item.input_ids]), torch.tensor([item.labels])
            with torch.no_grad():
                loss = model(input_ids=ids, labels=labels).loss
            nats[at, place] = loss.double() * item.scored_tokens
    return nats


# float32: 6e-8 · √(1e4 sums and products behind a token's nats)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_each_choice_costs_what_it_costs_as_the_text_of_its_row(tiny: tuple[Any, Any]) -> None:
    scores = score_choices(*tiny, ROWS, CHOICES, length=128, batch_tokens=100)
    expected = one_by_one(*tiny, ROWS, CHOICES)
    torch.testing.assert_close(scores.nats, expected, **CLOSE)
    assert scores.labels.tolist() == [0, 1, 1]
    assert (scores.accuracy.n, scores.accuracy.n_unit) == (3, "rows")
    grouped = [replace(row, group=str(len(row.text))) for row in ROWS]
    figure = score_choices(*tiny, grouped, CHOICES, length=128).accuracy
    assert (figure.n, figure.n_unit) == (2, "groups")
    assert figure.value == pytest.approx(scores.accuracy.value)


def test_the_least_nats_are_predicted_and_the_most_common_label_is_chance() -> None:
    nats = torch.tensor([[1.0, 2.0, 9.0], [3.0, 1.0, 1.5], [2.0, 4.0, 2.0], [5.0, 4.0, 3.0]])
    labels = torch.tensor([0, 2, 2, 2])
    scores = ChoiceScores(("a", "b", "c"), nats, labels, tuple("stuv"), "rows")
    assert scores.predicted.tolist() == [0, 1, 0, 2]
    assert scores.right.tolist() == [True, False, False, True]
    figure, expected = scores.accuracy, stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert (figure.value, figure.chance, figure.n) == (pytest.approx(0.5), 0.75, 4)
    assert (figure.low, figure.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("rows", "choices", "error", "said"),
    [
        ([], CHOICES, DataError, "at least one row"),
        (ROWS, [" yes"], SettingsError, "at least two"),
        (ROWS, [" yes", " no", " no"], SettingsError, "all different"),
        (ROWS, [" yes", " perhaps"], DataError, "row '2'` must have a prompt, and one of"),
        ([Row("p", " no")], CHOICES, DataError, "row 'p'` must have a prompt"),
        (
            ROWS,
            [*CHOICES, " not" * 40],
            SettingsError,
            "must not begin one another.*' no' and ' not",
        ),
        (
            ROWS,
            [*CHOICES, " mu" * 40],
            DataError,
            "room for all of ' mu mu .* a choice that is cut",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(tiny, rows, choices, error, said) -> None:
    with pytest.raises(error, match=said):
        score_choices(*tiny, rows, choices, length=32)


def test_a_choice_that_joins_the_prompt_is_refused() -> None:
    """It would be charged for a part of the prompt, and the others not."""
    tokenizer = byte_level("$A", vocabulary=420)
    with pytest.raises(DataError, match="must give all choices the same tokens to go on from.*'t'"):
        score_choices(torch.nn.Module(), tokenizer, [Row("r", "he", "t")], ["he", "o"], length=9)


def test_a_real_model_on_a_real_task(shared: Path) -> None:
    folder = shared / "models" / "stories260K"
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    task = json.loads((shared / "data/tasks/tasks.json").read_text("utf-8"))["dbpedia"]
    lines = (shared / "data/tasks/dbpedia.test.jsonl").read_text("utf-8").splitlines()[:6]
    rows = [
        Row(line["id"], f" {line['label']}", prompt=f"{line['sentence'][:200]}\nTopic:")
        for line in map(json.loads, lines)
    ]
    choices = [f" {label}" for label in task["labels"]]
    scores = score_choices(model, tokenizer, rows, choices, length=512)
    torch.testing.assert_close(scores.nats, one_by_one(model, tokenizer, rows, choices), **CLOSE)
    assert scores.right.tolist() == [
        choices[at] == row.text for at, row in zip(scores.predicted.tolist(), rows, strict=True)
    ]
