"""Agreement over seeds on histories with a planted truth, and as a real study writes it."""

from __future__ import annotations

import pytest
import torch
from tests.interference.conflict.test_tables import SITES, history, oscillating
from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.interference.conflict.cosine import PairSums
from crosstune.interference.conflict.cosine import agreement as agreement_of
from crosstune.interference.conflict.windows import window_of
from crosstune.studies.conflict.agreement import (
    WHOLE,
    WINDOW,
    StageProbe,
    agreement,
    at_one_state,
    naive_of_means,
    read_probes,
)
from crosstune.studies.conflict.settings import ConflictSettings

TRUTH = [-0.5, 0.0, 0.5, 0.8]


def probe(seeds: int) -> StageProbe:
    """Seeds that oscillate about the same truth; each state's sign may be wrong."""
    made = [oscillating([c * (1 - seed / 50) for c in TRUTH], by=0.1) for seed in range(seeds)]
    return StageProbe("2-bn", tuple(made), tuple(SITES))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_whole_stage_finds_the_planted_cosines(seeds: int) -> None:
    rows = agreement([probe(seeds)]).where(scope=WHOLE).rows()
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    for row, truth in zip(rows, TRUTH, strict=True):
        assert row["corrected"] == pytest.approx(truth, abs=0.1)
        assert row["low"] < row["corrected"] < row["high"]
        assert row["resolved"]
        assert (row["states"], row["blocks"], row["seeds"]) == (12, 16, seeds)
    # A cosine of 0 is taken for conflict once in forty times.
    assert [rows[at]["conflict"] for at in (0, 2, 3)] == [True, False, False]
    assert rows[0]["sd_states"] > 0.05, "single states oscillate"


def test_windows_come_before_the_whole_stage_and_have_its_first_and_last_step() -> None:
    table = agreement([probe(2)])
    spans = dict.fromkeys(
        (row["scope"], row["start_step"], row["stop_step"]) for row in table.rows()
    )
    assert list(spans) == [(WINDOW, 0, 11), (WHOLE, 0, 11)]


def test_single_states_are_those_of_the_first_seed() -> None:
    rows = at_one_state([probe(2)]).rows()
    assert len(rows) == 12 * len(SITES)
    first = [row["corrected"] for row in rows if row["layer"] == 1]
    assert min(first) < -0.05 < 0.05 < max(first)


def test_noise_is_not_resolved_at_one_seed_nor_over_seeds() -> None:
    quiet = history({step: [0.0] * 4 for step in range(4)}, blocks=2)
    for histories in ((quiet,), (quiet, quiet)):
        rows = agreement([StageProbe("1-en", histories, tuple(SITES))]).rows()
        assert not any(row["resolved"] or row["conflict"] for row in rows)


def test_what_a_study_kept_is_read_back(finished: Run) -> None:
    settings = small_study.read_settings(finished)
    one, two = read_probes(finished.cells(), settings)
    assert (one.stage, two.stage) == ("1-en", "2-bn")
    assert len(one.histories) == 2
    assert [state.step for state in one.histories[0].states] == [0, 1, 2, 3]
    named = finished.table("agreement").where(stage="1-en", scope=WHOLE).column("where")
    assert [str(site) for site in one.sites] == named
    assert read_probes(finished.cells(), ConflictSettings(probe=None)) == []


def test_without_noise_the_naive_twin_equals_the_corrected_cosine() -> None:
    """Blocks that are all alike have no noise; the states' gradients differ in length a hundredfold."""
    states = []
    for a, b, inner in ((100.0, 1.0, 30.0), (1.0, 1.0, -0.9)):
        gram = torch.empty(16, 16, dtype=torch.float64)
        gram[:8, :8], gram[8:, 8:] = a * a, b * b
        gram[:8, 8:] = gram[8:, :8] = inner
        states.append(agreement_of(PairSums.from_gram(gram[..., None], 8)))
    corrected = window_of(states, torch.Generator().manual_seed(0)).cosine.value
    assert naive_of_means(states) == pytest.approx(corrected)
    alike = torch.stack([one.naive_cosine for one in states]).mean(0)
    assert float(alike) != pytest.approx(float(corrected), abs=0.1)
