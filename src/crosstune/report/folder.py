"""What a report needs from a run folder, read once: the page, its tables, measurements, settings, environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section, Statement
from crosstune.foundation.storage import read_json
from crosstune.report.reading import SectionTable


@dataclass(frozen=True)
class Contents:
    """All that is shown of a run."""

    folder: Path
    page: Page
    tables: dict[str, Table]
    measurements: tuple[Measurement, ...]
    settings: str
    environment: dict[str, object]

    @classmethod
    def of(cls, run: Run | Path | str) -> Contents:
        """The contents of a run folder; one without ``page.json`` shows every table as it is, and says so."""
        opened = run if isinstance(run, Run) else Run.open(Path(run))
        tables = {name: opened.table(name) for name in opened.tables()}
        environment = opened.folder / "environment.json"
        contents = cls(
            folder=opened.folder,
            page=_page(opened, tables),
            tables=tables,
            measurements=tuple(opened.measurements()),
            settings=opened.settings_yaml,
            environment=read_json(environment) if environment.is_file() else {},
        )
        pictures = tuple(map(contents._at_first, contents.page.pictures))
        return replace(contents, page=replace(contents.page, pictures=pictures))

    @property
    def sections(self) -> tuple[Section, ...]:
        """The page's pictures and its sections."""
        return (*self.page.pictures, *self.page.sections)

    def _at_first(self, picture: Section) -> Section:
        """A picture has no selectors and shows what they would begin with."""
        if self.obstacle(picture):
            return picture
        return SectionTable(picture, self.tables[str(picture.table)]).at_first().section

    def obstacle(self, section: Section) -> str:
        """Why a section cannot be drawn, in a sentence; empty where nothing stands in its way."""
        if section.table is None:
            return ""
        table = self.tables.get(section.table)
        if table is None or len(table) == 0:
            return "Not measured in this run."
        absent = sorted(set(section.columns()) - {column.name for column in table.columns})
        if absent:
            return f"Not drawn: the table “{section.table}” has no column {', '.join(absent)}."
        where = dict(section.where)
        if where and len(table.where(**where)) == 0:
            parts = ", ".join(f"{name} = {value}" for name, value in where.items())
            return f"Not measured in this run ({parts})."
        return ""


def _page(run: Run, tables: dict[str, Table]) -> Page:
    path = run.folder / PAGE_FILE
    if path.is_file():
        page = Page.from_json(read_json(path))
    else:
        sections = tuple(
            Section(f"table-{index}", name.replace("_", " "), "", "table", table=name)
            for index, name in enumerate(tables)
        )
        note = Statement(f"This run has no {PAGE_FILE}; every table is shown as it is.", "info")
        page = Page(f"Run {run.folder.name}", run.kind, (note,), sections)
    return replace(page, statements=(*_notes(run), *page.statements))


def _notes(run: Run) -> Iterator[Statement]:
    """What a reader of any page should know first."""
    if not run.finished:
        yield Statement("This run has not finished; what follows was measured so far.", "warning")
    several = run.arithmetics()
    if len(several) > 1:
        yield Statement(
            "Computed by more than one arithmetic, so that running it again anywhere gives these numbers to rounding and not "
            f"to the bit: {'; '.join(several)}.",
            "info",
        )
