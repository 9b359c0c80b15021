"""A study in a file of the user's own is found by its path, run beside its neighbours, killed and gone on with."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.processes import forked_pool
from tests.studies.frame import tiny_study

from crosstune.cli.main import main
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.records import Run
from crosstune.studies.frame import procedure, processes
from crosstune.studies.frame.loading import load_procedure

FILE = Path(tiny_study.__file__)
OWN = """
from counting.tiny_study import Tiny, TinySettings

class Counting(Tiny):
    kind = "counting"
"""


def in_a_package(folder: Path) -> Path:
    """A study that imports its neighbour, in a package."""
    (folder / "counting").mkdir()
    (folder / "counting" / "__init__.py").touch()
    shutil.copy(FILE, folder / "counting" / "tiny_study.py")
    (folder / "counting" / "study.py").write_text(OWN, encoding="utf-8")
    return folder / "counting" / "study.py"


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procedure.report, "draw", lambda run: None)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules and paths that a test loads are gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("study_tiny_study", "counting", "counting.study", "counting.tiny_study"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, name)


def test_a_name_in_a_module_is_found() -> None:
    place = "crosstune.studies.conflict.study:Conflict"
    assert load_procedure(place).where() == place


def test_a_file_is_loaded_once_and_found_again_by_its_path() -> None:
    found = load_procedure(str(FILE))
    assert found is not tiny_study.Tiny
    assert found.where() == str(FILE)
    assert load_procedure(found.where()) is found


@pytest.mark.slow
@pytest.mark.parametrize(("packaged", "workers"), [(False, 1), (True, 1), (False, 2), (True, 2)])
def test_a_study_runs_by_its_path(
    packaged: bool,
    workers: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if packaged:
        # The other one has spawned workers, as users have.
        monkeypatch.setattr(processes, "ProcessPoolExecutor", forked_pool)
        file = in_a_package(tmp_path)
    else:  # a folder that Python does not know, so that a worker can only find it by its path
        file = Path(shutil.copy(FILE, tmp_path / "tiny_study.py"))
    words = [f"--output={tmp_path / 'run'}", "--seeds=[0,1]", f"--workers={workers}"]
    assert main(["run", str(file), *words]) == 0
    assert "Counting" in capsys.readouterr().out
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert run.kind == ("counting" if packaged else "tiny")
    assert run.table("counts").column("count") == [11, 21, 31, 12, 22, 32]


def test_a_study_killed_between_phases_goes_on_from_there(tmp_path: Path) -> None:
    words = ["run", str(FILE), f"--output={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "crosstune.cli.main", *words, "--dies=1"]
    child = subprocess.run(command, check=False, capture_output=True, cwd=tmp_path)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert not Run.open(tmp_path / "run").finished
    assert main(words) == 0
    (cell,) = Run.open(tmp_path / "run").cells()
    done = [(event["part"], event["attempt"]) for event in cell.events("part finished")]
    assert done == [(0, 1), (1, 2), (2, 2)]
    assert cell.table("counts").column("count") == [11, 21, 31]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "found 0 in"),
        ("from tests.studies.frame.tiny_study import Tiny\n", "found 0 in"),
        (
            OWN.replace("counting.", "tests.studies.frame.")
            + "class Other(Counting):\n    kind = 'o'\n",
            "found 2 in",
        ),
        (None, "found no file"),
    ],
    ids=["nothing", "only imported", "two", "no file"],
)
def test_a_file_without_one_study_is_refused(
    text: str | None, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "odd_study.py"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=found) as caught:
        load_procedure(str(file))
    assert caught.value.argument == "study"
    assert main(["run", str(file)]) == 2
    assert found in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(:\n", "SyntaxError in"),
        ("import nothing_of_this_name\n", "nothing_of_this_name"),
        (
            OWN.replace("counting.", "tests.studies.frame.").split("    kind")[0] + "    pass\n",
            None,
        ),
        (
            "from crosstune.studies.frame import Procedure\n\nclass P(Procedure):\n    kind = 'p'\n",
            "must say its `question`",
        ),
    ],
    ids=["syntax", "import", "whole", "half"],
)
def test_a_file_says_what_it_lacks(text: str, found: str | None, tmp_path: Path) -> None:
    file = tmp_path / "half_study.py"
    file.write_text(text, encoding="utf-8")
    if found is None:
        assert load_procedure(str(file)).kind == "tiny"
        return
    with pytest.raises(SettingsError, match=found):
        load_procedure(str(file))


def test_cells_of_other_code_are_no_figures_of_this_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = FILE.read_text(encoding="utf-8")
    words = [f"--output={tmp_path / 'run'}", "--seeds=[0]"]

    def run(name: str, text: str) -> int:
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return main(["run", str(file), *words])

    assert run("first.py", text) == 0
    shown = text.replace("def page(self", "def page(self").replace("Counting", "Counted")
    assert shown != text and run("shown.py", shown) == 0
    assert run("commented.py", text.replace("# it would", "# Really, it would")) == 0
    capsys.readouterr()
    assert run("changed.py", text.replace("(part + 1) *", "(part + 2) *")) == 2
    assert "other code" in capsys.readouterr().err
    assert Run.open(tmp_path / "run").table("counts").column("count") == [11, 21, 31]


def test_a_package_of_the_same_name_is_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    first, second = (in_a_package(tmp_path / name) for name in ("one", "other"))
    assert load_procedure(str(first)).where() == str(first)
    with pytest.raises(SettingsError, match="another package `counting`"):
        load_procedure(str(second))


def test_a_file_that_was_mended_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "mended_study.py"
    file.write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        load_procedure(str(file))
    file.write_text(OWN.replace("counting.", "tests.studies.frame."), encoding="utf-8")
    assert load_procedure(str(file)).kind == "counting"
