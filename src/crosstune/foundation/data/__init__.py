"""Rows, tasks and tokens: disjoint train and test sides, labels that score each byte once, and toy languages.

A row is read by `sources`, put on a side by `splits`, and made into ids and labels by `tokens`, `packing` and `batches`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from
from crosstune.foundation.data.languages import MEANINGS, Language, parse_language
from crosstune.foundation.data.packing import pack
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.data.sources import read_rows, read_tasks
from crosstune.foundation.data.splits import Pool, large_rows, sample_warnings, split_tasks
from crosstune.foundation.data.task import Row, Task, as_rows, check_disjoint, check_enough
from crosstune.foundation.data.tokens import UNSCORED, Encoded, EncodingReport, encode

if TYPE_CHECKING:
    from crosstune.foundation.data.batches import collate

__all__ = [
    "Row",
    "Task",
    "TaskSettings",
    "as_rows",
    "check_disjoint",
    "check_enough",
    "read_rows",
    "read_tasks",
    "Pool",
    "split_tasks",
    "sample_warnings",
    "large_rows",
    "UNSCORED",
    "Encoded",
    "EncodingReport",
    "encode",
    "pack",
    "collate",
    "MEANINGS",
    "Language",
    "parse_language",
]

__getattr__ = _fetched_from(__name__, {"batches": "collate"})
