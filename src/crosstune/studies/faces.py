"""The functions behind `crosstune.run` and `crosstune.show`, for those who work in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.studies.catalogue import find_study
from crosstune.studies.frame.plan import Plan, silent

if TYPE_CHECKING:
    from crosstune.foundation.records import Run


def _settings(study: str, settings: Any, options: dict[str, Any]) -> Any:
    source = settings if isinstance(settings, (str, Path)) else to_yaml(settings or {})
    return from_yaml(find_study(study).settings_class(), source, options)


def run(study: str, settings: Any = None, **options: Any) -> Run:
    """The finished run of a study.

    Args:
        study: Its name (``"conflict"``).
        settings: Its settings as a value, a mapping, a YAML file, or None for the defaults.
        options: Single settings that replace those.

    Returns:
        The run; `show` reads it.
    """
    return find_study(study).run(_settings(study, settings, options), silent)


def plan(study: str, settings: Any = None, **options: Any) -> Plan:
    """What a study will cost, after a calibration of a few steps.

    Args:
        study: Its name.
        settings: As for `run`.
        options: As for `run`.

    Returns:
        The plan.
    """
    return find_study(study).plan(_settings(study, settings, options))


def show(folder: Path | str, *, all: bool = False) -> str:
    """What a run found, as text for a terminal of 80 columns.

    Args:
        folder: The run folder.
        all: Whether every finding, figure and table is told, instead of what is most worth knowing in 14 lines.

    Returns:
        The answer and the first findings; with `all` the others, measurements and tables too.
    """
    from crosstune.foundation.records import Run
    from crosstune.report import summary

    return summary(Run.open(folder), all=all)
