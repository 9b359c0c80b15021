"""What a user says about one task: where its rows are and which fields matter."""

from __future__ import annotations

from dataclasses import dataclass

from crosstune.foundation.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """One task as written in a settings file."""

    name: str
    """Name of the task in every table and figure; unique in a run."""

    source: str
    """A path (.jsonl, .csv, .parquet, .txt), a toy language (toy:latin-svo, toy:bengali-sov-0.3) or a hub id."""

    text: str = "text"
    """Field that holds the text to be learnt and scored; not used when `response` is given."""

    prompt: str | None = None
    """Template of the context, which is read but not scored, e.g. "Q: {question}\\nA: "."""

    response: str | None = None
    """Template of the scored text, e.g. "{answer}"."""

    group: str | None = None
    """Field whose value ties rows together across all tasks (document or translation id); "id" for parallel rows."""

    test_source: str | None = None
    """A source of its own for the test rows, when the user has made the split."""

    subset: str | None = None
    """Configuration of a hub data set."""

    split: str = "train"
    """Split of a hub data set that `source` reads; of a file the rows from one up to another, such as `510:974`."""

    test_split: str = "test"
    """The same of `test_source`."""

    rows: int | None = None
    """Read only the first so many rows of the source; a toy language makes this many (2000 when not given)."""

    def __post_init__(self) -> None:
        """Refuse what no task can be."""
        for field in ("name", "source"):
            if not getattr(self, field).strip():
                raise SettingsError(
                    field,
                    law="must not be empty",
                    found=repr(getattr(self, field)),
                    remedy="Give every task a name and a source.",
                )
        if self.rows is not None and self.rows < 2:
            raise SettingsError(
                f"tasks[{self.name!r}].rows",
                law="must be at least 2, one row to train on and one to test on",
                found=self.rows,
                remedy="Raise `rows`, or leave it out to read everything.",
            )
        for field in ("prompt", "response"):
            template = getattr(self, field)
            # A bare word is a field's name far more often than a text that every row shares.
            if template is not None and template.isidentifier():
                raise SettingsError(
                    f"tasks[{self.name!r}].{field}",
                    law="must be a template, in which a field stands in braces",
                    found=repr(template),
                    remedy=f"Write '{{{template}}}' for the field of that name.",
                )
