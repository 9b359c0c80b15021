"""Law: a repair that is killed and begun again with the same folder ends at the same bits on one machine, and evaluates no point twice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests import processes
from tests.laws import repair_in_pieces
from tests.laws.repair_in_pieces import Killed, bits, evaluator_of, run
from tests.merging import pairs, tuned

from crosstune.merging.result import Repair


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Repair:
    return run(tmp_path_factory.mktemp("whole"))


def remembered(folder: Path) -> int:
    return len(list(folder.glob("*.safetensors")))


def assert_same(found: Repair, whole: Repair, spared: int) -> None:
    """The same bits everywhere, and no evaluation made that was remembered."""
    assert bits(found) == bits(whole)
    assert tuned.cells(found) == tuned.cells(whole)
    assert [s.text for s in found.statements] == [s.text for s in whole.statements]
    assert evaluator_of(found).made == evaluator_of(whole).made - spared


@pytest.mark.parametrize("evaluations", [1, 9])
def test_begun_again_after_so_many_evaluations_it_ends_at_the_same_bits(
    evaluations: int, whole: Repair, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, evaluations=evaluations)
    spared = remembered(tmp_path)
    assert spared == evaluations
    assert_same(run(tmp_path), whole, spared)


def test_killed_by_the_system_it_ends_at_the_same_bits(whole: Repair, tmp_path: Path) -> None:
    processes.killed(partial(run, tmp_path, evaluations=9, by_signal=True))
    spared = remembered(tmp_path)
    assert spared == 9
    assert_same(run(tmp_path), whole, spared)


def test_run_again_to_the_end_it_evaluates_nothing(whole: Repair, tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert evaluator_of(first).made > 0 and evaluator_of(again).made == 0
    assert_same(again, whole, evaluator_of(whole).made)


def test_a_question_asked_later_is_remembered_too(tmp_path: Path) -> None:
    first = run(tmp_path).pick(rate=1.0)
    again = run(tmp_path)
    assert again.pick(rate=1.0).point.validation == first.point.validation
    assert evaluator_of(again).made == 0


def test_what_another_pair_or_other_rows_have_left_there_is_not_believed(tmp_path: Path) -> None:
    settings = replace(
        tuned.SMALL, penalties=(0.0,), granularity=("global",), exchange_rates=(1.0,), budgets=()
    )
    count = evaluator_of(run(tmp_path, settings)).made
    before, after = tuned.pair()
    assert evaluator_of(run(tmp_path, settings)).made == 0  # this one is
    changed = {
        "another after": run(tmp_path, settings, pair=(before, pairs.moved(after))),
        "other rows": run(tmp_path, replace(settings, seed=4)),
        "other folds": run(tmp_path, replace(settings, folds=3)),
        "another target": run(tmp_path, replace(settings, target="checkpoints", learned=("bn",))),
        "other groups": run(tmp_path, replace(settings, granularity=("singular",))),
    }
    alone = {name: evaluator_of(found).made for name, found in changed.items()}
    assert all(made >= 5 for made in alone.values()), alone  # the straight line alone is five
    assert count >= 5


def test_the_same_rows_dealt_to_other_tasks_or_folds_are_other_rows() -> None:
    """Texts in the same order, of which one stands in another task, or in another group."""
    rows = {"en": tuned.encoded("en", 8), "bn": tuned.encoded("bn", 8)}
    first = tuned.session(tuned.opened(*tuned.pair()), rows=rows).evaluator.identity
    shifted = {"en": [*rows["en"], rows["bn"][0]], "bn": rows["bn"][1:]}
    regrouped = {
        name: [replace(row, unit=f"{row.unit}x") for row in given] for name, given in rows.items()
    }
    for other in (shifted, regrouped):
        assert tuned.session(tuned.opened(*tuned.pair()), rows=other).evaluator.identity != first
    assert tuned.session(tuned.opened(*tuned.pair()), rows=rows).evaluator.identity == first
    assert repair_in_pieces.SETTINGS.folds == 2
