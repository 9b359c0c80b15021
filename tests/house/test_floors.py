"""The floors of the house hold, and the contracts see it when they do not.

The contracts stand in pyproject.toml; here they run once on the real package and, for each way to break
them, on a skeleton with the same rooms and one smuggled import.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from tests.house.sources import CHECKOUT, PACKAGE

CONFIGURATION = CHECKOUT / "pyproject.toml"
LINTER = Path(sys.executable).with_name("lint-imports")

LAZY = "def f() -> None:\n    from {} import x\n"
TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {} import x\n"
PLAIN = "from {} import x\n"

# (file, import) -> what a reader would call it
SMUGGLED = {
    "up": ("foundation/data/__init__.py", PLAIN.format("crosstune.cli")),
    "up, only for types": ("foundation/data/__init__.py", TYPED.format("crosstune.interference")),
    "up, inside a function": ("interference/__init__.py", LAZY.format("crosstune.studies")),
    "sideways between wings": ("interference/__init__.py", PLAIN.format("crosstune.report")),
    "up in the foundation": ("foundation/records/__init__.py", PLAIN.format("crosstune.foundation.training")),
    "sideways in the foundation": ("foundation/data/__init__.py", PLAIN.format("crosstune.foundation.records")),
    "a circle between files": ("report/first.py", PLAIN.format("crosstune.report.second")),
    "a room without a floor": ("attic/__init__.py", ""),
    "a room without a floor in the foundation": ("foundation/cellar/__init__.py", ""),
}  # fmt: skip


def rooms(*, planned: bool) -> set[str]:
    """The rooms of the layer contracts as paths; those in parentheses where `planned`."""
    contracts = tomllib.loads(CONFIGURATION.read_text())["tool"]["importlinter"]["contracts"]
    found = set()
    for contract in contracts:
        for container in contract.get("containers", []):
            inside = "/".join(container.split(".")[1:])
            for name in re.split(r"\s*\|\s*", " | ".join(contract["layers"])):
                if name.startswith("(") == planned:
                    found.add(f"{inside}/{name.strip('()')}".lstrip("/"))
    return found


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--config", str(CONFIGURATION), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """A package with every built room and nothing in it but two strangers in `report`."""
    for room in {"", *rooms(planned=False)}:
        (tmp_path / "crosstune" / room).mkdir(parents=True, exist_ok=True)
        (tmp_path / "crosstune" / room / "__init__.py").write_text("x = 1\n")
    for name in ("first", "second"):
        (tmp_path / "crosstune" / "report" / f"{name}.py").write_text("x = 1\n")
    (tmp_path / "crosstune/report/second.py").write_text("from crosstune.report.first import x\n")
    return tmp_path


def test_the_floors_hold() -> None:
    done = lint(PACKAGE.parent)
    assert done.returncode == 0, done.stdout


def test_planned_rooms_are_not_built_and_built_rooms_are_not_planned() -> None:
    planned = rooms(planned=True)
    assert planned >= {"experts", "distillation", "wiring", "auditing"} - rooms(planned=False)
    assert [room for room in planned if (PACKAGE / room).exists()] == []


def test_an_empty_skeleton_keeps_the_contracts(skeleton: Path) -> None:
    done = lint(skeleton)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("way", SMUGGLED)
def test_a_smuggled_import_is_seen(skeleton: Path, way: str) -> None:
    file, text = SMUGGLED[way]
    target = skeleton / "crosstune" / file
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)
    done = lint(skeleton)
    assert done.returncode == 1, done.stdout
    assert "BROKEN" in done.stdout or "not listed as layers" in done.stdout.replace("\n", " ")
