"""The pilot asks for more blocks the narrower the interval, within what rows and budget allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.interference import tiny

from crosstune.interference.conflict.pilot import choose_blocks
from crosstune.interference.conflict.settings import AgreementSettings

AUTO = AgreementSettings(blocks="auto", rows_per_block=2, length=16)


def chosen(settings: AgreementSettings, rows: int = 120) -> int:
    tasks = {"en": tiny.rows("en", rows), "bn": tiny.rows("bn", rows, start=500)}
    return choose_blocks(tiny.sure(), tiny.tokenizer(), tasks, settings)


def test_a_given_number_is_kept() -> None:
    assert chosen(replace(AUTO, blocks=5)) == 5


def test_narrower_intervals_take_more_blocks() -> None:
    numbers = [chosen(replace(AUTO, interval_width=width)) for width in (100.0, 0.7, 0.001)]
    assert numbers[0] == 8
    assert numbers == sorted(numbers)
    assert numbers[-1] == 60  # 120 rows of a task fill 60 blocks of two


@pytest.mark.parametrize(("limit", "rows", "expected"), [(12, 120, 12), (64, 40, 20)])
def test_the_budget_and_the_rows_bound_it(limit: int, rows: int, expected: int) -> None:
    assert chosen(replace(AUTO, interval_width=1e-3, max_blocks=limit), rows) == expected
