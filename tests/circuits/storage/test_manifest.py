"""The manifest: what a folder is about comes back equal, and what it is not about is told."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.circuits.known_scores import SETTINGS, Heads, rows

from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.manifest import FILE, Manifest
from crosstune.foundation.errors import StorageError

AXES = Axes.of(rows("a", 2), rows("b", 1), Heads(), SETTINGS)


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, replace(SETTINGS, damping_share=0, layers=(2, 0), fisher="true", epsilon=1e-12)],
)
def test_it_comes_back_equal(tmp_path: Path, settings: object) -> None:
    written = Manifest(AXES, settings, {2: {"pairs": {"x": 5}, "sides": "f"}})
    written.write(tmp_path)
    assert Manifest.read(tmp_path) == written


def test_an_unknown_loss_equals_itself(tmp_path: Path) -> None:
    lost = replace(AXES, rows_b=(replace(AXES.rows_b[0], loss=math.nan),))
    Manifest(lost, SETTINGS, {}).write(tmp_path)
    Manifest.read(tmp_path).check_same(lost, SETTINGS, tmp_path)
    with pytest.raises(StorageError, match="weights"):
        Manifest.read(tmp_path).check_same(AXES, SETTINGS, tmp_path)


def test_the_last_digits_of_a_loss_are_no_other_model(tmp_path: Path) -> None:
    near = replace(
        AXES, rows_a=tuple(replace(row, loss=row.loss * (1 + 1e-5)) for row in AXES.rows_a)
    )
    Manifest(AXES, SETTINGS, {}).check_same(near, SETTINGS, tmp_path)


def test_settings_of_another_version_are_told(tmp_path: Path) -> None:
    from crosstune.foundation.storage import fingerprint

    Manifest(AXES, SETTINGS, {}).write(tmp_path)
    plain = json.loads((tmp_path / FILE).read_text())
    plain["settings"]["unheard_of"] = 1
    plain["fingerprint"] = fingerprint({name: plain[name] for name in ("settings", "axes")})
    (tmp_path / FILE).write_text(json.dumps(plain))
    with pytest.raises(StorageError, match="settings of this version.*unheard_of"):
        Manifest.read(tmp_path)
