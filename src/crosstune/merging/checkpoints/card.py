"""The model card of a repaired model: that of `after` with a section, or a new one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crosstune.merging.checkpoints.endpoints import Parent

_START, _END = "<!-- crosstune repair -->", "<!-- end of crosstune repair -->"


def card_of(parents: Sequence[Parent], text: str, *, kind: str) -> str:
    """The card's Markdown; a section of an earlier repair gives way to the new one.

    Args:
        parents: Where the weights come from; the folder of ``after`` may have a card of its own.
        kind: ``full``, ``lora``, or ``merged``: no adapter any more, so the adapter's card is not its card.
    """
    existing = (None if kind == "merged" else _existing(parents)) or _front(kind)
    kept = existing
    if _START in kept and _END in kept:
        kept = kept.partition(_START)[0] + kept.partition(_END)[2]
    return f"{kept.rstrip()}\n\n{_section(parents, text)}\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, also inside a table's cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _existing(parents: Sequence[Parent]) -> str | None:
    after = next(parent for parent in parents if parent.role == "after")
    card = Path(after.source) / "README.md"
    return card.read_text(encoding="utf-8") if card.is_file() else None


def _front(kind: str) -> str:
    library = "peft" if kind == "lora" else "transformers"
    return (
        f"---\nlibrary_name: {library}\npipeline_tag: text-generation\n"
        "tags:\n- crosstune\n- repair\n---\n\n# Repaired language model"
    )


def _section(parents: Sequence[Parent], text: str) -> str:
    rows = [
        f"| {escape(parent.role)} | {escape(parent.source)} | `{parent.fingerprint}` |"
        for parent in parents
    ]
    shown = text.replace("<", "&lt;").strip()
    lines = [
        _START,
        "## Repair",
        "",
        "These weights lie between those of the models below, without further training. The coefficients and "
        "what was measured are in `repair.json`.",
        "",
        "| part | model | fingerprint of the weights |",
        "| --- | --- | --- |",
        *rows,
        *(["", shown] if shown else []),
        _END,
    ]
    return "\n".join(lines)
