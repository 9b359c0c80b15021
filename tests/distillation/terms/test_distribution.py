"""The group in the loss: the same for every split and on held-out rows, no teacher without kd, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import with_lora
from tests.foundation.training import tiny
from tests.foundation.training.toy import TEACHER
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crosstune.distillation.curriculum import Curriculum, Schedule
from crosstune.distillation.divergences import Divergence
from crosstune.distillation.terms.distribution import DistributionTerms
from crosstune.foundation.data import collate
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.training import Terms, train_stage
from crosstune.foundation.training.loss import LossModule

FACTORS = {"ce": 0.3, "kd": 0.7}
STEPS = 4


def teacher(**changes: Any) -> Any:
    return tiny.model(seed=9, **{**TEACHER, **changes})


def schedules(**alphas: float) -> dict[str, Schedule]:
    chosen = Curriculum(alphas=alphas)
    return {name: Schedule(name, chosen, STEPS) for name in alphas}


def module(student: nn.Module, other: nn.Module, **options: Any) -> LossModule:
    group = DistributionTerms(student, other, schedules(**FACTORS), **options)
    return LossModule(student, Terms([group], second_model=other.eval()))


def batch(rows: list[Any], left: bool = False) -> dict[str, Tensor]:
    whole = collate(rows, pad_id=0)
    if left:
        gaps = (whole["attention_mask"] == 0).sum(dim=1)
        pairs = [(name, zip(value, gaps, strict=True)) for name, value in whole.items()]
        whole = {n: torch.stack([v.roll(int(gap)) for v, gap in turned]) for n, turned in pairs}
    return whole


def found(some: LossModule, batches: list[dict[str, Tensor]], step: int = 0) -> list[Tensor]:
    """The summed loss, the sums, and the gradients."""
    some.zero_grad()
    loss, sums = torch.zeros((), dtype=torch.float64), dict.fromkeys(FACTORS, 0.0)
    for one in batches:
        micro = some(one, FACTORS, step)
        micro.loss.backward()
        loss += micro.loss.detach()
        sums = {name: sums[name] + micro.sums[name] for name in FACTORS}
    return [loss, *sums.values(), *(value.grad for value in some.parameters())]


def same(one: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_no_split_or_padding_changes_a_sum_or_a_gradient() -> None:
    some = module(tiny.model(), teacher(), divergence=Divergence("jsd", top_k=5), temperature=2.0)
    rows = tiny.rows(6)
    whole = found(some, [batch(rows)])
    same(found(some, [batch(rows[:1]), batch(rows[1:4]), batch(rows[4:])]), whole)
    same(found(some, [batch(rows, left=True)]), whole)
    unscored = batch(rows)  # a row nothing of which is scored, of any tokens
    for tokens in (5, 6):
        extra = {name: torch.cat([value, value[:1]]) for name, value in unscored.items()}
        extra["input_ids"][-1] = tokens
        extra["labels"][-1] = -100
        same(found(some, [extra]), whole)


def test_it_is_the_loss_of_dense_logits() -> None:
    student, other, rows = tiny.model(), teacher(), batch(tiny.rows(5))
    ce, kd, *grads = found(module(student, other), [rows])[1:]
    scored = rows["labels"][:, 1:] != -100
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    z = student(**inputs).logits[:, :-1][scored].log_softmax(-1)
    q = other(**inputs).logits[:, :-1][scored].log_softmax(-1).detach()
    own = -z.gather(-1, rows["labels"][:, 1:][scored][:, None]).sum()
    apart = (q.exp() * (q - z)).sum()
    expected = torch.autograd.grad(0.3 * own + 0.7 * apart, [*student.parameters()])
    same([ce.float(), kd.float(), *grads], [own.detach(), apart.detach(), *expected])


def test_without_a_factor_of_kd_the_teacher_does_not_run() -> None:
    student, other, rows = tiny.model(), teacher(), batch(tiny.rows(4))
    calls: list[int] = []
    other.register_forward_pre_hook(lambda *_: calls.append(1))
    some = module(student, other)
    calls.clear()  # it was looked at once, when the group was made
    alone = some(rows, {"ce": 1.0}, 0)
    assert [*alone.sums] == ["ce"]
    assert calls == []
    some(rows, FACTORS, 0)
    assert calls == [1]


@pytest.mark.parametrize("absent", FACTORS)
def test_weight_0_is_an_entry_removed_to_the_bit(absent: str, tmp_path: Path) -> None:
    (kept,) = {*FACTORS} - {absent}
    ends = []
    for weights in ({kept: 1.0}, {"ce": 1.0, "kd": 1.0, absent: 0.0}):
        student, other = tiny.model(), teacher()
        group = DistributionTerms(student, other, schedules(**weights))
        train_stage(
            student,
            tiny.data(),
            tiny.settings(steps=2),
            output_folder=tmp_path / str(len(weights)),
            terms=Terms([group], second_model=other),
        )
        ends.append(tiny.weights(student))
    assert tiny.same_bits(*ends)


def test_a_stage_books_both_entries_and_held_out_rows_by_the_same_function(tmp_path: Path) -> None:
    student, other, data = tiny.model(), teacher(), tiny.data()
    group = DistributionTerms(
        student, other, schedules(**FACTORS), temperature=(3.0, 1.0), steps=STEPS
    )
    chosen = tiny.settings(steps=STEPS, evaluate_every=2, accumulation=2)
    terms = Terms([group], second_model=other)
    result = train_stage(student, data, chosen, output_folder=tmp_path, terms=terms)
    rows = result.ledger.where(side="train").rows()
    assert [(row["step"], row["term"], row["weight"]) for row in rows] == [
        (step, name, FACTORS[name]) for step in range(1, STEPS + 1) for name in FACTORS
    ]
    held = batch(data.held_out["other"])
    tokens = int((held["labels"][:, 1:] != -100).sum())
    with torch.no_grad():
        sums = LossModule(student.eval(), terms)(held, FACTORS, STEPS - 1).sums
    for row in result.ledger.where(side="other").rows()[-2:]:
        assert row["raw"] == pytest.approx(sums[row["term"]].item() / tokens, rel=1e-6)


def test_temperature_is_a_straight_line_over_all_steps() -> None:
    group = DistributionTerms(
        tiny.model(), teacher(), schedules(kd=1.0), temperature=(4.0, 1.0), steps=4
    )
    assert [group.temperature(step) for step in range(6)] == [4.0, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert group.settings["kd"]["temperature"] == [4.0, 1.0]
    assert group.settings["kd"]["alpha"] == 1.0
    fixed = DistributionTerms(tiny.model(), teacher(), schedules(kd=1.0), temperature=2.0)
    assert [fixed.temperature(step) for step in (0, 9)] == [2.0, 2.0]


@pytest.mark.parametrize("tied", [False, True])
def test_processes_are_told_of_each_parameter_once(tied: bool, tmp_path: Path) -> None:
    """DDP stops where a parameter is marked ready twice, with one process too."""
    some = module(tiny.model(tie_word_embeddings=tied), teacher())
    rows = batch(tiny.rows(4))
    alone = found(some, [rows])
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        shared = DistributedDataParallel(some)
        same(found(shared, [rows]), alone)
    finally:
        torch.distributed.destroy_process_group()


def test_an_adapter_learns_through_a_head_that_is_frozen() -> None:
    student = with_lora(tiny.model(), target_modules=["q_proj"])
    some = module(student, teacher())
    some(batch(tiny.rows(4)), FACTORS, 0).loss.backward()
    moved = [name for name, value in student.named_parameters() if value.grad is not None]
    assert moved
    assert all("lora_" in name for name in moved)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"divergence": Divergence(top_k=33)}, "`top_k` must be at most 32, .*; found 33"),
        (
            {"teacher": teacher(vocab_size=35)},
            "found 32 rows of the student and 35 of the teacher. Give vocabulary=32",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    given = {"student": tiny.model(), "teacher": teacher(), "weights": schedules(kd=1.0), **options}
    with pytest.raises(SettingsError, match=words):
        DistributionTerms(**given)
