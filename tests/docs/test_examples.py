"""Every example in README and docs runs, or at least compiles; every command line parses; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.docs.markdown import CHECKOUT, Block, blocks, blocks_of, command_lines, pages

PYTHON = [block for block in blocks() if "python" in block.words]
COMMANDS = [
    (block.place, words) for block in blocks() for words in command_lines(block, "crosstune")
]
LINK = re.compile(r"\]\((?!https?:|#|mailto:)(?P<target>[^)#\s]+)")


def parser_error(words: list[str]) -> str:
    """What the command line's own parser says against the words; empty where it takes them."""
    program = "import sys; from crosstune.cli.main import build_parser; build_parser().parse_args(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr or f"exit {done.returncode}"


needs_parser = pytest.mark.skipif(
    find_spec("crosstune.cli") is None or not (CHECKOUT / "src/crosstune/cli/main.py").is_file(),
    reason="the command line is not built yet",
)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_an_example_compiles(block: Block) -> None:
    assert compile(block.code, block.place, "exec") is not None


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_a_runnable_example_runs(block: Block, tmp_path: Path) -> None:
    if "runnable" not in block.words:
        pytest.skip("needs a model and data of the reader's own; compiled in the test above")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_parser
@pytest.mark.parametrize(
    ("place", "words"), COMMANDS, ids=[" ".join(words[:2]) for _, words in COMMANDS]
)
def test_a_documented_command_line_parses(place: str, words: list[str]) -> None:
    assert parser_error(words) == "", place


@needs_parser
def test_a_planted_command_line_is_refused() -> None:
    assert parser_error(["run", "conflict", "--no_such_key", "1"]) != ""


def test_every_link_inside_the_checkout_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(CHECKOUT)}: {match['target']}"
        for page in pages()
        for match in LINK.finditer(page.read_text(encoding="utf-8"))
        if not (page.parent / match["target"]).exists()
    ]
    assert broken == []


def test_blocks_are_read_with_their_words_and_places() -> None:
    text = "Text\n\n```python runnable\nx = 1\n```\n\n```bash\n$ crosstune run conflict \\\n  --seeds 1  # one\nmake\n```\n"
    first, second = blocks_of(text, "page.md")
    assert (first.words, first.code, first.place) == (
        ("python", "runnable"),
        "x = 1\n",
        "page.md:3",
    )
    assert list(command_lines(second, "crosstune")) == [["run", "conflict", "--seeds", "1"]]
    assert list(command_lines(first, "crosstune")) == []
