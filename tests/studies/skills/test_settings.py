"""What a study of skills cannot be is refused by name; orders and arms are what they are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.studies.skills.conftest import TASKS, small

from crosstune.experts.settings import SkillsSettings
from crosstune.foundation.errors import SettingsError


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("known", {"known": "fr"}),
        ("tasks", {"tasks": TASKS[:2]}),
        ("repeats", {"repeats": ("en",)}),
        ("repeats", {"repeats": ("bn", "bn")}),
        ("arms", {"arms": ()}),
        ("arms", {"arms": ("prefix", "prefix")}),
        ("orders", {"orders": 0}),
        ("evaluation_rows", {"evaluation_rows": 1}),
        ("learning.replay", {"learning": SkillsSettings(), "arms": ("sequential+replay",)}),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(
    tmp_path: Path, argument: str, options: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError) as refused:
        small(tmp_path, **options)
    assert refused.value.argument == argument


def test_orders_are_permutations_with_the_repeat_at_the_end(tmp_path: Path) -> None:
    settings = small(tmp_path, orders=8)
    streams = {settings.stream(order) for order in range(settings.orders)}
    assert settings.stream(0) == ("bn", "ar", "bn")
    assert streams == {("bn", "ar", "bn"), ("ar", "bn", "bn")}


def test_a_cell_is_a_seed_and_an_order(tmp_path: Path) -> None:
    settings = small(tmp_path, orders=2)
    assert [settings.key(name) for name in settings.cell_names] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert settings.of_cell("seed-1-order-0").seeds == (1,)


def test_arms_differ_in_what_they_are_called_after(tmp_path: Path) -> None:
    settings = small(tmp_path)
    prefix, learned, alone = (
        settings.of_arm(arm) for arm in ("prefix", "learned+mean+replay", "sequential+replay")
    )
    assert (prefix.router.kind, prefix.replay, prefix.sequential) == ("prefix", 0, False)
    assert (learned.router.kind, learned.router.reads, learned.replay) == ("learned", "prefix", 16)
    assert learned == replace(prefix, replay=16, router=learned.router)
    assert (alone.sequential, alone.rank, alone.replay) == (True, 2 * prefix.rank, 16)
