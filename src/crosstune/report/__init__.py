"""Reads a run folder and shows it: one offline HTML page, files of its figures and tables, a terminal summary.

It knows no wing: what is said and drawn stands in the folder's ``page.json``, and how is read off the roles of
the columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.report.drawing import draw
    from crosstune.report.terminal import summary

__all__ = ["draw", "summary"]

__getattr__ = _fetched_from(__name__, {"drawing": "draw", "terminal": "summary"})
