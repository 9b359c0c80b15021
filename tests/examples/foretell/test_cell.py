"""A cell: scores of every state before, then an account that closes head by head; a stopped one goes on to the same figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.examples import small_foretell
from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.studies.frame import cell
from crosstune.studies.frame.plan import Progress, silent
from examples.foretell import profiles
from examples.foretell.cell import LOSSES, ForetellCell


def test_scores_stand_at_every_state(foretold: Run) -> None:
    for one in foretold.cells():
        table = one.table(profiles.HEADS)
        assert set(table.column("state")) == {0, 1}
        assert set(table.column("predictor")) == {
            "directional",
            "−signed",
            "symmetric",
            "ewc",
            *profiles.NORMS,
        }


def test_seeds_share_the_state_before_and_differ_in_the_pilot_run(foretold: Run) -> None:
    first, second = (one.table(profiles.HEADS) for one in foretold.cells())
    assert first.where(state=0).column("score") == second.where(state=0).column("score")
    assert first.where(state=1).column("score") != second.where(state=1).column("score")


def test_the_entries_of_heads_add_up_to_the_components(foretold: Run) -> None:
    for one in foretold.cells():
        heads, sites = one.table("forgetting_heads"), one.table("forgetting_sites")
        for side in ("train", "test"):
            parts = sum(heads.where(side=side, layer=2, component="attn.o").column("nats"))
            (whole,) = sites.where(side=side, layer=2, component="attn.o").column("nats")
            assert parts == pytest.approx(whole, abs=1e-9)


def test_the_losses_of_the_scored_rows_are_known_before_and_after(foretold: Run) -> None:
    first, second = (one.table(LOSSES) for one in foretold.cells())
    assert first.column("before") == second.column("before")
    assert first.column("after") != second.column("after")
    scored = foretold.cells()[0].table(profiles.ROWS).where(predictor="loss before", block="q")
    before = scored.where(state=0).column("score")
    # float32 logits in other batches: 1.2e-7 * sqrt(1e3) * 3
    assert before == pytest.approx(first.column("before"), rel=1e-5)
    changes = [row["after"] - row["before"] for row in first.rows()]
    assert first.column("change") == pytest.approx(changes)


def test_nothing_but_figures_is_kept(foretold: Run) -> None:
    assert not list(foretold.folder.glob("cells/**/*.safetensors"))


class Stopped(Exception):
    """The machine goes down."""


@pytest.mark.parametrize(
    "when", ["scoring heads at step 1 of the pilot run", "learning, step 3 of 4"]
)
def test_a_stopped_cell_goes_on_to_the_same_figures(
    foretold: Run, tmp_path: Path, when: str
) -> None:
    settings = small_foretell.settings(tmp_path)

    def stop(progress: Progress) -> None:
        if progress.doing == when:
            raise Stopped

    with pytest.raises(Stopped):
        small_foretell.run_cells(settings, stop)
    progress: list[Progress] = []
    (again,) = small_foretell.run_cells(settings, progress.append).cells()
    whole = foretold.cells()[0]
    for name in (profiles.HEADS, profiles.ROWS, LOSSES, "forgetting_heads", "forgetting_totals"):
        mine, theirs = ({"rows": one.table(name).rows()} for one in (again, whole))
        assert small_study.differences(mine, theirs) == []
    steps = [one.done for one in progress if one.doing.startswith("learning")]
    # The pilot run is one step; the training goes on from its checkpoint at step 2.
    assert steps == ([4, 5] if "learning" in when else [2, 3, 4, 5])


def test_without_a_pilot_run_the_state_before_is_scored_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_foretell.prepared(tmp_path, states=1)
    trained: list[Any] = []
    monkeypatch.setattr(cell, "train_stage", lambda *a, **k: trained.append(a))
    run = Run.create(tmp_path / "cell", "{}\n", kind="cell")
    ForetellCell(study, study.settings, "seed-0", run, silent)._pilot()
    assert trained == []
    assert set(run.table(profiles.HEADS).column("state")) == {0}
