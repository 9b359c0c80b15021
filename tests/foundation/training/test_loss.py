"""One pass for all terms: what is active is computed and nothing else, a weight of 0 is a term removed, and held-out sets see them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foundation.training import tiny, toy
from tests.foundation.training.tiny import same_bits, settings, weights
from torch import nn

from crosstune.foundation.data import collate
from crosstune.foundation.training import NextToken, Terms, train_stage
from crosstune.foundation.training.loss import LossModule


def train(folder: Path, terms: Terms, **changes: Any) -> tuple[nn.Module, Any]:
    model = tiny.model(attention_dropout=0.2)
    chosen = settings(evaluate_every=3, **changes)
    result = train_stage(model, tiny.data(), chosen, output_folder=folder, terms=terms)
    return model, result


def test_weight_0_is_a_term_removed_to_the_bit(tmp_path: Path) -> None:
    without, gone = train(tmp_path / "without", Terms((NextToken(), toy.Balance())))
    terms = (NextToken(), toy.Hidden(lambda step: 0.0), toy.Balance())
    absent = Terms(terms, second_model=toy.teacher())
    silent, result = train(tmp_path / "silent", absent)
    assert same_bits(weights(silent), weights(without))
    assert result.ledger.rows() == gone.ledger.rows()


def test_a_term_that_begins_later_has_rows_from_then_on(tmp_path: Path) -> None:
    late = Terms(
        (NextToken(), toy.Hidden(lambda step: 0.1 * max(0, step - 3))), second_model=toy.teacher()
    )
    _, result = train(tmp_path, late)
    rows = result.ledger.where(side="train", term="hidden").rows()
    assert [row["step"] for row in rows] == [5, 6]
    looks = result.ledger.where(side="other").rows()
    assert [(row["step"], row["term"], row["weight"]) for row in looks] == [
        (3, "next_token", 1.0),
        (3, "hidden", 0.0),
        (6, "next_token", 1.0),
        (6, "hidden", 0.2),
    ]
    lines = [line for line in result.history if "eval_other_loss" in line]
    for line, (one, other) in zip(lines, (looks[:2], looks[2:]), strict=True):
        assert line["eval_other_loss"] == one["weighted"] + other["weighted"]
        assert line["eval_other_loss_final"] == pytest.approx(one["raw"] + 0.2 * other["raw"])
        assert line["eval_other_hidden_raw"] == other["raw"]


def test_held_out_terms_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    sides = [
        train(tmp_path / str(tokens), toy.terms(), evaluation_tokens=tokens)[1].ledger
        for tokens in (1, 50, 4096)
    ]
    raws = [side.where(side="other").column("raw") for side in sides]
    assert len(raws[0]) == 2 * 6
    assert raws[0] == pytest.approx(raws[2], rel=1e-5)
    assert raws[1] == pytest.approx(raws[2], rel=1e-5)


class Counting:
    """How often each module of a model is called."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: dict[str, int] = {}
        for name, module in model.named_modules():
            self.calls[name] = 0
            module.register_forward_hook(lambda *_, name=name: self._count(name))

    def _count(self, name: str) -> None:
        self.calls[name] += 1


@pytest.mark.parametrize(
    ("factors", "head", "last_block", "teacher_head", "teacher_last"),
    [
        ({"next_token": 1.0}, 1, 1, 0, 0),
        ({"hidden": 1.0}, 0, 0, 0, 0),
        ({"balance": 1.0}, 0, 1, 0, 0),
        ({"attention": 1.0}, 0, 1, 0, 1),
        ({"kd": 1.0}, 0, 1, 1, 1),
        ({"next_token": 1.0, "hidden": 1.0, "balance": 1.0, "kd": 1.0, "z": 1.0}, 1, 1, 1, 1),
    ],
)
def test_one_pass_runs_as_far_as_active_terms_ask(
    factors, head, last_block, teacher_head, teacher_last
) -> None:
    terms = toy.terms()
    model = tiny.model()
    student, second = Counting(model), Counting(terms.second_model)
    micro = LossModule(model, terms)(collate(tiny.rows(3), 0), factors, 0)
    assert micro.sums.keys() == factors.keys()
    assert student.calls["model.embed_tokens"] == 1
    assert (student.calls["lm_head"], student.calls["model.layers.1"]) == (head, last_block)
    called = (second.calls["lm_head"], second.calls["model.layers.2"])
    assert called == (teacher_head, teacher_last)


def test_a_frozen_second_model_stays_what_it_was(tmp_path: Path) -> None:
    terms = toy.terms()
    before = weights(terms.second_model)
    train(tmp_path, terms)
    assert same_bits(weights(terms.second_model), before)
    assert all(value.grad is None for value in terms.second_model.parameters())
    assert not terms.second_model.training


def test_parameters_of_terms_learn_and_are_clipped_with_the_models(tmp_path: Path) -> None:
    terms = toy.terms()
    gate = terms.members[2].gate.weight.detach().clone()
    _, result = train(tmp_path, terms, optimizer="sgd", clip=1e-3, learning_rate=1.0)
    moved = (terms.members[2].gate.weight - gate).norm()
    assert 0.0 < moved < 6 * 1e-3  # six clipped steps at a learning rate of at most 1
    assert all(line["grad_norm_clipped"] == 1e-3 for line in result.history if "grad_norm" in line)


class Witness(toy.Balance):
    """A term that notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: set[tuple[str, ...]] = set()

    def sums(self, seen):
        lent = "autocast" if torch.is_autocast_enabled("cpu") else "exact"
        sides = "train" if torch.is_grad_enabled() else "held out"
        self.calls.add((sides, "training" if self.training else "evaluated", lent))
        assert seen.batch["row_ids"][0].startswith("row" if sides == "train" else "held")
        return super().sums(seen)


def test_terms_never_run_under_autocast_and_are_evaluated_on_held_out_rows(tmp_path: Path) -> None:
    term = Witness()
    train(tmp_path, Terms((NextToken(), term)), precision="bfloat16")
    assert term.calls == {("train", "training", "exact"), ("held out", "evaluated", "exact")}


def test_a_term_may_have_nothing_in_a_micro_batch(tmp_path: Path) -> None:
    class Longest(toy.Hidden):
        def sums(self, seen):
            if seen.batch["input_ids"].shape[1] < 20:
                return torch.zeros(())
            return super().sums(seen)

    terms = Terms((NextToken(), Longest(lambda step: 0.3)), toy.teacher())
    _, result = train(tmp_path, terms, accumulation=4, steps=1, batch_rows=21)
    assert result.ledger.where(side="train", term="hidden").column("raw")[0] > 0.0


def test_a_list_of_terms_will_do(tmp_path: Path) -> None:
    first = train(tmp_path / "terms", Terms((NextToken(), toy.Balance())))
    other = train(tmp_path / "list", [NextToken(), toy.Balance()])
    assert same_bits(weights(first[0]), weights(other[0]))


def test_only_what_active_entries_of_a_group_ask_for_is_computed() -> None:
    terms = toy.terms()
    second = Counting(terms.second_model)
    LossModule(tiny.model(), terms)(collate(tiny.rows(3), 0), {"z": 1.0}, 0)
    assert not any(second.calls.values())
