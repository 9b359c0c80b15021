"""The study: what is finished is only summed up again, and its findings lie beside the page for a program."""

from __future__ import annotations

from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.foundation.storage import read_json
from crosstune.studies.conflict.study import DECISION_FILE
from crosstune.studies.frame.plan import Progress


def test_a_finished_study_is_only_summed_up_again(finished: Run) -> None:
    before = small_study.figures(finished)
    told: list[Progress] = []
    run = small_study.run_cells(small_study.read_settings(finished), told.append)
    assert [(one.cell, one.doing) for one in told] == [
        ("seed-0", "finished"),
        ("seed-7", "finished"),
    ]
    assert run.finished
    assert small_study.differences(small_study.figures(run), before) == []


def test_the_decision_lies_beside_the_page(finished: Run) -> None:
    found = read_json(finished.folder / DECISION_FILE)
    assert found[0].keys() == {"text", "verdict", "detail"}
