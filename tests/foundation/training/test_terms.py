"""What cannot be booked, and what would be silent, is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from tests.foundation.training import tiny, toy
from tests.foundation.training.tiny import settings
from torch import nn
from transformers import TrainerCallback

from crosstune.foundation.errors import LedgerError, SettingsError, TrainingError
from crosstune.foundation.training import Needs, NextToken, Terms, train_stage


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ((), r"`terms` must be at least one.*none"),
        ((NextToken(), NextToken()), "next_token more than once"),
        ((NextToken(), "kd"), r"must be terms or groups.*'kd'"),
        ((NextToken(unit="characters"),), r"tokens, rows, microbatch.*'characters'"),
        ((NextToken(), toy.Hidden()), "`second_model` must be given"),
    ],
)
def test_what_cannot_be_booked_is_refused(terms, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Terms(terms)


class Undeclared(toy.Hidden):
    needs = Needs(logits=True)


class Constant(toy.Balance):
    def sums(self, seen):
        return super().sums(seen).detach()


class Hoarder(NextToken):
    """A term that is no module holds parameters that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "heads", [nn.Linear(2, 2)])


class Clocked(toy.Balance):
    """A term that looks at the step it is of."""

    def sums(self, seen):
        return (1 + seen.step) * super().sums(seen)


class Keeper(TrainerCallback):
    def __init__(self) -> None:
        self.router = nn.Linear(4, 2)


@pytest.mark.parametrize(
    ("terms", "callbacks", "error", "message"),
    [
        (
            Terms((Undeclared(lambda step: 1.0),), toy.teacher()),
            (),
            SettingsError,
            r"seen\.states.*Needs\(states",
        ),
        (Terms((NextToken(), Constant())), (), TrainingError, "none of balance"),
        (Terms((Hoarder(),)), (), TrainingError, r"`Hoarder` must have its parameters.*2 that"),
        (Terms(), (Keeper(),), TrainingError, r"`Keeper` must have its parameters.*2 that"),
        (Terms((toy.FusedHead(1.01),), toy.teacher()), (), LedgerError, r"terms\['z'\]"),
        (
            Terms((toy.Hidden(lambda step: 0.0),), toy.teacher()),
            (),
            SettingsError,
            "every weight 0",
        ),
        (
            Terms((toy.Hidden(lambda step: math.nan),), toy.teacher()),
            (),
            SettingsError,
            "hidden: nan",
        ),
    ],
)
def test_what_would_be_silent_is_an_error(
    tmp_path: Path, terms: Terms, callbacks, error, message: str
) -> None:
    with pytest.raises(error, match=message):
        train_stage(
            tiny.model(),
            tiny.data(),
            settings(),
            output_folder=tmp_path,
            callbacks=callbacks,
            terms=terms,
        )


def test_a_second_model_that_is_trained_is_refused(tmp_path: Path) -> None:
    model = tiny.model()
    terms = Terms((NextToken(), toy.Hidden()), second_model=model)
    with pytest.raises(SettingsError, match="must not share parameters"):
        train_stage(model, tiny.data(), settings(), output_folder=tmp_path, terms=terms)


def test_a_term_knows_its_step_in_training_and_on_held_out_rows(tmp_path: Path) -> None:
    def rows(term: toy.Balance) -> list[dict[str, Any]]:
        chosen = settings(steps=3, evaluate_every=1, optimizer="sgd", learning_rate=1e-30)
        result = train_stage(
            tiny.model(),
            tiny.data(8),
            chosen,
            output_folder=tmp_path,
            terms=Terms((NextToken(), term)),
        )
        return result.ledger.where(term="balance").rows()

    for plain, clocked in zip(rows(toy.Balance()), rows(Clocked()), strict=True):
        assert clocked["raw"] == pytest.approx(plain["step"] * plain["raw"])
