"""The data of an explorer: which matrices a page holds, and that nothing of a run becomes markup."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.report.explored_run import EVIL, STRONGEST, make_run, section
from tests.report.small_run import embedded, text_of

from crosstune.foundation.records import Run, Table
from crosstune.report import draw, explorer
from crosstune.report.explorer import explorer_data
from crosstune.report.folder import Contents


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explored") / "run"
    make_run(folder)
    draw(folder)
    return folder


def test_the_page_holds_the_largest_matrices_that_may_be_read(explored: Path) -> None:
    data = embedded(explored)["sections"]["heads"]["explorer"]
    held = [m["at"] for m in data["matrices"] if "cells" in m]
    readable = [
        row for row in Run.open(explored).table("heads").rows() if row["shown"] and row["mean"] == row["mean"]
    ]  # fmt: skip
    for block in ("q", "k"):
        own = sorted((r for r in readable if r["block"] == block), key=lambda r: -abs(r["mean"]))
        expected = {(r["layer"], r["head"]) for r in own[: explorer.MOST_A_CHOICE]}
        assert {(a["layer"], a["head"]) for a in held if a["block"] == block} == expected
    assert dict(zip(("block", "layer", "head"), STRONGEST, strict=True)) in held


def test_names_are_those_of_the_held_rows_alone(explored: Path) -> None:
    data = embedded(explored)["sections"]["heads"]["explorer"]
    columns = {column["name"]: column for column in data["names"]["table"]["columns"]}
    sides = [columns["side"]["levels"][code] for code in columns["side"]["codes"]]
    named = {
        place for side, place in zip(sides, columns["place"]["cells"], strict=True) if side == "row"
    }
    assert named == {place for m in data["matrices"] for place in m.get("rows", ())}


def test_no_text_is_markup_and_long_ones_are_cut(explored: Path) -> None:
    page = text_of(explored)
    assert EVIL not in page
    assert "<img src=x" not in page
    assert page.count("</script>") == 3
    longest = max(Run.open(explored).table("pairs").column("text_a"), key=len)
    levels = next(
        c["levels"] for c in embedded(explored)["sections"]["heads"]["explorer"]["pairs"]["table"]["columns"]
        if c["name"] == "text_a"
    )  # fmt: skip
    assert len(longest) > explorer.MOST_TEXT
    assert max(map(len, levels)) == explorer.MOST_TEXT


def test_many_choices_share_the_matrices(explored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "MOST_MATRICES", 3)
    data = explorer_data(section(), Contents.of(explored))
    assert sum("cells" in matrix for matrix in data["matrices"]) == 2  # one of each block
    assert len(data["matrices"]) == 4 * (6 + 2)


def test_a_folder_without_its_arrays_is_drawn_all_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    for file in (run.folder / "arrays").iterdir():
        file.unlink()
    data = explorer_data(section(), Contents.of(run))
    assert data["matrices"]
    assert not any("cells" in matrix for matrix in data["matrices"])


def test_a_map_without_matrices_and_pairs_is_a_map(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    plain = replace(section(), matrices=None, pairs=None, names=None)
    data = explorer_data(plain, Contents.of(run))
    assert (data["matrices"], data["pairs"], data["names"]) == ([], None, None)


def test_the_file_beside_the_page_is_the_map_at_its_first_choice(explored: Path) -> None:
    svg = (explored / "report/figures/heads.svg").read_text(encoding="utf-8")
    assert "+0.90" in svg
    rows = Run.open(explored).table("heads").where(shown=True).rows()
    printed = {b: {f"{r['mean']:+.2f}" for r in rows if r["block"] == b} for b in ("q", "k")}
    only_k = {text.replace("-", "−") for text in printed["k"] - printed["q"]}
    assert only_k
    assert not any(f">{text}<" in svg for text in only_k)


def test_control_characters_of_texts_do_not_reach_the_page(explored: Path) -> None:
    assert any("\x00" in text for text in Run.open(explored).table("pairs").column("text_a"))
    page = text_of(explored)
    told = page[: page.index("<script")]
    assert "␀" in told
    assert not set(map(chr, (*range(9), 11, 12, *range(14, 32), 127))) & set(told)
    assert "\\u0000" not in page[: page.index("</script>")]


def test_a_choice_is_signed_where_its_map_or_a_matrix_lies_below_zero(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    data = explorer_data(section(), Contents.of(run))
    assert data["signed"] == [["q"], ["k"]]
    heads = run.table("heads")
    positive = [{**row, "mean": abs(row["mean"])} for row in heads.rows()]
    run.write_table(Table("heads", heads.columns, positive))
    np.save(run.folder / "arrays/k.npy", np.abs(np.load(run.folder / "arrays/k.npy")))
    assert explorer_data(section(), Contents.of(run))["signed"] == [["q"]]  # by its matrices
    plain = replace(section(), matrices=None)
    assert explorer_data(plain, Contents.of(run))["signed"] == []
    at = next(row for row in positive if row["block"] == "k" and not row["shown"])
    at["mean"] = -0.1  # what may not be read decides too
    run.write_table(Table("heads", heads.columns, positive))
    assert explorer_data(plain, Contents.of(run))["signed"] == [["k"]]
