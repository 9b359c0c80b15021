"""The one call: options by name, and for everything that cannot be, what, why, what was found and what to do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import pairs, tuned

import crosstune
from crosstune.foundation.data import Row
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
    "one task": ({"keep": {"en": KEEP["en"]}}, DataError, "keep", "at least two tasks"),
    "overlapping rows": (
        {"keep": {**KEEP, "ar": [Row("x", KEEP["en"][3].text), *tiny.rows("bn", 9, 80)]}},
        DataError,
        "keep['ar']",
        "is also one of 'en'",
    ),
    "a Task among rows": (
        {"keep": {"en": tuned.split()["en"], "bn": KEEP["bn"]}},
        DataError,
        "keep",
        "a Task for en; rows for bn",
    ),
    "too few rows": ({"keep": {n: r[:1] for n, r in KEEP.items()}}, DataError, "keep['en']", "both sides"),
    "more folds than groups": ({"folds": 9}, DataError, "keep", "fewer folds"),
    "an unknown option": ({"granularty": "layer"}, SettingsError, "granularty", "granularity"),
    "an unknown granularity": ({"granularity": "layers"}, SettingsError, "granularity", "layer"),
    "an impossible constraint": ({"max_loss": {"bn": -0.1}}, SettingsError, "max_loss['bn']", "0"),
    "an unknown task": ({"max_loss": {"ar": 0.1}}, SettingsError, "max_loss", "en, bn"),
    "a box without after": ({"high": 0.5}, SettingsError, "high", "after"),
    "a box without before": ({"low": 0.5}, SettingsError, "low", "before"),
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


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    before, after = tuned.pair()
    with torch.no_grad():
        after.model.norm.weight[2] = float("nan")
    with pytest.raises(CrosstuneError, match=r"after\.model\.norm\.weight.*1 of 16"):
        repair(before, after, tiny.tokenizer(), KEEP, **TINY)


def test_one_model_twice_is_a_result_and_no_error() -> None:
    before, _ = tuned.pair()
    for other in (before, copy.deepcopy(before)):
        found = repair(before, other, tiny.tokenizer(), KEEP, **TINY)
        assert found.statements[0].text.startswith("Nothing to repair")
