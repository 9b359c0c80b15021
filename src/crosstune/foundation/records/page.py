"""What a report says and draws, as a value: statements first, then sections that name tables and columns.

A study writes one `Page` to ``page.json`` in its run folder. It names tables and columns only, so whoever
draws it needs to know nothing of the study.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings.options import one_of

Tone = Literal["shown", "not_shown", "too_noisy", "info", "warning"]
View = Literal["areas", "bars", "heatmap", "lines", "matrix", "table", "text", "scatter", "explorer"]  # fmt: skip
Order = Literal["given", "size"]
Combine = Literal["", "sum", "mean"]
End = Literal["below", "above"]

PAGE_FILE = "page.json"

_NEEDED: dict[str, tuple[str, ...]] = {
    "areas": ("table", "x", "value", "color"),
    "bars": ("table", "y", "value"),
    "heatmap": ("table", "x", "y", "value"),
    "matrix": ("table", "x", "y", "value"),
    "explorer": ("table", "x", "y", "value"),
    "lines": ("table", "x", "value"),
    "scatter": ("table", "x", "y"),
    "table": ("table",),
    "text": (),
}


@dataclass(frozen=True)
class Statement:
    """One finding in a plain sentence, with how firmly it stands.

    Args:
        text: The sentence.
        tone: "shown", "not_shown" or "too_noisy" for a verdict; "info" or "warning" otherwise.
        detail: The figures behind it: estimate, interval, sample size, what chance gives.
        size: How large what it tells of is, in the unit that the page's findings share; orders findings of one tone.
    """

    text: str
    tone: Tone
    detail: str = ""
    size: float = 0.0

    def __post_init__(self) -> None:
        one_of("statement.tone", self.tone, get_args(Tone))
        _not_empty("statement.text", self.text)


@dataclass(frozen=True)
class Section:
    """One part of a page: a heading, a paragraph and at most one figure or table.

    Columns that belong to ``value`` (low, high, mask, chance) are found by their role, not named here.
    A mask column is true where the value stands (``resolved``) and false where it is below the noise floor.
    An explorer is a heatmap whose cells can be opened: what lies behind a cell is a matrix, and its noteworthy entries in words.

    Args:
        id: A short name that is an anchor in the page and a file name: letters, digits, "-" and "_".
        title: The heading.
        lead: What the reader looks at and how to read it.
        view: How it is drawn.
        table: The table in the run folder.
        x, y: Columns of the two directions; bars take their labels from ``y``.
        value: The column that is measured.
        color: A column whose values are told apart by colour (and dash or shape).
        facet: A column whose values get a small chart each.
        choose: Columns offered as selectors; the first value in the table is chosen at first.
        begin: Where the selectors stand at first, as far as it names columns of ``choose`` and was measured; where not all of it
            was measured together, the columns named first count most.
        where: Only rows with these values.
        note: What the figure rests on, below it.
        lines: Labelled levels drawn across the figure, such as the loss of a uniform guess.
        order: Bars as "given" in the table, or by "size".
        beside: Further value columns drawn beside ``value`` on the same colour scale (heatmap), or that have its ``ends`` too.
        trace: A column whose values are drawn as thin lines around the thick mean, such as the seed (lines); or
            whose points are joined by a thin line, but for those where it is empty (scatter).
        thin: A table of the same columns drawn as thin lines behind, such as figures at one state (lines).
        combine: How rows that share one place in the figure become one: refuse (""), "sum" or "mean" (lines).
        mark: A yes-or-no column: where it is true a cell bears a dot, the largest opened first (explorer); or parts' names where they begin (areas).
        matrices: A table of the matrices behind the cells (explorer). Axes it shares with ``table`` say behind which cell;
            its column ``file`` names a .npy array in the run folder, whose first two axes are the matrix, and ``index``
            the place on the others (``"3,0"``).
        pairs: A table of noteworthy entries of matrices, with texts (explorer). Shared axes say behind which cell.
        most: Only so many of the largest bars; 0 draws all (bars).
        aside: Whether it stands closed behind its title, for those who check: residuals, segments, costs.
        ends: Words for a value below and for one above zero, such as ``("gained", "lost")``: they stand with every such value, at
            the axis and in the legend (bars, heatmap, lines, table; of a matrix with the values ``beside``).
        worse: The end that has the warm colour (bars, heatmap).
        names: A table of what the matrices' rows and columns are (explorer): ``side`` (``row`` or ``column``), ``place``
            from 0, ``of`` (what they are of), ``id`` and ``text``; further shared axes say of which matrices.
    """

    id: str
    title: str
    lead: str
    view: View
    table: str | None = None
    x: str | None = None
    y: str | None = None
    value: str | None = None
    color: str | None = None
    facet: str | None = None
    choose: tuple[str, ...] = ()
    begin: Mapping[str, object] = field(default_factory=dict)
    where: Mapping[str, object] = field(default_factory=dict)
    note: str = ""
    lines: tuple[tuple[str, float], ...] = ()
    order: Order = "given"
    beside: tuple[str, ...] = ()
    trace: str | None = None
    thin: str | None = None
    combine: Combine = ""
    mark: str | None = None
    matrices: str | None = None
    pairs: str | None = None
    names: str | None = None
    most: int = 0
    aside: bool = False
    ends: tuple[str, str] = ("", "")
    worse: End = "above"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", self.id):
            raise SettingsError(
                "section.id",
                law="must be 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit",
                found=repr(self.id),
                remedy="Give the section a short plain name.",
            )
        one_of(f"sections[{self.id!r}].view", self.view, get_args(View))
        one_of(f"sections[{self.id!r}].order", self.order, get_args(Order))
        one_of(f"sections[{self.id!r}].combine", self.combine, get_args(Combine))
        one_of(f"sections[{self.id!r}].worse", self.worse, get_args(End))
        missing = [name for name in _NEEDED[self.view] if getattr(self, name) is None]
        if missing:
            raise SettingsError(
                f"sections[{self.id!r}]",
                law=f"needs {', '.join(_NEEDED[self.view])} for the view {self.view!r}",
                found=f"no {', '.join(missing)}",
                remedy="Name the columns the figure is drawn from.",
            )

    def columns(self) -> tuple[str, ...]:
        """The columns of ``table`` that this section names, each once, in the order of the fields."""
        named = (self.x, self.y, self.value, self.color, self.facet, self.trace, self.mark)
        every = [name for name in named if name is not None]
        return tuple(dict.fromkeys([*every, *self.beside, *self.choose, *self.where]))


def drawn(
    view: View, table: str, begin: Mapping[str, object] | None = None, **columns: Any
) -> dict[str, Any]:
    """How a section is drawn, as its keywords; where its selectors begin also says what can be selected."""
    begin = begin or {}
    return {"view": view, "table": table, "choose": tuple(begin), "begin": begin, **columns}


@dataclass(frozen=True)
class Page:
    """A whole report: title, findings, sections in reading order.

    Args:
        title: The heading of the page.
        subtitle: One line below it: which model, which data, how many seeds.
        statements: The findings; `ranked` puts the firmest and largest first.
        sections: The parts; their ids differ.
        answer: What the study found, in one sentence; the first that is read on the page and in the terminal.
        pictures: At most two sections that are drawn under the answer, without selectors: what it looks like at a glance.
    """

    title: str
    subtitle: str
    statements: tuple[Statement, ...] = ()
    sections: tuple[Section, ...] = ()
    answer: Statement | None = None
    pictures: tuple[Section, ...] = ()

    def __post_init__(self) -> None:
        _not_empty("page.title", self.title)
        ids = [section.id for section in (*self.pictures, *self.sections)]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise SettingsError(
                "page.sections",
                law="must have ids that differ",
                found=f"{', '.join(twice)} more than once",
                remedy="Rename one of them.",
            )

    def to_json(self) -> dict[str, Any]:
        """The page as plain JSON values; `Page.from_json` gives an equal page back."""
        plain = asdict(self)
        for section in (*plain["pictures"], *plain["sections"]):
            section["where"] = dict(section["where"])
            section["begin"] = dict(section["begin"])
        value: dict[str, Any] = json.loads(json.dumps(plain))
        return value

    @classmethod
    def from_json(cls, value: object) -> Page:
        """The page that `to_json` wrote; an unknown or missing key, or a broken law, is a SettingsError."""
        plain = _known("page", value, cls)
        statements = tuple(
            Statement(**_known("statement", item, Statement))
            for item in plain.pop("statements", [])
        )
        sections = tuple(_section(item) for item in plain.pop("sections", []))
        pictures = tuple(_section(item) for item in plain.pop("pictures", []))
        answer = plain.pop("answer", None)
        if answer is not None:
            answer = Statement(**_known("statement", answer, Statement))
        return cls(
            **plain, statements=statements, sections=sections, pictures=pictures, answer=answer
        )


def _section(value: object) -> Section:
    plain = _known("section", value, Section)
    for name in {"choose", "beside", "ends"} & set(plain):
        plain[name] = tuple(plain[name])
    plain["lines"] = tuple((label, level) for label, level in plain.get("lines", ()))
    return Section(**plain)


def _known(argument: str, value: object, cls: type) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(
            argument,
            law="must be an object with named fields",
            found=type(value).__name__,
            remedy="Write it with `Page.to_json`.",
        )
    names = {entry.name for entry in fields(cls)}
    unknown = sorted(set(value) - names)
    required = {one.name for one in fields(cls) if one.default is one.default_factory is MISSING}
    absent = sorted(required - set(value))
    if unknown or absent:
        raise SettingsError(
            argument,
            law=f"has the fields {', '.join(sorted(names))}",
            found=f"unknown {unknown}, missing {absent}",
            remedy="Write it with `Page.to_json` of this version of Crosstune.",
        )
    return dict(value)


def _not_empty(argument: str, text: str) -> None:
    if not text.strip():
        raise SettingsError(
            argument,
            law="must not be empty",
            found=repr(text),
            remedy="Say it in a sentence.",
        )
