"""Rows from wherever they are: hub id, JSONL, CSV, Parquet, text file or toy language."""

from __future__ import annotations

import csv
import difflib
import io
import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from crosstune.foundation.data.languages import PREFIX, parse_language
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.data.splits import Pool, split_tasks
from crosstune.foundation.data.task import Row, Task, named
from crosstune.foundation.errors import DataError

TOY_ROWS = 2000

_Record = Mapping[str, Any]
_Located = tuple[str, _Record]  # where the record stands, for error messages and for ids


def read_tasks(
    settings: Sequence[TaskSettings], *, test_share: float, samples: int | None, seed: int
) -> list[Task]:
    """All tasks of a run, read and split together.

    Args:
        settings: One entry per task.
        test_share: The share of groups that become test rows where the user has not made the split.
        samples: At most this many training rows per task, None for all.
        seed: Chooses the split and the samples; not the words of toy languages.

    Returns:
        Tasks in the order of the settings, disjoint across all of them.
    """
    pools = [
        Pool(
            task.name,
            read_rows(task, task.source, task.split),
            None
            if task.test_source is None
            else read_rows(task, task.test_source, task.test_split, numbered="test "),
        )
        for task in settings
    ]
    return split_tasks(pools, test_share=test_share, samples=samples, seed=seed)


def read_rows(
    settings: TaskSettings, source: str, split: str, *, numbered: str = ""
) -> tuple[Row, ...]:
    """The rows of one source.

    Args:
        settings: Which fields or templates make a row.
        source: A path, toy language or hub id.
        split: Split of a hub data set.
        numbered: Put before the place of rows that bring no id of their own.

    Returns:
        At least one row, in the order of the source.

    Raises:
        DataError: The source is missing, empty, broken, or has no such field.
    """
    if source.startswith(PREFIX):
        return tuple(parse_language(source).sentences(settings.rows or TOY_ROWS))
    records = list(islice(_records(settings, source, split), settings.rows))
    if not records:
        raise DataError(
            _argument(settings, source),
            law="must have rows",
            found="none",
            remedy="Give a source that is not empty.",
        )
    return _rows(records, settings, source, numbered)


def _argument(settings: TaskSettings, source: str) -> str:
    return f"tasks[{settings.name!r}], source {source!r}"


def _records(settings: TaskSettings, source: str, split: str) -> Iterator[_Located]:
    path, argument = Path(source), _argument(settings, source)
    reader = _READERS.get(path.suffix.lower())
    if path.is_file() and reader is not None:
        bounds = (int(end) if end else None for end in split.split(":"))
        return islice(reader(path, argument), *bounds) if ":" in split else reader(path, argument)
    if path.exists():
        raise DataError(
            argument,
            law=f"must be a file that ends in {', '.join(_READERS)}",
            found="a folder" if path.is_dir() else f"the ending {path.suffix!r}",
            remedy="Convert it, or name one file in it.",
        )
    if reader is not None or path.is_absolute() or source.startswith((".", "~")):
        raise DataError(
            argument,
            law="must exist",
            found="no such file",
            remedy=f"The path is read from {Path.cwd().name!r}, the current folder; check the spelling.",
        )
    return _read_hub(settings, source, split)


def _read_hub(settings: TaskSettings, source: str, split: str) -> Iterator[_Located]:
    import datasets  # noqa: PLC0415 - slow to import, and only hub ids need it

    from crosstune.foundation.models.loading import hub_or_cache  # noqa: PLC0415 - likewise

    try:
        with hub_or_cache(source):
            found = datasets.load_dataset(source, settings.subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(
            _argument(settings, source),
            law=f"must be a data set the hub knows, with split {split!r} and subset {settings.subset!r}",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            remedy="Check the id, `subset`, `split` and the network, or write a path that ends in "
            f"{', '.join(_READERS)}.",
        ) from error
    return ((f"row {number}", record) for number, record in enumerate(found, 1))


def _decoded(path: Path, argument: str) -> str:
    """The text of a file; a byte-order mark is no part of it."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # `start` counts from after a byte-order mark, so count lines in the very bytes that failed.
        before = bytes(error.object[: error.start])
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise DataError(
            argument,
            law="must be UTF-8",
            found=f"byte 0x{error.object[error.start]:02X} at line {line}, byte {column} of the line",
            remedy="Save the file as UTF-8.",
        ) from None


def _lines(path: Path, argument: str) -> Iterator[_Located]:
    # Not splitlines(): a JSON string or a sentence may hold U+2028 and other rare line separators.
    for number, line in enumerate(_decoded(path, argument).split("\n"), 1):
        if line.strip():
            yield f"line {number}", {"text": line.removesuffix("\r")}


def _read_jsonl(path: Path, argument: str) -> Iterator[_Located]:
    for place, line in _lines(path, argument):
        try:
            record = json.loads(line["text"])
        except json.JSONDecodeError as error:
            raise DataError(
                f"{argument}, {place}",
                law="must be one JSON object a line",
                found=f"{error.msg} at character {error.pos + 1}",
                remedy="Repair the line; a file that is one big JSON list must be written one object a line.",
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{argument}, {place}",
                law="must be one JSON object a line",
                found=f"a {type(record).__name__}",
                remedy='Write each row as {"text": "..."}.',
            )
        yield place, record


def _read_csv(path: Path, argument: str) -> Iterator[_Located]:
    # newline="" keeps line ends inside quotes; strict refuses a quote that is never closed.
    reader = csv.DictReader(io.StringIO(_decoded(path, argument), newline=""), strict=True)
    number = 0
    try:
        for number, record in enumerate(reader, 1):
            if None in record or None in record.values():
                raise DataError(
                    f"{argument}, row {number} (line {reader.line_num})",
                    law=f"must have the {len(reader.fieldnames or ())} fields of the header",
                    found="more" if None in record else "fewer",
                    remedy="Put fields that hold a comma in double quotes.",
                )
            yield f"row {number}", record
    except csv.Error as error:
        raise DataError(
            f"{argument}, row {number + 1}",
            law="must be comma-separated values with closed double quotes",
            found=str(error),
            remedy="Repair the row.",
        ) from None


def _read_parquet(path: Path, argument: str) -> Iterator[_Located]:
    import pyarrow  # noqa: PLC0415 - slow to import, and only Parquet needs it
    import pyarrow.parquet  # noqa: PLC0415

    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            argument,
            law="must be a whole Parquet file",
            found=str(error).splitlines()[0],
            remedy="Write it again; it may have been cut off.",
        ) from error
    return ((f"row {number}", record) for number, record in enumerate(records, 1))


_READERS = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _lines,
}


def _rows(
    records: Sequence[_Located], settings: TaskSettings, source: str, numbered: str
) -> tuple[Row, ...]:
    argument = _argument(settings, source)
    if settings.group is not None and all(
        record.get(settings.group) is None for _, record in records
    ):
        raise _no_field(argument, "group", settings.group, records[0][1])
    rows: list[Row] = []
    empty: list[str] = []
    for place, record in records:
        where = f"{argument}, {place}"
        text = _text(record, settings, where)
        if not text.strip():
            empty.append(place)
            continue
        row_id = record.get("id")
        # A row without the group field is still known by its id in other tasks, and alone otherwise.
        group = None if settings.group is None else record.get(settings.group, row_id)
        rows.append(
            Row(
                numbered + place if row_id is None else str(row_id),
                text,
                ""
                if settings.prompt is None
                else _filled(settings.prompt, record, where, "prompt"),
                None if group is None else str(group),
            )
        )
    if empty:
        raise DataError(
            argument,
            law="must have a text in every row",
            found=f"{len(empty)} empty texts of {len(records)} rows: {named(empty)}",
            remedy="Remove these rows, or name another field with `text` or `response`.",
        )
    return tuple(rows)


def _text(record: _Record, settings: TaskSettings, where: str) -> str:
    if settings.response is not None:
        return _filled(settings.response, record, where, "response")
    return _value(record, settings.text, where, "text")


def _filled(template: str, record: _Record, where: str, argument: str) -> str:
    """The template with fields of the record put in; attributes, indices and formats are no part of it."""
    parts = []
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            argument,
            law="must be a template with fields in braces",
            found=f"{template!r}: {error}",
            remedy="Write {{ and }} for braces that are meant as such.",
        ) from None
    for literal, field, form, conversion in pieces:
        if form or conversion:
            raise DataError(
                argument,
                law="must have plain field names in its braces",
                found=repr(template),
                remedy="Leave out what follows ':' or '!'.",
            )
        parts.append(literal)
        if field is not None:
            parts.append(_value(record, field, where, argument))
    return "".join(parts)


def _value(record: _Record, field: str, where: str, argument: str) -> str:
    if field not in record:
        raise _no_field(where, argument, field, record)
    value = record[field]
    if value is None:
        return ""
    # A number is an answer that a template spells; alone it is no text that is learned.
    if isinstance(value, str) or (isinstance(value, int | float) and argument != "text"):
        return str(value)
    raise DataError(
        where,
        law=f"must have text{' or a number' * (argument != 'text')} in the field {field!r}",
        found=f"the {type(value).__name__} {str(value)[:40]}",
        remedy=f"Name another field with `{argument}`, write a template as `response`, or flatten the data first.",
    )


def _no_field(where: str, argument: str, field: str, record: Iterable[str]) -> DataError:
    present = [str(name) for name in record]
    near = difflib.get_close_matches(field, present, n=1)
    return DataError(
        where,
        law=f"must have the field {field!r}, which `{argument}` names",
        found=f"the fields {', '.join(present) or '(none)'}",
        remedy=f"Did you mean {near[0]!r}?" if near else f"Set `{argument}` to one of them.",
    )
