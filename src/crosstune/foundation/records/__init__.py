"""Numbers that are never alone: a Measurement has its interval, a Table its roles, a Run its folder."""

from __future__ import annotations

from crosstune.foundation.records.measurement import Measurement
from crosstune.foundation.records.run import Run
from crosstune.foundation.records.table import Column, Table

__all__ = ["Column", "Measurement", "Run", "Table"]
