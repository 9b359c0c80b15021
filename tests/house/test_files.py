"""Every source file keeps the rules of the house; every rule is shown to see its violation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.house import sources

Rule = Callable[[str], list[str]]

RULES: list[Rule] = [
    sources.without_door_sign,
    sources.too_long,
    sources.too_wide,
    sources.swallowed,
    sources.pickles,
]

SIGN = '"""A sign."""\n'
PLANTED: dict[str, tuple[Rule, str]] = {
    "no docstring": (sources.without_door_sign, "x = 1\n"),
    "docstring below a comment": (sources.without_door_sign, "# licence\n" + SIGN),
    "blank first line": (sources.without_door_sign, '"""\nA sign.\n"""\n'),
    "601 lines": (sources.too_long, SIGN + "x = 1\n" * 600),
    "61-line function": (sources.too_long, SIGN + "def f():\n" + "    x = 1\n" * 60),
    "8 keyword-only": (sources.too_wide, SIGN + "def f(*, a, b, c, d, e, g, h, i): ..."),
    "8 with kwargs": (sources.too_wide, SIGN + "def f(a, b, c, d, e, g, *h, **i): ..."),
    "8 in a method": (sources.too_wide, SIGN + "class C:\n def f(self,a,b,c,d,e,g,h,i): ..."),
    "bare except": (sources.swallowed, SIGN + "try:\n    f()\nexcept:\n    raise"),
    "broad except": (sources.swallowed, SIGN + "try:\n    f()\nexcept Exception:\n    pass"),
    "pickle": (sources.pickles, SIGN + "from pickle import load"),
    "torch.load": (sources.pickles, SIGN + "torch.load(p)"),
    "unsafe torch.load": (sources.pickles, SIGN + "torch.load(p, weights_only=False)"),
    "print": (sources.prints, SIGN + "print('x')"),
    "a column by hand": (
        sources.columns_by_hand,
        SIGN + "Column('n', 'int64', 'value', 'A sentence.')",
    ),
}

KEPT: dict[str, tuple[Rule, str]] = {
    "600 lines": (sources.too_long, SIGN + "x = 1\n" * 599),
    "60-line function": (sources.too_long, SIGN + "def f():\n" + "    x = 1\n" * 59),
    "7 in a method": (sources.too_wide, SIGN + "class C:\n def f(self,a,b,c,d,e,g,h): ..."),
    "re-raised": (
        sources.swallowed,
        SIGN + "try:\n    f()\nexcept Exception as e:\n    raise E from e",
    ),
    "a method called print": (sources.prints, SIGN + "page.print('x')"),
}


def broken(rule: Rule, files: list[Path]) -> dict[str, list[str]]:
    """Each file that breaks the rule, with the rule's complaints."""
    read = {sources.label(path): path.read_text(encoding="utf-8") for path in files}
    return {name: complaints for name, text in read.items() if (complaints := rule(text))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    assert broken(rule, sources.modules()) == {}


def test_only_the_command_line_prints() -> None:
    door = sources.PACKAGE / "cli"
    silent = [path for path in sources.modules() if not path.is_relative_to(door)]
    assert broken(sources.prints, silent) == {}


def test_columns_are_made_by_their_roles() -> None:
    table = sources.PACKAGE / "foundation" / "records" / "table.py"
    files = [*sources.modules(), *(sources.CHECKOUT / "examples").rglob("*.py")]
    assert broken(sources.columns_by_hand, [path for path in files if path != table]) == {}


def test_no_file_is_a_drawer() -> None:
    found = {
        sources.label(path): complaints
        for folder in (sources.PACKAGE, sources.TESTS)
        for path in folder.rglob("*.py")
        if (complaints := sources.badly_named(path.relative_to(folder)))
    }
    assert found == {}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_violation_is_seen(name: str) -> None:
    rule, text = PLANTED[name]
    assert rule(text) != []


@pytest.mark.parametrize("name", KEPT)
def test_what_keeps_the_rule_passes(name: str) -> None:
    rule, text = KEPT[name]
    assert rule(text) == []


@pytest.mark.parametrize(
    "name", ["utils.py", "data/text_utils.py", "common/x.py", "base.py", "run_manager.py"]
)
def test_a_planted_drawer_is_seen(name: str) -> None:
    assert sources.badly_named(Path(name)) != []
