"""Slices: the loop over chunks of heads, the Fishers it needs, and gradients that are not finite."""

from __future__ import annotations

import pytest
import torch
from tests.circuits.toy_attention import Toy

from crosstune.circuits.scoring.memory import Room, Sources
from crosstune.circuits.scoring.slices import kinds_of, score_slices
from crosstune.circuits.scoring.tiles import Source
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.errors import MeasurementError

TOY = Toy.make()
SIGNED = Form("signed", "pooled")
SETTINGS = CircuitSettings(min_samples=3)


def sources(task: int | None = None, value: float = torch.nan) -> Sources:
    """The sources of q; of a task a value in the second of the chosen heads 0, 2 and 3."""
    made = []
    for at, count in enumerate((5, 4)):
        layer = TOY.layer(TOY.samples(count, count))
        if at == task:
            layer.batches[0].deltas["q"][1, 0, 2 * 3] = value
        made.append(Source.of(layer, "q", count, heads=[0, 2, 3]))
    return Sources("block q of layer 3", (0, 2, 3), *made, None, None)


def test_kinds_are_asked_for_once() -> None:
    forms = [Form("directional", "task_a"), SIGNED, Form("symmetric", "pooled")]
    assert kinds_of(forms, [SIGNED, Form("signed", "true")]) == ["task_a", "pooled", "true"]


def test_facts_come_with_every_kind_of_fisher() -> None:
    tally, facts = score_slices(sources(), [SIGNED], [Form("signed", "held_out")], SETTINGS, Room())
    assert set(facts) == {"pooled", "held_out"}
    assert [facts[kind].median.shape for kind in facts] == [(3,), (3,)]
    assert tally.pairs()[SIGNED].shape == (5, 4, 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("task", "name"), [(0, "A"), (1, "B")])
def test_a_gradient_that_is_not_finite_is_refused_by_name(
    task: int, name: str, value: float
) -> None:
    with pytest.raises(
        MeasurementError, match=f"gradients of task {name}, block q of layer 3, head 2.*finite"
    ):
        score_slices(sources(task, value), [SIGNED], [], SETTINGS, Room())
