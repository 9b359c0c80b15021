"""A label or pick says by what it was chosen only where that was no loss."""

from __future__ import annotations

from typing import get_args, get_type_hints

from crosstune.merging.findings import sentences as criterion
from crosstune.merging.settings import RepairSettings


def test_only_a_divergence_is_named() -> None:
    assert criterion.asked_as("rate 1", "text") == "rate 1"
    assert criterion.asked_as("rate 1", "checkpoints") == "rate 1, in divergence"
    assert criterion.picked_as("rate 1", "text") == "Picked as 'rate 1' on other rows"
    assert criterion.picked_as("rate 1", "checkpoints").endswith(f", by {criterion.DIVERGENCE}")


def test_every_target_of_the_settings_has_words() -> None:
    targets = get_args(get_type_hints(RepairSettings)["target"])
    assert set(criterion.CHOSEN_BY) == set(targets) == set(get_args(criterion.Criterion))
