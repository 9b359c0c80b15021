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

from crosstune.foundation.errors import (
    DataError,
    LedgerError,
    ModelError,
    SettingsError,
    TrainingError,
    UnsupportedError,
)
from crosstune.foundation.training import Needs, NextToken, StageTrainer, Terms, train_stage


class Undeclared(toy.Hidden):
    needs = Needs(logits=True)


class Constant(toy.Balance):
    def sums(self, seen):
        return super().sums(seen).detach()


class Half(toy.Balance):
    def sums(self, seen):
        return super().sums(seen).bfloat16()


class Vector(toy.Balance):
    def sums(self, seen):
        return super().sums(seen)[None]


class Silent(toy.FusedHead):
    def fused(self, seen, factors):
        return super().fused(seen, factors)[0], {}


class Thawing(TrainerCallback):
    """Freezes a parameter before the optimizer is made, and lets it go when it is too late."""

    def on_init_end(self, args, state, control, model, **_):
        model.lm_head.weight.requires_grad_(False)

    def on_step_end(self, args, state, control, model, **_):
        model.lm_head.weight.requires_grad_(True)


class Loads:
    """A statistic that no checkpoint would hold."""

    name, unit, needs, settings = "loads", "tokens", Needs(), {}

    def weight(self, step):
        return 1.0

    def sums(self, seen):
        return seen.model.lm_head.weight.sum()

    def observe(self, seen):
        return seen.model.lm_head.weight.detach().sum()

    def renew(self, total):
        self.total = total


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
    ("terms", "message"),
    [
        ((), r"`terms` must be at least one.*none"),
        ((NextToken(), NextToken()), "next_token more than once"),
        ((NextToken(), "kd"), r"must be terms or groups.*'kd'"),
        ((NextToken(unit="characters"),), r"tokens, rows, microbatch.*'characters'"),
        ((NextToken(), toy.Hidden()), "`second_model` must be given"),
        ((Loads(),), "must be an nn.Module where a statistic is kept"),
    ],
)
def test_what_cannot_be_booked_is_refused(terms, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Terms(terms)


@pytest.mark.parametrize(
    ("terms", "callbacks", "error", "message"),
    [
        (
            Terms((Undeclared(lambda step: 1.0),), toy.teacher()),
            (),
            SettingsError,
            r"seen\.states.*Needs\(states",
        ),
        (Terms((NextToken(), Constant())), (), TrainingError, "step 1; found none of balance"),
        (Terms((NextToken(), Half())), (), SettingsError, r"balance.*torch.bfloat16\[\]"),
        (Terms((NextToken(), Vector())), (), SettingsError, r"balance.*torch.float64\[1\]"),
        (Terms((Silent(),), toy.teacher()), (), SettingsError, r"'z'.*found None"),
        (
            Terms(),
            (Thawing(),),
            TrainingError,
            r"`LlamaForCausalLM` must have its parameters.*1 that",
        ),
        (Terms((Hoarder(),)), (), TrainingError, r"`Hoarder` must have its parameters.*2 that"),
        (Terms(), (Keeper(),), TrainingError, r"`Keeper` must have its parameters.*2 that"),
        (Terms((toy.FusedHead(1.01),), toy.teacher()), (), LedgerError, r"terms\['z'\]"),
        (
            Terms((toy.Hidden(lambda step: step - 5.0),), toy.teacher()),
            (),
            SettingsError,
            "at optimizer step 6; found every weight 0",
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


def test_packed_rows_without_positions_are_refused(tmp_path: Path) -> None:
    class Forgetful(StageTrainer):
        def collate(self, rows):
            return {k: v for k, v in super().collate(rows).items() if k != "position_ids"}

    chosen = settings(packing=True, length=40, batch_rows=2)
    trainer = Forgetful(tiny.model(), tiny.data(), chosen, output_folder=tmp_path)
    with pytest.raises(DataError, match="`collate` must keep the positions of packed rows"):
        trainer.run()


def test_checkpointing_of_a_model_that_does_not_know_it_is_refused(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = tiny.model()

    chosen = settings(gradient_checkpointing=True)
    with pytest.raises(UnsupportedError, match="must be left to a model of transformers.*Own"):
        StageTrainer(Own(), tiny.data(), chosen, output_folder=tmp_path)


@pytest.mark.parametrize("needs", [Needs(last_hidden_state=True), Needs(maps=[0])])
def test_a_model_without_a_known_head_is_refused(tmp_path: Path, needs: Needs) -> None:
    class Looking(toy.Balance):
        pass

    Looking.needs = needs
    with pytest.raises(ModelError, match="`model` must"):
        train_stage(
            nn.Linear(2, 2), tiny.data(), settings(), output_folder=tmp_path, terms=[Looking()]
        )
