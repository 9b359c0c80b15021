"""The page of a small study: every section is drawn, the answer is about the first arm, and a stranger's reading of it."""

from __future__ import annotations

from crosstune.foundation.records import Run
from crosstune.report import draw, summary
from crosstune.studies.frame.opening import settings_of
from crosstune.studies.skills.page import page
from crosstune.studies.skills.settings import SkillStudySettings


def test_every_section_and_picture_names_what_was_written(run: Run) -> None:
    found = page(run, settings_of(run, SkillStudySettings))
    assert found.answer is not None
    assert found.answer.text.startswith("Experts routed by prefix")
    assert [section.id for section in found.pictures] == ["forgotten", "arms"]
    for section in (*found.pictures, *found.sections):
        columns = run.table(str(section.table)).arrow.column_names
        named = (section.x, section.y, section.value, section.color, *section.choose)
        assert {name for name in named if name} <= set(columns)


def test_the_report_is_drawn_and_opens_with_the_answer(run: Run) -> None:
    text = draw(run).read_text(encoding="utf-8")
    assert "What was kept" in text
    assert "Experts routed by prefix" in summary(run).split("\n")[0]
