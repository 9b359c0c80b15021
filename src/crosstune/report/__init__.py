"""Reads a run folder and shows it: one offline HTML page, files of its figures and tables, a terminal summary.

It knows no wing: what is said and drawn stands in the folder's ``page.json``, and how is read off the roles of
the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crosstune.report.drawing import draw
    from crosstune.report.terminal import summary

__all__ = ["draw", "summary"]


def __getattr__(name: str) -> Any:
    if name == "draw":
        from crosstune.report.drawing import draw

        return draw
    if name == "summary":
        from crosstune.report.terminal import summary

        return summary
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
