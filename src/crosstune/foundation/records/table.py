"""Typed Arrow columns that carry a role, so that a page can be drawn by whoever knows only the roles."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet

from crosstune.foundation.errors import MeasurementError, StorageError
from crosstune.foundation.storage import atomic_write

if TYPE_CHECKING:
    import pandas

Kind = Literal["string", "int64", "float64", "bool"]
Role = Literal["axis", "value", "low", "high", "mask", "chance", "label"]

_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
}
_FIELD, _TABLE, _NOTE = b"crosstune.column", b"crosstune.table", b"crosstune.note"


@dataclass(frozen=True)
class Column:
    """What one column of a table holds; made by the constructors below, one for each role.

    Attributes:
        name: Its name.
        kind: The type of its cells.
        role: How a reader should take it: an axis places a row, a value was measured there, low and high
            bound a value, a mask says whether a value may be read (true: it may), chance is what an
            uninformed answer would be, a label is text or a count that goes with the row.
        unit: The unit, empty for pure numbers.
        of: The value column that a low, high, mask or chance column belongs to.
        about: One sentence for the reader.
    """

    name: str
    kind: Kind
    role: Role
    unit: str = ""
    of: str = ""
    about: str = ""

    @classmethod
    def axis(cls, name: str, kind: Kind = "string", *, unit: str = "", about: str = "") -> Column:
        """A column that places a row."""
        return cls(name, kind, "axis", unit, "", about)

    @classmethod
    def label(cls, name: str, kind: Kind = "string", *, unit: str = "", about: str = "") -> Column:
        """A column of text or counts that go with a row."""
        return cls(name, kind, "label", unit, "", about)

    @classmethod
    def value(cls, name: str, kind: Kind = "float64", *, unit: str = "", about: str = "") -> Column:
        """A column of what was measured."""
        return cls(name, kind, "value", unit, "", about)

    @classmethod
    def bounds(
        cls, of: str, *, unit: str = "", about: str = "", names: tuple[str, str] | None = None
    ) -> tuple[Column, Column]:
        """The two columns of an interval's bounds, `<of>_low` and `<of>_high` unless named otherwise."""
        low, high = names or (f"{of}_low", f"{of}_high")
        return (
            cls(low, "float64", "low", unit, of, about),
            cls(high, "float64", "high", unit, of, about),
        )

    @classmethod
    def interval(
        cls,
        name: str,
        *,
        unit: str = "",
        about: str = "",
        bounds: str = "",
        names: tuple[str, str] | None = None,
    ) -> tuple[Column, Column, Column]:
        """A column of values and the two of their bounds; `bounds` says how these were found."""
        value = cls.value(name, unit=unit, about=about)
        return (value, *cls.bounds(name, unit=unit, about=bounds, names=names))

    @classmethod
    def chance(cls, name: str, *, of: str, unit: str = "", about: str = "") -> Column:
        """A column of what an uninformed answer would be."""
        return cls(name, "float64", "chance", unit, of, about)

    @classmethod
    def mask(cls, name: str, *, of: str, about: str = "") -> Column:
        """A column that says whether a value may be read."""
        return cls(name, "bool", "mask", "", of, about)

    def _field(self) -> pa.Field:
        notes = {"role": self.role, "unit": self.unit, "of": self.of, "about": self.about}
        return pa.field(self.name, _ARROW[self.kind], metadata={_FIELD: json.dumps(notes).encode()})


class Table:
    """Rows under typed columns with roles.

    Args:
        name: The table's name, also its file's.
        columns: What the columns hold.
        rows: One mapping a row; every column must be there, and no other. None in a float column is NaN.
        note: What a reader must know of all rows; stands under the table where it is printed.

    Raises:
        MeasurementError: A row lacks a column, has an unknown one, or a value of another type.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[Column],
        rows: Iterable[Mapping[str, Any]] = (),
        *,
        note: str = "",
    ) -> None:
        names = [column.name for column in columns]
        _check_columns(name, columns, names)
        cells: dict[str, list[Any]] = {column: [] for column in names}
        for index, row in enumerate(rows):
            if set(row) != set(names):
                raise MeasurementError(
                    f"{name}, row {index}",
                    law=f"must have exactly the columns {', '.join(names)}",
                    found=", ".join(sorted(set(row) ^ set(names))) + " missing or unknown",
                    remedy="Write NaN for what was not measured.",
                )
            for column in columns:
                value = row[column.name]
                is_missing = value is None and column.kind == "float64"
                cells[column.name].append(math.nan if is_missing else value)
        about = {_TABLE: name.encode(), **({_NOTE: note.encode()} if note else {})}
        schema = pa.schema([column._field() for column in columns], about)
        try:
            self.arrow = pa.Table.from_pydict(cells, schema=schema)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise MeasurementError(
                name,
                law="must have cells of the columns' types",
                found=str(error),
                remedy="Convert tensors with `.item()` or `.tolist()`.",
            ) from error

    @classmethod
    def of_tuples(
        cls, name: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]]
    ) -> Table:
        """A table of rows that are given in the order of the columns."""
        names = [column.name for column in columns]
        return cls(name, columns, (dict(zip(names, row, strict=True)) for row in rows))

    @classmethod
    def _of_arrow(cls, arrow: pa.Table) -> Table:
        table = cls.__new__(cls)
        table.arrow = arrow
        return table

    @property
    def name(self) -> str:
        """The table's name."""
        return str((self.arrow.schema.metadata or {})[_TABLE].decode())

    @property
    def note(self) -> str:
        """What a reader must know of all rows, or nothing."""
        return str((self.arrow.schema.metadata or {}).get(_NOTE, b"").decode())

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """What the columns hold; read once, since a table does not change."""
        kinds: dict[pa.DataType, Kind] = {
            pa.string(): "string",
            pa.int64(): "int64",
            pa.float64(): "float64",
            pa.bool_(): "bool",
        }
        return tuple(
            Column(field.name, kinds[field.type], **json.loads(field.metadata[_FIELD]))
            for field in self.arrow.schema
        )

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def __repr__(self) -> str:
        return f"Table({self.name!r}, {len(self)} rows: {', '.join(self.arrow.column_names)})"

    def __str__(self) -> str:
        return self.markdown(limit=20)

    def rows(self) -> list[dict[str, Any]]:
        """One dict a row."""
        return list(self.arrow.to_pylist())

    def column(self, name: str) -> list[Any]:
        """The cells of a column, top to bottom.

        Args:
            name: The column.

        Returns:
            Plain values.
        """
        return list(self.arrow.column(name).to_pylist())

    def with_role(self, role: Role) -> tuple[Column, ...]:
        """The columns of a role.

        Args:
            role: The role.

        Returns:
            Them, left to right.
        """
        return tuple(column for column in self.columns if column.role == role)

    def to_pandas(self) -> pandas.DataFrame:
        """The same table as a pandas DataFrame (roles stay behind)."""
        return self.arrow.to_pandas()

    def where(self, **equal: Any) -> Table:
        """The rows whose cells equal the given values.

        Args:
            equal: Column name to value.

        Returns:
            A table of the same columns.

        Raises:
            MeasurementError: There is no such column.
        """
        keep = [True] * len(self)
        for name, value in equal.items():
            if name not in self.arrow.column_names:
                raise MeasurementError(
                    name,
                    law=f"must be a column of the table {self.name!r}",
                    found="no such column",
                    remedy=f"Its columns are {', '.join(self.arrow.column_names)}.",
                )
            keep = [
                old and cell == value for old, cell in zip(keep, self.column(name), strict=True)
            ]
        return Table._of_arrow(self.arrow.filter(pa.array(keep, pa.bool_())))

    def with_columns(self, constants: Mapping[Column, Any]) -> Table:
        """The table with constant columns put in front.

        Args:
            constants: New column to the value of all its cells.

        Returns:
            The wider table.
        """
        rows = [
            {**{column.name: value for column, value in constants.items()}, **row}
            for row in self.rows()
        ]
        return Table(self.name, (*constants, *self.columns), rows, note=self.note)

    @staticmethod
    def concat(tables: Sequence[Table]) -> Table:
        """All rows of tables that have the same columns.

        Args:
            tables: At least one table.

        Returns:
            One table under the first one's name.

        Raises:
            MeasurementError: No table was given, or their columns differ.
        """
        if not tables or any(table.columns != tables[0].columns for table in tables):
            raise MeasurementError(
                "tables",
                law="must be at least one table, all with the same columns",
                found=f"{len(tables)} tables: {'; '.join(map(repr, tables))}",
                remedy="Concatenate what one version wrote under one name.",
            )
        return Table._of_arrow(pa.concat_tables([table.arrow for table in tables]))

    def write(self, path: Path | str) -> None:
        """Write the table as Parquet, whole or not at all.

        Args:
            path: The file.
        """
        with atomic_write(path) as temporary:
            pa_parquet.write_table(self.arrow, temporary)

    @staticmethod
    def read(path: Path | str) -> Table:
        """The table of a Parquet file that `write` made.

        Args:
            path: The file.

        Returns:
            An equal table.

        Raises:
            StorageError: The file is missing, broken, or has no roles.
        """
        found = "Parquet without column roles"
        try:
            arrow = pa_parquet.read_table(path)
            if _TABLE in (arrow.schema.metadata or {}):
                return Table._of_arrow(arrow)
        except (OSError, pa.ArrowInvalid) as error:
            found = f"{type(error).__name__}: {error}"
        raise StorageError(
            str(path),
            law="must be a Parquet file written by a Crosstune table",
            found=found,
            remedy="Point to a file under `tables/` of a run folder.",
        )

    def csv(self) -> str:
        """The table as CSV text with a header; NaN is written as `nan`."""
        sink = io.BytesIO()
        pa_csv.write_csv(self.arrow, sink)
        return sink.getvalue().decode("utf-8")

    def markdown(self, limit: int | None = None) -> str:
        """The table as a Markdown table.

        Args:
            limit: The most rows to show; what is left out is said.

        Returns:
            Text that ends with a newline; `|` in cells is escaped and unmeasured cells say so.
        """
        names = self.arrow.column_names
        shown = self.rows() if limit is None else self.arrow.slice(0, limit).to_pylist()
        lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
        lines += [f"| {' | '.join(_cell(row[name]) for name in names)} |" for row in shown]
        if len(shown) < len(self):
            lines.append(f"\n… and {len(self) - len(shown)} more rows")
        if self.note:
            lines.append(f"\n{self.note}")
        return "\n".join(lines) + "\n"


def _check_columns(table: str, columns: Sequence[Column], names: list[str]) -> None:
    for column in columns:
        needs_owner = column.role in ("low", "high", "mask", "chance")
        if names.count(column.name) > 1 or (needs_owner and column.of not in names):
            raise MeasurementError(
                f"{table}.{column.name}",
                law="must be named once and, as low, high, mask or chance, be `of` a column of the table",
                found=f"{names.count(column.name)} times, of {column.of!r}",
                remedy="Name the value column in `of`.",
            )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
