"""The one call: options by name, and for everything that cannot be, what, why, what was found and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.interference import tiny
from tests.merging import pairs, tuned

import crosstune
from crosstune.foundation.errors import CrosstuneError, DataError, SettingsError
from crosstune.merging import repair

KEEP = tuned.keep()
TINY: dict[str, Any] = {
    "granularity": "component",
    "baselines": [],
    "replay": False,
    "exchange_rates": [1.0],
    "budgets": [],
    "rows": 8,
    "reported_rows": 8,
    "length": 16,
    "folds": 2,
    "penalties": [0.0],
    "evaluations": 2,
}


def test_options_are_the_settings_by_name() -> None:
    found = repair(*tuned.pair(), tiny.tokenizer(), KEEP, **TINY)
    assert found.settings.granularity == ("component",) and found.settings.baselines == ()
    assert found.settings.exchange_rates == (1.0,) and found.settings.folds == 2
    assert found.front.column("kind") == ["before", "rate", "after"]


def test_folders_need_no_tokenizer_beside_them(tmp_path: Path) -> None:
    before, after = (
        pairs.saved(model, tmp_path / name) for name, model in zip("ab", tuned.pair(), strict=True)
    )
    found = repair(before, after, keep=KEEP, **TINY)
    in_memory = repair(*tuned.pair(), tiny.tokenizer(), KEEP, **TINY)
    assert tuned.cells(found) == tuned.cells(in_memory)


def test_the_front_door_leads_here() -> None:
    assert crosstune.repair is repair


REFUSED: dict[str, tuple[dict[str, Any], type[CrosstuneError], str, str]] = {
    "no rows": ({"keep": None}, SettingsError, "keep", 'keep={"en": rows'),
    "more folds than groups": ({"folds": 9}, DataError, "keep", "fewer folds"),
    "an unknown option": ({"granularty": "layer"}, SettingsError, "granularty", "granularity"),
    "an unknown granularity": ({"granularity": "layers"}, SettingsError, "granularity", "layer"),
    "an unknown task": ({"max_loss": {"ar": 0.1}}, SettingsError, "max_loss", "en, bn"),
    "a number that is text": ({"rows": "many"}, SettingsError, "rows", "many"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_with_argument_law_finding_and_remedy(case: str) -> None:
    options, kind, argument, words = REFUSED[case]
    with pytest.raises(kind) as refused:
        repair(*tuned.pair(), tiny.tokenizer(), **({"keep": KEEP} | TINY | options))
    error = refused.value
    assert error.argument == argument
    assert error.law and error.found is not None and error.remedy
    assert words in str(error)
