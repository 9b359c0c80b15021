"""The catalogue finds a study by name and suggests the nearest one."""

from __future__ import annotations

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.studies.catalogue import STUDIES, find_study


def test_every_study_is_found_by_its_name() -> None:
    assert [find_study(study.name) for study in STUDIES] == list(STUDIES)
    assert len({study.name for study in STUDIES}) == len(STUDIES)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("conflikt", "Did you mean `conflict`?"),
        ("zzz", f"There are: {', '.join(study.name for study in STUDIES)}."),
    ],
)
def test_an_unknown_name_is_told_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        find_study(name)
    assert caught.value.remedy == hint
