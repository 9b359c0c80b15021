"""The page of doors and the rooms' faces name the same things."""

from __future__ import annotations

import ast
import re

from tests.docs.markdown import CHECKOUT

PACKAGE = CHECKOUT / "src" / "crosstune"
PAGE = (CHECKOUT / "docs" / "doors.md").read_text(encoding="utf-8")
WORD = re.compile(r"[A-Za-z_]\w*")
# Words in backticks that are no names of the code.
SPOKEN = {"L0", "L2", "L4"}


def public_names() -> set[str]:
    """What stands in the `__all__` of any face."""
    return {
        name
        for face in PACKAGE.rglob("__init__.py")
        for node in ast.parse(face.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    }


def test_every_public_name_stands_on_the_page() -> None:
    assert len(public_names()) > 50
    assert sorted(public_names() - set(WORD.findall(PAGE)) - {"__version__"}) == []


def test_every_name_on_the_page_is_a_word_of_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    files = {path.stem for path in PACKAGE.rglob("*.py")}
    named = {word for quoted in re.findall(r"`([^`]+)`", PAGE) for word in WORD.findall(quoted)}
    assert sorted(named - set(WORD.findall(code)) - files - SPOKEN) == []
