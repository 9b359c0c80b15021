"""Every term of a distillation in one loss: no split, padding or ignored row changes a sum or a gradient, and the teacher learns nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import processes
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, PILOT, ROWS, schedule
from tests.foundation.training import tiny
from torch import nn

from crosstune.distillation.curriculum import Curriculum
from crosstune.distillation.routing import StudentAwareRouter
from crosstune.distillation.terms.attention import AttentionMaps
from crosstune.distillation.terms.contrastive import Contrastive
from crosstune.distillation.terms.hidden import Hidden, Layerwise
from crosstune.distillation.terms.pilot import Pilot
from crosstune.foundation.data import Encoded
from crosstune.foundation.ranks import is_first
from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training import NextToken, StageData, Terms, drop_end, train_stage
from crosstune.foundation.training.loss import LossModule

MIXED = [*NEW, *ROWS[:2]]


def terms(student: nn.Module, kind: str = "mse", *, mixture: bool = False) -> Terms:
    """All terms, with a dense teacher or a mixture."""
    teacher = pair.mixture() if mixture else pair.teacher()
    pilot = Pilot.of(teacher, ROWS, 0, range(4)) if mixture else PILOT
    members = [
        NextToken(),
        Hidden(schedule("hidden"), pilot, student, kind=kind),
        Layerwise(schedule("layerwise"), pilot, student, kind=kind),
        AttentionMaps(schedule("attention"), student, teacher),
        Contrastive(schedule("contrastive"), pilot, student),
        StudentAwareRouter(Curriculum(), pair.STEPS, student, teacher, pilot),
    ]
    return Terms(members, second_model=teacher)


def module(kind: str = "mse", **options: Any) -> LossModule:
    """A student and all terms, whose router has learned something."""
    student = pair.student()
    loss = LossModule(student, terms(student, kind, **options))
    router = loss.terms.members[-1]
    with torch.no_grad():
        router.loads[0] *= 2.0
        for value in router.parameters():
            value.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(8))
    return loss


def same(one: Any, other: Any) -> None:
    """Sums and gradients."""
    assert other[0] == pytest.approx(one[0], rel=1e-5)
    assert other[1].keys() == one[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(
            other[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max())
        )


@pytest.mark.parametrize(("kind", "mixture"), [("mse", False), ("cosine", False), ("mse", True)])
def test_no_split_into_micro_batches_and_no_side_of_padding_changes_a_sum(
    kind: str, mixture: bool
) -> None:
    loss = module(kind, mixture=mixture)
    whole = pair.summed(loss, [MIXED], step=25)
    assert len(whole[0]) == 8 + mixture and all(whole[0].values())
    same(whole, pair.summed(loss, [MIXED[:3], MIXED[3:4], MIXED[4:]], step=25))
    same(whole, pair.summed(loss, [[row] for row in reversed(MIXED)], step=25))
    same(whole, pair.summed(loss, [MIXED[:5], MIXED[5:]], side="left", step=25))


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
    """But for the terms of whole rows and of noise by row."""
    student = pair.student()
    found = terms(student)
    loss = LossModule(student, Terms(found.members[:4], second_model=found.second_model))
    same(pair.summed(loss, [NEW]), pair.summed(loss, [[packed(NEW[:2]), packed(NEW[2:])]]))


def trained(folder: Path, accumulation: int = 1) -> Any:
    """Four steps with a mixture, the first two of which may have been taken before; with the loads of the step before."""
    student = pair.student()
    some = terms(student, mixture=True)
    data = StageData(tiny.rows(21), 0, {"new": NEW})
    chosen = tiny.settings(
        steps=4, accumulation=accumulation, evaluate_every=2, checkpoint_every=2, optimizer="sgd",
        keep_checkpoints=2,
    )  # fmt: skip
    return train_stage(student, data, chosen, output_folder=folder, terms=some)


def booked(result: Any) -> list[float]:
    """Every entry of every step and look at held-out rows, and the gradient norms."""
    norms = [line["grad_norm"] for line in result.history if "grad_norm" in line]
    return [*norms, *(row["raw"] for row in result.ledger.rows())]


def in_two(folder: Path) -> None:
    found = {n: booked(trained(folder / str(n), accumulation=n)) for n in (1, 2)}
    if is_first():
        write_json(folder / "found.json", [*found.values()])


def test_batch_accumulation_and_processes_change_nothing_and_a_stage_goes_on_to_the_bit(
    tmp_path: Path,
) -> None:
    """8 rows a step as 8 · 1 · 1, 4 · 2 · 1, 2 · 4 · 1, 4 · 1 · 2 and 2 · 2 · 2; rows 0 to 11 are also the pilot's."""
    whole = trained(tmp_path / "whole")
    assert len({row["term"] for row in whole.ledger.rows()}) == 9
    balance = whole.ledger.where(side="train", term="routing.load_balancing").column("raw")
    assert balance[0] == pytest.approx(0.0, abs=1e-6) and all(balance[1:])
    processes.launched(2, in_two, tmp_path)
    pieces = [booked(trained(tmp_path / f"by {n}", accumulation=n)) for n in (2, 4)]
    for found in (*pieces, *read_json(tmp_path / "found.json")):
        assert found == pytest.approx(booked(whole), rel=1e-5, abs=1e-6)
    weights = (tmp_path / "whole" / "checkpoint-4" / "trained.safetensors").read_bytes()
    drop_end(tmp_path / "whole")
    resumed = trained(tmp_path / "whole")
    assert resumed.resumed_from == 2 and resumed.ledger.rows() == whole.ledger.rows()
    assert (tmp_path / "whole" / "checkpoint-4" / "trained.safetensors").read_bytes() == weights
