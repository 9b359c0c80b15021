"""The sentences: each verdict in its own words with its figures, and never more than was found."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crosstune.foundation.records import Run, Table
from crosstune.report.wording import TONES
from examples.foretell import judging, summary, verdicts
from examples.foretell.settings import ForetellSettings

ROW = {
    "when": "window",
    "side": "test",
    "outcome": "forgotten",
    "scope": "across layers",
    "block": "all",
    "predictor": "−signed",
    "kind": "score",
    "correlation": 0.62,
    "low": 0.31,
    "high": 0.81,
    "p": 0.001,
    "p_adjusted": 0.004,
    "beyond": 0.5,
    "beyond_p": 0.002,
    "reliability": 0.9,
    "agreement": 0.8,
    "detectable": 0.4,
    "items": 48,
    "seeds": 3,
}


@pytest.mark.parametrize(
    ("verdict", "tone", "words"),
    [
        (judging.FORETELLS, "shown", "Yes: −signed, averaged over the window, foretells"),
        (judging.OPPOSITE, "shown", "The other way round"),
        (judging.NORMS_DO, "not_shown", "No better than norms"),
        (judging.DOES_NOT, "not_shown", "does not foretell"),
        (judging.TOO_FEW, "too_noisy", "Too few heads or seeds to say"),
    ],
)
def test_each_verdict_has_its_sentence(verdict: str, tone: str, words: str) -> None:
    said = verdicts._of_score(ROW | {"verdict": verdict}, norms=0.4)
    assert said.tone == tone and words in said.text
    assert not said.text.startswith(TONES[tone][1])  # the report sets it before every sentence
    assert "rank correlation 0.62 [0.31, 0.81]" in said.text
    assert "48 heads" in said.detail and "0.004 after Holm" in said.detail
    assert "a true correlation of 0.40 would have been found four times of five" in said.detail


def test_what_could_not_be_measured_or_seen_is_said_so() -> None:
    row = ROW | {"verdict": judging.UNMEASURED, "correlation": math.nan}
    said = verdicts._of_score(row, norms=0.4)
    assert said.text.startswith("Not measured") and "nan" not in said.text + said.detail
    blind = verdicts._of_score(
        ROW | {"verdict": judging.TOO_FEW, "detectable": math.nan}, norms=0.4
    )
    assert "not even a perfect correlation" in blind.detail


def word(**changes: Any) -> str:
    return judging.verdict(ROW | changes)


def test_the_word_follows_from_the_figures() -> None:
    assert word() == judging.FORETELLS
    weak = {"p_adjusted": 0.06, "correlation": 0.1, "low": -0.1, "high": 0.3}
    assert word(**weak) == judging.DOES_NOT
    assert word(**weak, detectable=0.8) == judging.TOO_FEW
    assert word(**weak, detectable=math.nan) == judging.TOO_FEW
    assert word(beyond_p=0.2) == judging.NORMS_DO
    assert word(beyond=-0.5) == judging.NORMS_DO
    assert word(correlation=-0.6) == judging.NORMS_DO  # what norms leave says otherwise
    assert word(correlation=-0.6, beyond=-0.5) == judging.OPPOSITE
    assert word(kind="baseline", beyond=math.nan, beyond_p=math.nan) == judging.FORETELLS


def test_nothing_is_denied_that_the_interval_still_holds() -> None:
    """0.19 [−0.45, 0.71] denies no correlation of 0.50, whatever power over heads alone says."""
    wide = {"p_adjusted": 0.4, "correlation": 0.19, "low": -0.45, "high": 0.71, "detectable": 0.5}
    assert word(**wide) == judging.TOO_FEW
    assert word(**wide | {"high": 0.5}) == judging.TOO_FEW
    assert word(**wide | {"high": math.nan}) == judging.TOO_FEW
    assert word(**wide | {"high": 0.49}) == judging.DOES_NOT
    below = wide | {"correlation": -0.24, "low": -0.6, "high": -0.01}
    assert word(**below) == judging.DOES_NOT  # only what lies above 0 could foretell


def test_what_norms_explain_is_not_what_they_say_where_the_signs_differ() -> None:
    row = ROW | {"verdict": judging.NORMS_DO}
    turned = row | {"correlation": -0.32}
    assert "is what gradient norms alone say" in verdicts._of_score(row, norms=0.4).text
    assert "is what gradient norms alone say" in verdicts._of_score(turned, norms=-0.4).text
    for one, norms, way in ((turned, 0.4, "less"), (row, -0.4, "more")):
        said = verdicts._of_score(one, norms=norms).text
        assert f"forget {way}, against what gradient norms alone say" in said
        assert "is what gradient norms alone say" not in said


def test_the_norms_that_tell_most_have_their_sign(foretold: Run) -> None:
    judged = foretold.table(judging.HEADS)
    rows = [{**judged.rows()[0], "correlation": value} for value in (0.2, -0.4, math.nan)]
    assert verdicts._strongest(Table(judging.HEADS, judged.columns, rows)) == -0.4
    assert verdicts._strongest(Table(judging.HEADS, judged.columns, rows[2:])) == 0.0


def test_scores_come_first_and_cautions_next(foretold: Run) -> None:
    found = verdicts.statements(foretold, ForetellSettings())
    assert len(found) >= 9
    assert all("averaged over the window" in one.text for one in found[:4])
    assert found[4].tone == "warning" and "16 query heads" in found[4].text
    assert "gradient norms alone" in " ".join(one.text for one in found)
    assert not any("nan" in one.text + one.detail for one in found)


def test_nothing_forgotten_is_said(foretold: Run, tmp_path: Any) -> None:
    run = Run.create(tmp_path / "run", "{}\n", kind="foretell")
    for name in (judging.HEADS, judging.ROWS):
        run.write_table(foretold.table(name))
    totals = foretold.table(summary.TOTALS)
    for sign, said in ((1, False), (-1, True)):
        rows = ({**row, "nats": sign * abs(row["nats"])} for row in totals.rows())
        run.write_table(Table(totals.name, totals.columns, rows))
        texts = [one.text for one in verdicts.statements(run, ForetellSettings())]
        assert any("was not forgotten" in text for text in texts) is said
