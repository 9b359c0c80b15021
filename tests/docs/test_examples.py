"""Every example in README and docs runs, or at least compiles; every command line parses; links lead somewhere."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.docs.given import given
from tests.docs.markdown import CHECKOUT, Block, blocks, blocks_of, command_lines, pages

from crosstune.cli import main
from crosstune.foundation.errors import SettingsError

PYTHON = [block for block in blocks() if "python" in block.words]
RUNNABLE = [block for block in PYTHON if "runnable" in block.words]
COMMANDS = [
    (block.place, words) for block in blocks() for words in command_lines(block, "crosstune")
]
build_parser = functools.cache(main.build_parser)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)(?P<target>[^)#\s]+)")


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_an_example_compiles(block: Block) -> None:
    assert compile(block.code, block.place, "exec") is not None


def run_example(block: Block, names: Mapping[str, object] | None = None) -> None:
    """Run the block in the current folder, with names it may take as given."""
    exec(compile(block.code, block.place, "exec"), {"__name__": "example", **(names or {})})


@pytest.mark.parametrize(
    "block", [b for b in RUNNABLE if "run" not in b.words], ids=lambda block: block.place
)
def test_a_runnable_example_runs(
    block: Block, tmp_path: Path, given_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example(block, given(given_model) if "given" in block.words else None)


def test_examples_on_a_run_folder_run(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small_run)
    on_a_run = [block for block in RUNNABLE if "run" in block.words]
    assert on_a_run != []
    for block in on_a_run:
        run_example(block)


@pytest.mark.parametrize(
    ("place", "words"), COMMANDS, ids=[" ".join(words[:2]) for _, words in COMMANDS]
)
def test_a_documented_command_line_parses(
    place: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(main, "build_parser", build_parser)
    monkeypatch.setattr(main, "_dispatch", lambda arguments, given, study: 0)
    assert main._command(words, main._outside(words)) == 0, place


def test_a_planted_command_line_is_refused() -> None:
    with pytest.raises(SettingsError, match="no_such_key"):
        main._command(["run", "conflict", "--no_such_key", "1"], None)


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
