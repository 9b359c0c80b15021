"""The selectors above a figure: one for each column of ``choose``, standing at the first choices."""

from __future__ import annotations

from html import escape

from crosstune.report.figures import choices
from crosstune.report.reading import Source


def selectors(source: Source) -> str:
    """The selectors of a section as HTML; empty where there is nothing to choose."""
    parts = []
    first = source.first_choices()
    for index, (name, values) in enumerate(choices(source)):
        options = "".join(
            f'<option value="{place}"{" selected" if value == first[name] else ""}>'
            f"{escape(str(value))}</option>"
            for place, value in enumerate(values)
        )
        parts.append(
            f"<label>{escape(name.replace('_', ' '))} "
            f'<select data-choose="{index}">{options}</select></label>'
        )
    return f"<div class=choose>{''.join(parts)}</div>" if parts else ""
