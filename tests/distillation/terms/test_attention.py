"""Attention maps: a slow float64 twin, masked keys, heads averaged or matched, and layers by the sites they end at."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tests.distillation.terms import pair
from tests.distillation.terms.pair import NEW, TEACHER, schedule

from crosstune.distillation.terms.attention import AttentionMaps, map_nats, match_layers
from crosstune.foundation.errors import SettingsError, UnsupportedError
from crosstune.foundation.training import Terms
from crosstune.foundation.training.loss import LossModule

STUDENT = pair.student()


def test_layers_by_hand() -> None:
    """The last goes with the last, as their ends do; a block that ends where the teacher begins has none."""
    assert match_layers(2, 5, None) == {0: 1, 1: 4}
    assert match_layers(5, 5, None) == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}
    assert match_layers(4, 2, None) == {1: 0, 2: 0, 3: 1}
    assert match_layers(2, 5, {0: 0}) == {0: 0}
    assert AttentionMaps(schedule("attention"), STUDENT, TEACHER).needs.second.maps == {1, 4}


def test_divergence_of_two_maps_by_hand() -> None:
    """Two heads, whose mean is (.5, .5) for the teacher and (.25, .75) for the student; a masked key adds nothing."""
    teacher = torch.tensor([[0.2, 0.8, 0.0], [0.8, 0.2, 0.0]])[None, :, None]
    student = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.6, 0.0]])[None, :, None]
    where = torch.tensor([[True]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert map_nats(teacher, student, where).item() == pytest.approx(expected)
    heads = [
        0.2 * math.log(0.2 / 0.1) + 0.8 * math.log(0.8 / 0.9),
        0.8 * math.log(0.8 / 0.4) + 0.2 * math.log(0.2 / 0.6),
    ]
    by_head = map_nats(teacher, student, where, by_head=True)
    assert by_head.item() == pytest.approx(sum(heads) / 2)
    unseen = map_nats(teacher, torch.tensor([0.0, 1.0, 0.0]).expand(1, 2, 1, 3), where)
    assert math.log(2) * 50 < unseen.item() < 60.0  # half of it where the student cannot look


@pytest.mark.parametrize("heads", ["mean", "matched"])
def test_the_sum_is_that_of_a_slow_twin(heads: str) -> None:
    student = pair.student(num_attention_heads=4)
    term = AttentionMaps(schedule("attention"), student, TEACHER, layers={0: 3, 1: 2}, heads=heads)
    module = LossModule(student, Terms([term], TEACHER))
    found, gradients = pair.summed(module, [NEW], side="left")
    assert gradients
    expected = 0.0
    for row in NEW:
        batch = {name: value for name, value in pair.batch_of([row]).items() if name != "row_ids"}
        pairs = []
        for model in (TEACHER, student):
            eager = copy.deepcopy(model).double()
            eager.set_attn_implementation("eager")
            pairs.append(eager(**batch, output_attentions=True).attentions)
        for layer, other in ((0, 3), (1, 2)):
            target, guess = pairs[0][other][0], pairs[1][layer][0]
            if heads == "mean":
                target, guess = target.mean(0, keepdim=True), guess.mean(0, keepdim=True)
            for _, t in pair.scored(batch):
                seen = slice(0, t + 1)
                p, q = target[:, t, seen], guess[:, t, seen]
                expected += (p * (p / q).log()).sum(-1).mean().item() / 2
    assert found["attention"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("heads", ["mean", "matched"])
def test_the_teacher_itself_pays_nothing_and_learns_nothing(heads: str) -> None:
    twin = copy.deepcopy(TEACHER)
    term = AttentionMaps(schedule("attention"), twin, TEACHER, heads=heads)
    sums, gradients = pair.summed(LossModule(twin, Terms([term], TEACHER)), [NEW])
    assert sums["attention"] == pytest.approx(0.0, abs=1e-5)
    assert gradients and max(g.abs().max().item() for g in gradients.values()) < 1e-5


def test_what_cannot_be_is_refused() -> None:
    def make(student: Any = STUDENT, **options: Any) -> AttentionMaps:
        return AttentionMaps(schedule("attention"), student, TEACHER, **options)

    with pytest.raises(SettingsError, match="0 to 1 and the teacher's 0 to 4; found 2: 0"):
        make(layers={2: 0})
    with pytest.raises(SettingsError, match="found 0: 5"):
        make(layers={0: 5})
    with pytest.raises(
        SettingsError, match="`heads` must be 'mean' where.*2 of the student's and 4"
    ):
        make(heads="matched")
    with pytest.raises(UnsupportedError, match=r"`attention_dropout` must be 0.*0\.1"):
        make(pair.student(attention_dropout=0.1))
