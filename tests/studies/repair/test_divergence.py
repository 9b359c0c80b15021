"""Where no loss chose, neither the sentences nor the page of a study say so: they tell divergences from losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.studies.repair import told

from crosstune.foundation.records.page import Page
from crosstune.studies.repair.settings import RepairStudySettings

ASKED = replace(told.SETTINGS.repair, max_loss={"bn": 0.02}, learned=("bn",))


def written(folder: Path, settings: RepairStudySettings) -> Page:
    return told.summed_up(told.run_with(folder / "run", settings), settings)


@pytest.fixture(scope="module")
def by_divergence(tmp_path_factory: pytest.TempPathFactory) -> Page:
    settings = replace(told.SETTINGS, repair=replace(ASKED, target="checkpoints"))
    return written(tmp_path_factory.mktemp("divergence"), settings)


def test_no_budget_and_no_limit_is_said_to_be_a_loss(by_divergence: Page) -> None:
    said = [statement.text for statement in by_divergence.statements]
    assert not any(text.startswith(("At a cost", "Asked to lose")) for text in said)
    assert sum(text.startswith("At a divergence from the checkpoint") for text in said) == 1
    (limit,) = (one for one in by_divergence.statements if one.text.startswith("Asked that bn"))
    assert limit.tone == "info"
    assert "kept" not in limit.text
    assert (
        "by divergence from the checkpoint that knows the task"
        in by_divergence.statements[0].detail
    )


def test_figures_of_losses_say_that_a_divergence_chose(by_divergence: Page) -> None:
    notes = {section.id: section.note for section in by_divergence.sections}
    for name in ("front", "tasks", "more-regained", "more-paid", "ledger", "method"):
        assert "divergence from the checkpoint that knows the task" in notes[name], name


def test_nothing_speaks_of_divergence_where_losses_chose(tmp_path: Path) -> None:
    plain = written(tmp_path, replace(told.SETTINGS, repair=ASKED))
    words = [
        *(f"{one.text} {one.detail}" for one in plain.statements),
        *(f"{one.lead} {one.note}" for one in plain.sections),
    ]
    assert [text for text in words if "diverge" in text] == []
    assert any(text.startswith("Asked to lose at most 0.02 nats of bn") for text in words)
