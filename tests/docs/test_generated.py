"""What README and docs repeat from the code is what the code says today; README stays one page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from tests.docs.markdown import CHECKOUT

from crosstune.foundation.records import Run
from crosstune.interference.conflict.measure import ONE_STATE_COLUMNS, SEVERAL_COLUMNS


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """The script docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", CHECKOUT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text: str) -> list[str]:
    """The text without its line breaks: help texts wrap differently from one Python to the next."""
    return text.split()


def test_the_map_in_readme_is_the_tree(generate: ModuleType) -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert generate.between(readme, "map", generate.house_map()) == readme, "run `make docs`"


def test_the_map_leaves_out_no_room(generate: ModuleType) -> None:
    package = generate.PACKAGE
    drawn = {face for _, face in generate.rooms()}
    built = {*package.glob("*/__init__.py"), *package.glob("foundation/*/__init__.py")}
    assert built - drawn == set()


def test_every_door_sign_fits_on_the_map(generate: ModuleType) -> None:
    assert [line for line in generate.house_map().splitlines() if len(line) > 130] == []


def test_the_page_of_commands_is_the_help(generate: ModuleType) -> None:
    if not (generate.PACKAGE / "cli" / "main.py").is_file():
        pytest.skip("the command line is not built yet")
    page = (CHECKOUT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert words(page) == words(generate.commands_page()), "run `make docs`"


def test_the_page_of_tables_is_what_the_code_defines(generate: ModuleType) -> None:
    page = (CHECKOUT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert generate.tables_page(page) == page, "run `make docs`"


def test_every_column_has_a_meaning(generate: ModuleType) -> None:
    unsaid = [
        f"{name}.{column.name}"
        for tables in (
            generate.study_tables(),
            generate.cell_tables(),
            generate.repair_tables(),
            generate.repair_cell_tables(),
            generate.circuit_tables(),
            generate.rank_tables(),
            generate.other_tables(),
        )
        for name, columns in tables.items()
        for column in columns
        if not generate.meaning(name, column)
    ]
    assert unsaid == []


def test_measure_conflict_has_the_columns_that_the_page_says(generate: ModuleType) -> None:
    cell = generate.cell_tables()
    for name, columns, where in (
        ("agreement_states", ONE_STATE_COLUMNS, {"step"}),
        ("agreement_windows", SEVERAL_COLUMNS, {"start_step", "stop_step"}),
    ):
        left_out = {column.name for column in cell[name]} - {column.name for column in columns}
        assert left_out == {"stage", "reference"} | where
        assert set(columns) <= set(cell[name])


def test_a_run_has_the_tables_of_the_page_and_no_other(
    generate: ModuleType, small_run: Path
) -> None:
    run = Run.open(small_run / "runs" / "quickstart")
    study, cell = (
        # This run asks for no repair between its stages and for no heads, and its few probes not for movement.
        {
            name: columns
            for name, columns in tables.items()
            if not name.startswith(("stage_repair", "forgetting_head", "movement_over"))
        }
        for tables in (generate.study_tables(), generate.cell_tables())
    )
    assert set(run.tables()) == {*study, *cell} - {"loss_ledger", "agreement_states"}
    for name in run.tables():
        expected = {column.name for column in study.get(name) or cell[name]}
        assert {c.name for c in run.table(name).columns} - expected <= {"seed"}, name
        assert expected <= {c.name for c in run.table(name).columns}, name
    (one,) = run.cells()
    assert {name: one.table(name).columns for name in one.tables()} == cell


def test_readme_is_one_page() -> None:
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_a_page_without_its_marks_is_refused(generate: ModuleType) -> None:
    assert generate.between("a <!-- map -->old<!-- /map --> b", "map", "new") == (
        "a <!-- map -->\nnew\n<!-- /map --> b"
    )
    with pytest.raises(ValueError, match="<!-- map -->"):
        generate.between("no marks", "map", "new")
