"""The student-aware router: its gate and its four entries against a slow twin, who learns from which, and its clock."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, PILOT, ROWS, STEPS, TEACHER
from torch import Tensor, nn

from crosstune.distillation.curriculum import PRESETS, Curriculum
from crosstune.distillation.routing import StudentAwareRouter
from crosstune.distillation.terms.attention import map_nats
from crosstune.distillation.terms.pilot import Pilot, predicting
from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.models import Stream, attention_maps, model_inputs
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import Seen, Terms
from crosstune.foundation.training.loss import LossModule

ENTRIES = ("feature_matching", "attention_alignment", "expert_importance", "load_balancing")
MIXTURE = pair.mixture()


def stirred(dense: bool = False, **options: Any) -> LossModule:
    """A router that has learned something, in a loss of its own."""
    student = pair.student()
    teacher, pilot = TEACHER, PILOT
    if not dense:
        teacher, pilot = MIXTURE, Pilot.of(MIXTURE, ROWS, 0, [3])
    router = StudentAwareRouter(Curriculum(), STEPS, student, teacher, pilot, **options)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(6)
        for parameter in router.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        loads = torch.arange(1.0, router.offers.count + 1)
        router.loads.copy_(loads / loads.sum())
    return LossModule(student, Terms([router], second_model=teacher))


def router_of(loss: LossModule) -> StudentAwareRouter:
    (router,) = loss.terms.members
    assert isinstance(router, StudentAwareRouter)
    return router


def divergence(p: Tensor, q: Tensor) -> float:
    both = zip(p.tolist(), q.tolist(), strict=True)
    return sum(a * math.log(a / b) for a, b in both if a > 0)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("step", "k"), [(0, 1), (25, 3)])
def test_every_entry_is_that_of_a_slow_twin(dense: bool, step: int, k: int) -> None:
    """Row by row and token by token, from states, maps and offers of each row alone."""
    loss = stirred(dense, seed=7)
    router = router_of(loss)
    found, _ = pair.summed(loss, [NEW], step=step)
    names = [name for name in ENTRIES if not (dense and name == "expert_importance")]
    assert [*found] == [f"routing.{name}" for name in names]
    expected = dict.fromkeys(ENTRIES, 0.0)
    count = router.offers.count
    for row in NEW:
        batch = pair.batch_of([row])
        where = predicting(batch["labels"])
        student = Stream.of(loss.model).read(batch, [2])[2][where].double()
        teacher = loss.terms.second_model
        with torch.no_grad(), attention_maps(teacher, router.offers.blocks) as maps:
            with Stream.of(teacher).watch(sorted(router.offers.needs.states)) as states:
                teacher(**model_inputs(batch))
            router.offers.look(Seen(model=teacher, states=states), where)
        with torch.no_grad(), attention_maps(loss.model, [1]) as own_maps:
            loss.model(**model_inputs(batch))
        offers = torch.stack([*router.offers.each()]).double()
        nats = [map_nats(maps[at], own_maps[1], where) for at in router.offers.blocks]
        drawn = Seeds(7).numpy("routing", row.row_id, step)
        noise = torch.tensor(drawn.standard_normal((len(row.input_ids), count)))
        for n, (_, t) in enumerate(pair.scored(batch)):
            s = student[n] / student[n].square().mean().add(torch.finfo(torch.float32).eps).sqrt()
            capacity = (router.capacity.weight.double() @ s + 0.1 * noise[t]).softmax(0)
            guess = router.projection.weight.double() @ s
            gap = torch.stack(
                [-(guess - offers[e, n]).square().sum() for e in range(count)]
            ).softmax(0)
            whole = 0.6 * capacity + 0.4 * gap
            if not dense:
                own = router.offers.own[n].double()
                whole = 0.4 * capacity + 0.3 * gap + 0.3 * own
                expected["expert_importance"] += divergence(own, whole)
            best = sorted(range(count), key=lambda e: -whole[e].item())[:k]
            weights = {e: whole[e] / sum(whole[b] for b in best) for e in best}
            target = sum(weights[e] * offers[e, n] for e in best)
            expected["feature_matching"] += (guess - target).square().sum().item()
            expected["attention_alignment"] += (
                sum(weights[e] * nats[e][n] for e in best).item() if dense else nats[0][n].item()
            )
            expected["load_balancing"] += count * (whole @ router.loads.double()).item() - 1.0
    for name in names:
        assert found[f"routing.{name}"] == pytest.approx(expected[name], rel=2e-5, abs=2e-5), name


def test_the_number_of_offers_grows_from_1_in_equal_parts_of_the_steps() -> None:
    router = router_of(stirred(dense=True))  # of five layers
    assert [router.active(step) for step in (0, 9, 10, 19, 20, 29, 30, 39, 40)] == [
        1, 1, 2, 2, 3, 3, 4, 4, 4,
    ]  # fmt: skip


def test_each_entry_has_its_own_ramp_and_alignment_that_of_attention() -> None:
    chosen = Curriculum(PRESETS["three-phase"])
    router = StudentAwareRouter(chosen, 100, pair.student(), TEACHER, PILOT)
    assert [entry.weight(45) for entry in router.entries] == pytest.approx([0.05, 0.05, 0.005])
    assert all(entry.weight(29) == 0.0 for entry in router.entries)
    assert router.settings["schedules"].keys() == {entry.name for entry in router.entries}
    looks = {entry.name: entry.needs for entry in router.entries}
    assert looks["routing.attention_alignment"].second.maps == {*range(5)}
    assert not looks["routing.load_balancing"].second.maps


def learned(loss: LossModule, name: str) -> set[str]:
    """What has a gradient that is not 0 from one entry alone."""
    loss.zero_grad()
    loss(pair.batch_of(NEW), {f"routing.{name}": 1.0}, 25).loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in loss.parameters())
    found = {n for n, p in loss.named_parameters() if p.grad is not None and p.grad.any()}
    return {name.removeprefix("learning.0.") for name in found if name.startswith("learning.")}


def test_who_learns_from_what() -> None:
    """Targets are fixed: the offers and the gate that feature matching aims at, and gap and importance in the gate."""
    mixture, dense = stirred(), stirred(dense=True)
    assert learned(mixture, "feature_matching") == {"projection.weight"}
    assert learned(mixture, "attention_alignment") == set()
    assert learned(mixture, "expert_importance") == {"capacity.weight"}
    assert learned(mixture, "load_balancing") == {"capacity.weight"}
    assert learned(dense, "feature_matching") == {"projection.weight"}
    assert learned(dense, "attention_alignment") == {"capacity.weight"}
    assert learned(dense, "load_balancing") == {"capacity.weight"}
    for loss in (mixture, dense):
        assert all(value.grad is None for value in loss.terms.second_model.parameters())


def test_before_the_first_step_loads_are_uniform_and_balance_is_0_then_those_of_the_step_before() -> (
    None
):
    router = StudentAwareRouter(Curriculum(), STEPS, pair.student(), TEACHER, PILOT)
    loss = LossModule(pair.student(), Terms([router], second_model=TEACHER))
    assert not any(bool(value.any()) for value in router.parameters())
    micro = loss(pair.batch_of(NEW), {"routing.load_balancing": 1.0}, 39)
    assert micro.sums["routing.load_balancing"].item() == pytest.approx(0.0, abs=1e-4)
    (counts,) = micro.windows.values()  # booked by the group's first entry, whatever is active
    assert [*micro.windows] == ["routing.feature_matching"]
    assert sum(counts.tolist()) == 4 * len(pair.scored(pair.batch_of(NEW)))
    router.renew(counts)
    torch.testing.assert_close(router.loads, (counts / counts.sum()).float())
    assert "loads" in router.state_dict()


def test_noise_is_of_the_row_and_the_step_alone() -> None:
    router = router_of(stirred(dense=True, seed=3))

    def noise(rows: Any, step: int, side: str = "right") -> dict[str, Tensor]:
        batch = pair.batch_of(rows, side)
        where = predicting(batch["labels"])
        drawn = router._noise(Seen(batch=batch, step=step), where)
        return dict(zip(batch["row_ids"], drawn.split(where.sum(dim=1).tolist()), strict=True))

    state = torch.get_rng_state()
    together, alone, left = noise(NEW, 1), noise(NEW[2:3], 1), noise(NEW, 1, "left")
    assert torch.equal(alone["new2"], together["new2"])
    assert all(torch.equal(left[name], together[name]) for name in together)
    assert not torch.equal(noise(NEW, 2)["new2"], together["new2"])
    assert torch.equal(torch.get_rng_state(), state)
    every = torch.cat([*noise(ROWS, 5).values()])
    assert every.std().item() == pytest.approx(0.1, rel=0.1)


def test_chance_is_a_gate_of_which_the_student_knows_nothing() -> None:
    router = router_of(stirred())
    own = router.offers.gates.double()
    expected = sum(divergence(one, 0.3 * one + 0.7 / 4) for one in own) / len(own)
    assert router.chances["routing.expert_importance"] == pytest.approx(expected, rel=1e-5)
    assert router_of(stirred(dense=True)).chances == {}


def test_a_micro_batch_without_a_scored_token_adds_nothing() -> None:
    for loss in (stirred(), stirred(dense=True)):
        batch = pair.batch_of(NEW[:2])
        batch["labels"] = torch.full_like(batch["labels"], -100)
        factors = {entry.name: 1.0 for entry in loss.terms.entries}
        micro = loss(batch, factors, 3)
        micro.loss.backward()
        assert all(value.item() == 0.0 for value in micro.sums.values())


def test_what_cannot_be_is_refused() -> None:
    def make(student: nn.Module, **options: Any) -> StudentAwareRouter:
        return StudentAwareRouter(Curriculum(), STEPS, student, TEACHER, PILOT, **options)

    with pytest.raises(UnsupportedError, match="`attention_dropout` must be 0"):
        make(pair.student(attention_dropout=0.2))
