"""Law: where forgetting is to first order what a score says, the foretell study says that the score foretells it.

Under a Fisher that is the same everywhere the signed score is −⟨g_A, g_B⟩ by head; a few small steps of plain gradient
descent on all rows of B then change A's loss by −η ⟨g_A, g_B⟩ in each head, and the ledger books just that. (Of rows that no score saw it
foretells little on this model: a head's mean inner product is small beside what it varies by from row to row.)
"""

from __future__ import annotations

import pytest
from tests.studies import small_foretell

from crosstune.foundation.records import Run
from crosstune.studies.foretell import judging


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    settings = small_foretell.settings(
        tmp_path_factory.mktemp("law"),
        tasks=[
            {"name": "en", "source": "toy:latin-svo", "rows": 160},
            {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 160},
        ],
        training={
            "learning_rate": 1e-3,
            "steps": 2,
            "batch_rows": 106,  # all of them,
            "length": 24,
            "optimizer": "sgd",
            "schedule": "constant",
            "clip": 0.0,
        },
        measurement={"rows": 106, "epsilon": 1e9, "damping_share": 0.0, "variants": ["signed"]},
        blocks={"blocks": 10, "rows_per_block": 5},
        states=1,
        permutations=199,
    )
    return small_foretell.run_cells(settings)


def test_heads_foretell_beyond_norms_what_the_scored_rows_forget(run: Run) -> None:
    asked = {"when": "before", "side": "train", "outcome": "forgotten", "block": "all"}
    (row,) = run.table(judging.HEADS).where(**asked, scope=judging.ACROSS, kind="score").rows()
    assert row["verdict"] == judging.FORETELLS
    assert row["correlation"] > 0.7 and row["beyond"] > 0.6


def test_rows_foretell_how_much_they_lose(run: Run) -> None:
    (row,) = run.table(judging.ROWS).where(block="all", kind="score").rows()
    assert row["verdict"] == judging.FORETELLS and row["correlation"] > 0.7


def test_norms_say_less(run: Run) -> None:
    asked = {"side": "train", "scope": judging.ACROSS, "block": "all", "kind": "baseline"}
    rows = run.table(judging.HEADS).where(**asked, outcome="forgotten").rows()
    assert all(row["correlation"] < 0.6 for row in rows)
