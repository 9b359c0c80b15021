"""A study hears of every optimizer step once, with how many there will be."""

from __future__ import annotations

from types import SimpleNamespace

from crosstune.studies.steps import EachStep


def test_every_step_is_told_with_the_most_there_will_be() -> None:
    told: list[tuple[int, int]] = []
    callback = EachStep(lambda step, most: told.append((step, most)))
    for step in (1, 2):
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=5), None)
    assert told == [(1, 5), (2, 5)]
