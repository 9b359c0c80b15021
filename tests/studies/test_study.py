"""A study is found where it says it is."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from tests.studies.frame import tiny_study

from crosstune.studies.catalogue import STUDIES
from crosstune.studies.frame import procedure
from crosstune.studies.frame.plan import silent
from crosstune.studies.study import Study

TINY = tiny_study.__name__


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_settings_have_defaults_and_a_word_for_every_field(study: Study) -> None:
    cls = study.settings_class()
    assert cls() == cls()
    source = "".join(map(inspect.getsource, cls.__mro__[:-1]))  # own fields before inherited ones
    for name in (field.name for field in fields(cls)):
        assert f"\n    {name}: " in source
        field = source.split(f"\n    {name}: ", 1)[1]
        assert field.split("\n")[1].lstrip().startswith('"""'), f"{name} has no docstring"


def test_a_study_is_run_and_planned_where_it_says_it_is(tmp_path: Path) -> None:
    named = Study("tiny", "Why?", f"{TINY}:TinySettings", f"{TINY}:Tiny")
    in_file = Study.of_file(str(Path(tiny_study.__file__)))
    assert named.settings_class() is tiny_study.TinySettings
    assert (in_file.name, in_file.question) == ("tiny", "How far does a cell count?")
    for at, study in enumerate((named, in_file)):
        settings = study.settings_class()(output=str(tmp_path / f"{at}"), seeds=(3, 4))
        assert study.plan(settings).value("whole study") == 2.0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(procedure.report, "draw", lambda run: None)
            assert study.run(settings, silent).finished
