"""The one call: options by name, and for everything that cannot be, what, why, what was found and what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.interference import tiny
from tests.merging import pairs, tuned

import crosstune
from crosstune.foundation.errors import CrosstuneError, DataError, SettingsError
from crosstune.merging import repair
from crosstune.merging.api import repair_endpoints
from crosstune.merging.result import Repair
from crosstune.merging.scoring import most_evaluations
from crosstune.merging.selection import as_tasks
from crosstune.merging.session import Watch
from crosstune.merging.settings import RepairSettings

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


def of(settings: RepairSettings, watch: Watch | None = None, **options: Any) -> Repair:
    ends = tuned.opened(*tuned.pair(), **options)
    return repair_endpoints(ends, as_tasks(tuned.keep(), settings), settings, watch)


def test_who_listens_hears_of_every_evaluation_within_what_was_announced() -> None:
    heard: list[tuple[str, int, int]] = []
    settings = replace(tuned.SMALL, granularity=("component",), replay=True, replay_rates=(1e-3,))
    found = of(settings, Watch(listener=lambda *what: heard.append(what)))
    doings = list(dict.fromkeys(doing for doing, _, _ in heard))
    assert doings == ["straight line", "global", "component", "replay fine-tune"]
    searched = [done for doing, done, _ in heard if doing != "replay fine-tune"]
    assert found.found is not None
    assert searched == list(range(1, found.found.session.evaluator.made + 1))
    assert {most for doing, _, most in heard if doing != "replay fine-tune"} == {
        most_evaluations(settings)
    }
    assert searched[-1] <= most_evaluations(settings)
    assert [cost.method for cost in found.costs] == [
        *("straight line", "global", "component", "test rows", "replay")
    ]


@pytest.mark.parametrize("target", ["text", "checkpoints"])
def test_ends_are_measured_by_what_was_minimised(target: Any) -> None:
    """Else a point's divergence would be held against the ends' nats, and the front be nonsense."""
    found = of(replace(tuned.SMALL, target=target, learned=("bn",), penalties=(0.0, 0.1)))
    before, after = found.points[:2]
    assert (before.kind, after.kind) == ("before", "after")
    if target == "checkpoints":
        assert before.validation["en"] == after.validation["bn"] == 0.0
        fronts = found.tables["repair_points"].rows()
        assert all(row["on_front"] for row in fronts if row["kind"] in ("before", "after"))
    else:
        assert dict(before.validation) == pytest.approx(dict(found.roles.before), rel=1e-5)
        assert dict(after.validation) == pytest.approx(dict(found.roles.after), rel=1e-5)
    # test rows give nats of the text, whatever was minimised
    rows = found.tables["repair_tasks"].where(label="before", method="component", task="en").rows()
    assert rows[0]["loss"] > 1.0


def test_a_soup_of_several_checkpoints_is_searched_and_is_at_least_as_good() -> None:
    settings = replace(tuned.SMALL, penalties=(0.0,), evaluations=4)
    middle = pairs.moved(tuned.pair()[1])
    found = of(settings, between=[middle])
    ends = [point for point in found.points if point.is_end]
    for point in found.points:
        if point.kind == "rate":
            value = point.validation["bn"] + point.rate * point.validation["en"]
            assert value <= min(e.validation["bn"] + point.rate * e.validation["en"] for e in ends)
    assert set(found.tables["repair_coefficients"].column("checkpoint")) == {1, 2}
