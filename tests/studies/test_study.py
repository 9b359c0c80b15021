"""A study is found where it says it is, and a plan is read by name."""

from __future__ import annotations

import inspect

import pytest

from crosstune.studies.catalogue import STUDIES
from crosstune.studies.frame.plan import Plan, PlanLine
from crosstune.studies.study import Study


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_settings_have_defaults_and_a_word_for_every_field(study: Study) -> None:
    cls = study.settings_class()
    assert cls() == cls()
    source = inspect.getsource(cls)
    for name in cls.__dataclass_fields__:
        assert f"\n    {name}: " in source
        field = source.split(f"\n    {name}: ", 1)[1]
        assert field.split("\n")[1].lstrip().startswith('"""'), f"{name} has no docstring"


def test_a_plan_is_read_by_name() -> None:
    plan = Plan((PlanLine("time", 60.0, "seconds", "three steps"),))
    assert plan.value("time") == 60.0
    with pytest.raises(StopIteration):
        plan.value("money")


def test_run_and_plan_are_called_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("s", "Why?", "fractions:Fraction", "operator:add", "operator:neg")
    assert study.settings_class().__name__ == "Fraction"
    assert (study.run(1, 2), study.plan(3)) == (3, -3)  # type: ignore[arg-type]
