"""Every term of a distillation in one loss: no split, padding or ignored row changes a sum or a gradient, and the teacher learns nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, PILOT, ROWS, schedule
from tests.foundation.training import tiny
from torch import Tensor, nn

from crosstune.distillation.terms.attention import AttentionMaps
from crosstune.distillation.terms.contrastive import Contrastive
from crosstune.distillation.terms.hidden import Hidden, Layerwise
from crosstune.foundation.data import Encoded
from crosstune.foundation.training import NextToken, StageData, Terms, train_stage
from crosstune.foundation.training.loss import LossModule

MIXED = [*NEW, *ROWS[:2]]


def terms(student: nn.Module, teacher: nn.Module, **options: Any) -> Terms:
    members = [
        NextToken(),
        Hidden(schedule("hidden"), PILOT, student, **options),
        Layerwise(schedule("layerwise"), PILOT, student, **options),
        AttentionMaps(schedule("attention"), student, teacher),
        Contrastive(schedule("contrastive"), PILOT, student),
    ]
    return Terms(members, second_model=teacher)


def module(**options: Any) -> LossModule:
    student = pair.student()
    return LossModule(student, terms(student, pair.teacher(), **options))


def same(one: Any, other: Any) -> None:
    """Sums and gradients."""
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    assert other[1].keys() == one[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(
            other[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())
        )


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_no_split_into_micro_batches_and_no_side_of_padding_changes_a_sum(kind: str) -> None:
    loss = module(kind=kind)
    whole = pair.summed(loss, [MIXED])
    assert len(whole[0]) == 5 and all(whole[0].values())
    same(whole, pair.summed(loss, [MIXED[:3], MIXED[3:4], MIXED[4:]]))
    same(whole, pair.summed(loss, [[row] for row in reversed(MIXED)]))
    same(whole, pair.summed(loss, [MIXED[:5], MIXED[5:]], side="left"))


def test_ignored_rows_and_tokens_after_the_last_scored_one_do_not_matter() -> None:
    loss = module()
    whole = pair.summed(loss, [NEW])
    ignored = replace(ROWS[3], labels=[-100] * len(ROWS[3].labels), scored_tokens=0)
    same(whole, pair.summed(loss, [[*NEW, ignored]]))
    longer = [
        replace(row, input_ids=[*row.input_ids, 7, 9], labels=[*row.labels, -100, -100])
        for row in NEW
    ]
    same(whole, pair.summed(loss, [longer]))


def test_every_parameter_of_student_and_terms_learns_and_none_of_the_teacher() -> None:
    loss = module()
    _, gradients = pair.summed(loss, [MIXED])
    assert gradients.keys() == dict(loss.named_parameters()).keys()
    assert all(bool(gradient.any()) for gradient in gradients.values())
    assert all(some.grad is None for some in loss.terms.second_model.parameters())


def packed(rows: list[Encoded]) -> Encoded:
    """Rows side by side in one sequence."""
    ids = [token for row in rows for token in row.input_ids]
    labels = [label for row in rows for label in row.labels]
    first, lengths = rows[0], tuple(len(row.input_ids) for row in rows)
    return replace(first, row_id="packed", input_ids=ids, labels=labels, lengths=lengths)


def test_packed_rows_pay_what_they_pay_alone() -> None:
    student, teacher = pair.student(), pair.teacher()
    kept = [term for term in terms(student, teacher).members if term.name != "contrastive"]
    loss = LossModule(student, Terms(kept, second_model=teacher))
    same(pair.summed(loss, [NEW]), pair.summed(loss, [[packed(NEW[:2]), packed(NEW[2:])]]))


def trained(folder: Path, accumulation: int) -> tuple[Any, dict[str, Tensor]]:
    student = pair.student()
    some = terms(student, pair.teacher())
    data = StageData(tiny.rows(21), 0, {"new": NEW})
    chosen = tiny.settings(steps=3, accumulation=accumulation, evaluate_every=3, optimizer="sgd")
    result = train_stage(student, data, chosen, output_folder=folder, terms=some)
    return result, tiny.weights(student)


def test_a_stage_of_all_terms_closes_and_is_the_same_in_pieces(tmp_path: Path) -> None:
    """Rows 0 to 11 are also the pilot's; three steps at a constant curriculum."""
    whole, weights = trained(tmp_path / "whole", 1)
    pieces, again = trained(tmp_path / "pieces", 4)
    rows, others = whole.ledger.rows(), pieces.ledger.rows()
    assert {row["term"] for row in rows} == {
        *("next_token", "hidden", "layerwise", "attention", "contrastive")
    }
    assert [row["raw"] for row in others] == pytest.approx([row["raw"] for row in rows], rel=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6)
