"""The page: an explorer of all heads with selectors only where there are several, and what is needed to believe it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import small_circuits

from crosstune.foundation.records import Run
from crosstune.foundation.records.page import PAGE_FILE, Page
from crosstune.foundation.storage import read_json
from crosstune.report import draw, summary
from crosstune.report.folder import Contents


def page_of(run: Run) -> Page:
    return Page.from_json(read_json(run.folder / PAGE_FILE))


@pytest.fixture(scope="module")
def single(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One state, one pair, one variant; the text of a row is hostile."""
    folder = tmp_path_factory.mktemp("single")
    lines = "".join(
        f'{{"text": "<script>alert({at})</script> tisane {at} mosola"}}\n' for at in range(14)
    )
    (folder / "evil.jsonl").write_text(lines, encoding="utf-8")
    tasks = [small_circuits.TWO[0], {"name": "evil", "source": str(folder / "evil.jsonl")}]
    chosen = small_circuits.settings(
        study_folder,
        output=str(folder / "run"),
        tasks=tasks,
        measurement={"variants": ["signed"], "blocks": ["q", "o"]},
    )
    return small_circuits.run_cells(chosen)


def test_the_explorer_begins_at_signed_scores_and_knows_its_tables(circuited: Run) -> None:
    explorer = page_of(circuited).sections[0]
    assert (explorer.view, explorer.table, explorer.mark) == (
        "explorer", "circuit_heads", "stands_out",
    )  # fmt: skip
    assert explorer.begin == {"variant": "signed"}
    assert "no head is marked" in explorer.note
    assert {explorer.matrices, explorer.pairs, explorer.names} <= set(circuited.tables())


def test_states_stand_side_by_side_and_pairs_are_chosen(circuited: Run, single: Run) -> None:
    both, one = page_of(circuited).sections[0], page_of(single).sections[0]
    assert (both.facet, both.choose) == ("checkpoint", ("pair", "block", "variant"))
    assert (one.facet, one.choose) == (None, ("block", "variant"))


def test_every_section_can_be_drawn(circuited: Run, single: Run) -> None:
    for run in (circuited, single):
        contents = Contents.of(run)
        assert {contents.obstacle(section) for section in contents.page.sections} == {""}
    ids = [section.id for section in page_of(circuited).sections]
    assert ids == ["heads", "cosine-signed", "cosine-symmetric", "ablation-spearman", "ablation-overlap", "checkpoints", "changes", "slices", "methods"]  # fmt: skip
    assert [section.id for section in page_of(single).sections] == [
        "heads", "cosine-signed", "slices", "methods",
    ]  # fmt: skip


def test_findings_are_those_of_the_cells_and_the_first_verdict_is_the_answer(single: Run) -> None:
    page, (cell,) = page_of(single), single.cells()
    said = [f"en:evil. {event['text']}" for event in cell.events("statement")]
    listed = [one.text for one in page.statements]
    assert page.answer is not None
    assert page.answer.text == said[0]
    assert set(said) <= {page.answer.text, *listed}
    assert page.answer.text not in listed


def test_the_methods_are_those_of_the_cells(single: Run) -> None:
    page = page_of(single)
    note = page.sections[-1].note
    assert note.startswith("Task A is en, task B is evil.")
    assert "12 samples of task A" in note
    assert "Σ_k g_ik g_jk/D_k" in note


def test_the_picture_is_the_map_of_the_block_with_the_head_that_stands_out_most(
    single: Run,
) -> None:
    (picture,) = page_of(single).pictures
    heads = single.table("circuit_heads")
    assert len(heads.where(**picture.where)) == 4 * heads.column("layer")[-1] + 4
    assert picture.where["variant"] in ("signed", "symmetric")


def test_texts_of_rows_are_escaped_in_the_page(single: Run) -> None:
    html = draw(single).read_text(encoding="utf-8")
    assert "<script>alert(" not in html
    assert "\\u003cscript\\u003ealert(" in html
    assert html.count("</script>") == 3
    assert "How en and evil meet in attention heads" in summary(single, all=True)
