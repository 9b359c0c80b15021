"""Rooms stay rooms: so many modules a folder, so many lines a module and a room, and one type to a name."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from tests.house import sources

MOST_MODULES = 14
FEWEST_LINES = 60
FACES = {"__init__.py", "__main__.py", "api.py", "study.py"}

# A module below 60 lines that is no face, and why it stands alone.
SMALL = {
    "foundation/seeds.py": "a floor of its own",
    "foundation/records/sites.py": "the only module of records that knows models",
    "foundation/training/adapters.py": "the only module that loads peft",
    "circuits/capture/labels.py": "one kind of randomness, beside none of the others",
    "merging/optimise/margin.py": "one rule of statistics, apart from the machinery of the search",
    "studies/frame/plan.py": "read by the command line, which loads no torch",
}

# A type name that is defined in two rooms, and why no other name is better; at most eight.
TWICE = {
    "Prepared": "what each study shares between its cells; a study knows its own only",
    "Repair": "what `repair` returns, and the study that asks for it",
    "Estimate": "a value with its interval, and at the face of circuits what a measurement costs",
}

# Lines of a room, docstrings included. More needs a decision (docs/decisions), and then another number here.
FRAMED = tuple(f"studies/{name}/" for name in ("frame", "conflict", "circuits", "repair"))
BUDGETS: dict[tuple[str, ...], int] = {
    ("foundation/",): 12_500,
    ("interference/",): 6_000,
    ("circuits/",): 6_000,
    ("merging/",): 7_000,
    ("experts/", "studies/skills/"): 4_360,  # docs/decisions/0009
    ("distillation/", "studies/distill/"): 4_350,  # docs/decisions/0010
    ("wiring/", "studies/wire/"): 3_200,
    ("report/",): 3_500,
    ("cli/",): 600,
    FRAMED: 6_600,  # docs/decisions/0007
}
A_STUDY = 900


def crowded(files: Iterable[str]) -> list[str]:
    """Folders with more than 14 modules; faces do not count."""
    paths = [PurePosixPath(file) for file in files]
    counts = Counter(str(path.parent) for path in paths if path.name not in FACES)
    return [f"{folder}: {count}" for folder, count in counts.items() if count > MOST_MODULES]


def too_small(lines: Mapping[str, int]) -> list[str]:
    """Modules that are neither long enough for one nor a face."""
    return [
        file
        for file, count in lines.items()
        if count < FEWEST_LINES and PurePosixPath(file).name not in FACES
    ]


def over_budget(lines: Mapping[str, int]) -> list[str]:
    """Rooms with more lines than theirs; a study without a budget of its own has that of a new one."""
    folders = {"/".join(PurePosixPath(file).parts[:2]) + "/" for file in lines}
    new = {
        (folder,): A_STUDY
        for folder in sorted(folders)
        if folder.startswith("studies/") and not folder.endswith(".py/")
        if not any(folder in rooms for rooms in BUDGETS)
    }
    sums = {
        rooms: (sum(count for file, count in lines.items() if file.startswith(rooms)), budget)
        for rooms, budget in {**BUDGETS, **new}.items()
    }
    return [
        f"{', '.join(rooms)}: {count} lines of {budget}"
        for rooms, (count, budget) in sums.items()
        if count > budget
    ]


def named_twice(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of types that several modules define, private ones too, with the modules."""
    found = defaultdict(list)
    for file, text in texts.items():
        for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
            found[name].append(file)
    return {name: files for name, files in found.items() if len(files) > 1}


def read() -> dict[str, str]:
    return {
        path.relative_to(sources.PACKAGE).as_posix(): path.read_text(encoding="utf-8")
        for path in sources.modules()
    }


def lines_of(texts: Mapping[str, str]) -> dict[str, int]:
    return {file: len(text.splitlines()) for file, text in texts.items()}


def test_no_folder_is_crowded() -> None:
    assert crowded(read()) == []


def test_no_module_is_too_small_to_be_one() -> None:
    assert sorted(too_small(lines_of(read()))) == sorted(SMALL)


def test_rooms_keep_their_budgets() -> None:
    assert over_budget(lines_of(read())) == []


def test_a_type_name_is_defined_once() -> None:
    assert len(TWICE) <= 8
    found = named_twice(read())
    assert {name: files for name, files in found.items() if name not in TWICE} == {}
    assert sorted(TWICE.keys() - found) == [], "a reason for a name that is defined once"


def test_planted_violations_are_seen() -> None:
    room = [f"report/m{number}.py" for number in range(MOST_MODULES)]
    assert crowded([*room, "report/__init__.py"]) == []
    assert crowded([*room, "report/one_more.py"]) == ["report: 15"]
    assert too_small({"a/b.py": 59, "a/c.py": 60, "a/__init__.py": 1}) == ["a/b.py"]
    assert over_budget({"report/a.py": 3500, "studies/catalogue.py": 999}) == []
    assert over_budget({"report/a.py": 3450, "report/b.py": 51}) == ["report/: 3501 lines of 3500"]
    assert over_budget({"studies/new/a.py": 901}) == ["studies/new/: 901 lines of 900"]
    planted = {"a.py": "class X:\n    class Y: ...\n", "b.py": "class X(Y): ...\nclass Z: ...\n"}
    assert named_twice(planted) == {"X": ["a.py", "b.py"]}
