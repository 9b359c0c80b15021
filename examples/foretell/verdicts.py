"""What a foretell study found, in sentences: each score in a word first, then cautions, what else was seen, and rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.findings import Estimate, counted
from crosstune.foundation.records.page import Statement, Tone
from crosstune.studies.frame.procedure import warnings_of

from . import judging
from .joined import BEFORE
from .profiles import BASELINE, SCORE
from .settings import ForetellSettings
from .summary import TOTALS, headline

_TONES: dict[str, Tone] = {
    judging.FORETELLS: "shown",
    judging.OPPOSITE: "shown",
    judging.NORMS_DO: "not_shown",
    judging.DOES_NOT: "not_shown",
    judging.TOO_FEW: "too_noisy",
    judging.UNMEASURED: "too_noisy",
}
_WHEN = {"window": "averaged over the window", "before": "of the state before"}


def statements(run: Run, settings: ForetellSettings) -> list[Statement]:
    """The findings with their figures, the most important first."""
    judged, by_row = run.table(judging.HEADS), run.table(judging.ROWS)
    asked = headline(judged)
    norms = _strongest(judged.where(**asked, kind=BASELINE))
    return [
        *(_of_score(row, norms) for row in judged.where(**asked, kind=SCORE).rows()),
        *warnings_of(run),
        *_nothing_forgotten(run, settings),
        _of_baselines(judged.where(**asked, kind=BASELINE)),
        *_elsewhere(judged, asked),
        *_of_rows(by_row, asked["when"]),
    ]


def _strongest(baselines: Table) -> float:
    """The correlation of the norms that tell most, with its sign; 0 where none tells anything."""
    found = [value for value in baselines.column("correlation") if not math.isnan(value)]
    return max(found, key=abs, default=0.0)


def _of_score(row: Mapping[str, Any], norms: float) -> Statement:
    name, when = row["predictor"], _WHEN[row["when"]]
    said = {
        judging.FORETELLS: f"Yes: {name}, {when}, foretells which heads forget, beyond gradient norms",
        judging.OPPOSITE: f"The other way round: heads with more of {name}, {when}, forget less",
        judging.NORMS_DO: f"No better than norms: {_told_by_norms(row, norms)}",
        judging.DOES_NOT: f"{name}, {when}, does not foretell which heads forget",
        judging.TOO_FEW: f"Too few heads or seeds to say whether {name}, {when}, foretells which heads forget",
        judging.UNMEASURED: f"Not measured: {name}, {when}, does not tell heads apart",
    }[row["verdict"]]
    return Statement(f"{said}{_figure(row)}.", _TONES[row["verdict"]], _detail(row))


def _told_by_norms(row: Mapping[str, Any], norms: float) -> str:
    """What a score says that norms explain: the same as they do, or the opposite of it."""
    name, when = row["predictor"], _WHEN[row["when"]]
    if row["correlation"] * norms > 0:
        return f"what {name}, {when}, says of which heads forget is what gradient norms alone say"
    less = "more" if row["correlation"] > 0 else "less"
    return (
        f"heads with more of {name}, {when}, forget {less}, against what gradient norms alone say, but only "
        "as far as these explain"
    )


def _figure(row: Mapping[str, Any]) -> str:
    if math.isnan(row["correlation"]):
        return ""
    return f": rank correlation {Estimate(row['correlation'], row['low'], row['high'])}"


def _detail(row: Mapping[str, Any]) -> str:
    if math.isnan(row["correlation"]):
        return f"{row['items']} heads."
    detectable = row["detectable"]
    seen = (
        "not even a perfect correlation would have been found four times of five"
        if math.isnan(detectable)
        else f"a true correlation of {detectable:.2f} would have been found four times of five"
    )
    return (
        f"{row['items']} heads, ranked within their blocks, {counted(row['seeds'], 'seed')}; rows that no score saw. Permutation p "
        f"{row['p']:.2g} ({row['p_adjusted']:.2g} after Holm); beyond norms {row['beyond']:.2f} (p {row['beyond_p']:.2g}); "
        f"{seen}."
    )


def _of_baselines(table: Table) -> Statement:
    return Statement(
        f"What gradient norms alone say of which heads forget: {_plainly(table.rows())}.",
        "info",
        "Rank correlations of the same kind. A score is worth its computation only beyond these.",
    )


def _elsewhere(judged: Table, asked: Mapping[str, str]) -> Iterator[Statement]:
    """What the same scores say inside layers, of magnitudes, and at the state before."""
    for changes, words in (
        ({"scope": judging.WITHIN}, "Heads of one layer compared with each other"),
        ({"outcome": judging.SIZE}, "Which heads change the old task's loss most, either way"),
        ({"when": BEFORE}, "From the state before alone"),
    ):
        rows = judged.where(**{**asked, **changes}, kind=SCORE).rows()
        if rows and changes.items() - asked.items():  # signed scores alone say nothing of sizes
            yield Statement(f"{words}: {_listed(rows)}.", "info", "Verdicts as above.")


def _of_rows(by_row: Table, when: str) -> Iterator[Statement]:
    rows = by_row.where(when=when, block=judging.ALL, kind=SCORE).rows()
    if rows:
        plain = by_row.where(when=when, block=judging.ALL, kind=BASELINE).rows()
        yield Statement(
            f"Which rows of the old task are forgotten most: {_listed(rows)}.",
            "info",
            f"{rows[0]['items']} scored rows, nats a row. What is known without a score says: {_plainly(plain)}.",
        )


def _listed(rows: list[dict[str, Any]]) -> str:
    return "; ".join(
        f"{row['predictor']} {row['verdict']}"
        + ("" if math.isnan(row["correlation"]) else f" ({row['correlation']:.2f})")
        for row in rows
    )


def _plainly(rows: list[dict[str, Any]]) -> str:
    known = [row for row in rows if not math.isnan(row["correlation"])]
    return "; ".join(f"{row['predictor']} {row['correlation']:.2f}" for row in known) or "nothing"


def _nothing_forgotten(run: Run, settings: ForetellSettings) -> Iterator[Statement]:
    """That there is nothing to predict where the old task's loss did not rise."""
    rows = run.table(TOTALS).where(task=settings.old_task, side="test").rows()
    risen = sum(row["nats"] for row in rows) / len(rows)
    if risen <= 0:
        yield Statement(
            f"{settings.old_task} was not forgotten: its loss changed by {risen:.3f} nats per token, so there is little to predict.",
            "warning",
            "Single heads may still contribute forgetting that others make up for.",
        )
