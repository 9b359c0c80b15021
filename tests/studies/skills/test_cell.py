"""A cell: what each skill's rows are, that a kill costs one skill's rest, and that arms differ in what they should alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.studies.skills.conftest import small
from transformers import TrainerCallback

from crosstune.experts import learning
from crosstune.foundation.records import Run
from crosstune.foundation.training import StageResult
from crosstune.studies.frame.plan import silent
from crosstune.studies.skills.study import Skills


def test_a_repeated_skill_brings_other_rows_and_the_same_held_out_ones(tmp_path: Path) -> None:
    study = Skills(small(tmp_path / "run"))
    study.prepare()
    first, again = study.skills["bn"]
    assert not {row.unit for row in first.train} & {row.unit for row in again.train}
    assert not {row.unit for row in first.train} & {row.unit for row in first.test}
    assert [row.row_id for row in first.test] == [row.row_id for row in again.test]
    assert [one.name for one in study.stream(0)] == ["en", "bn", "ar", "bn"]
    assert next(reversed(list(study.stream(0)))) is again


class Killer(TrainerCallback):  # type: ignore[misc]
    """Stops everything after the third step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt


def test_a_study_that_is_killed_goes_on_to_the_same_bits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a birth, between two checkpoints of the second skill of the second arm."""
    settings = small(tmp_path / "run", seeds=(0,))
    trained, calls = learning.train_stage, []

    def killed(*args: Any, callbacks: Sequence[TrainerCallback], **options: Any) -> StageResult:
        calls.append(options["output_folder"].relative_to(tmp_path))
        return trained(*args, callbacks=[*callbacks, *[Killer()] * (len(calls) == 5)], **options)

    monkeypatch.setattr(learning, "train_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        Skills(settings).run(silent)
    again = Skills(settings).run(silent)
    assert len(calls) == 5 + 5  # what was learned before is not learned again
    (resumed,) = again.cells()
    whole = next(cell for cell in run.cells() if cell.folder.name == resumed.folder.name)
    for name in ("losses", "births", "usage"):
        assert str(whole.table(name).rows()) == str(resumed.table(name).rows())  # NaN is not itself
