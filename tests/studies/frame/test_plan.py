"""A plan is read by name, and who does not want to be told is not."""

from __future__ import annotations

import pytest

from crosstune.studies.frame.plan import Plan, PlanLine, Progress, silent


def test_a_plan_is_read_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan((PlanLine("time", 60.0, "seconds", "three steps"),))
    assert plan.value("time") == 60.0
    with pytest.raises(StopIteration):
        plan.value("money")
    assert plan.warned(["Few rows."]).warned(["Long rows."]).warnings == ("Few rows.", "Long rows.")
    silent(Progress("seed-0", "waiting", 0, 3))
    assert capsys.readouterr().out == ""
