"""The model card: the parent's with one section about the repair, and no text of a user's that renders as more."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosstune.merging.checkpoints.endpoints import Parent
from crosstune.merging.checkpoints.saving import card_of, escape


def parents(after: str) -> tuple[Parent, ...]:
    return (Parent("before", "a|b <i>", "0" * 16), Parent("after", after, "1" * 16))


@pytest.mark.parametrize(
    ("kind", "library"), [("full", "transformers"), ("merged", "transformers"), ("lora", "peft")]
)
def test_a_new_card_says_what_library_reads_it(kind: str, library: str) -> None:
    card = card_of(parents("model in memory"), "Won back.", kind=kind)
    assert card.startswith(f"---\nlibrary_name: {library}\n") and "Won back." in card


def test_the_parents_card_is_kept_and_the_section_comes_once(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("---\nlicense: mit\n---\n# Mine\n", encoding="utf-8")
    first = card_of(parents(str(tmp_path)), "First.", kind="full")
    assert first.startswith("---\nlicense: mit\n---\n# Mine\n\n") and "First." in first
    file.write_text(first + "\nMore of mine.\n", encoding="utf-8")
    second = card_of(parents(str(tmp_path)), "Second.", kind="full")
    assert "First." not in second and "Second." in second and second.count("## Repair") == 1
    assert "# Mine" in second and "More of mine." in second


def test_an_adapters_card_is_not_that_of_merged_weights(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n", encoding="utf-8")
    assert "library_name: transformers" in card_of(parents(str(tmp_path)), "", kind="merged")


def test_text_shows_as_it_is() -> None:
    card = card_of(parents("x"), "bn <script>", kind="full")
    assert "| before | a\\|b &lt;i&gt; | `0000000000000000` |" in card and "<script" not in card
    assert escape("a_b *c*\n[d](e)") == "a\\_b \\*c\\* \\[d\\](e)"
    assert escape("`#` & \\") == "\\`\\#\\` &amp; \\\\"
