"""What the cells found, over seeds: the verdicts of every predictor, and the profiles that they stand on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.studies.frame.opening import seeds_of
from crosstune.studies.frame.over_seeds import mean_over_seeds, together

from . import judging
from .joined import OfHeads, OfRows, of_heads, of_rows
from .profiles import BLOCK, HEAD, KIND, PREDICTOR, SCORE, Cells
from .settings import ForetellSettings

TOTALS = "forgetting_totals"
MAP, FORGOTTEN, POINTS = "foretell_heads", "foretell_forgotten", "foretell_rows"
_NATS = "nats/token"
_SIDE = Column.axis("side", about="train: rows scores come from; test: no score saw them.")
_WHEN = Column.axis("when", about="before: one state; window: mean over several.")
MAP_COLUMNS = (
    _WHEN,
    _SIDE,
    *HEAD,
    PREDICTOR,
    KIND,
    Column.value("score", about="Mean over seeds."),
    Column.value("nats", unit=_NATS, about="What the ledger attributes to it, mean over seeds."),
)
FORGOTTEN_COLUMNS = (
    _SIDE,
    *HEAD,
    *Column.interval(
        "nats",
        names=("low", "high"),
        unit=_NATS,
        about="Contribution to the loss change: above 0, forgotten. Mean over seeds.",
        bounds="Over seeds; none of one seed.",
    ),
)
POINTS_COLUMNS = (
    _WHEN,
    BLOCK,
    Column.axis("row_id", about="The old task's scored row."),
    PREDICTOR,
    KIND,
    Column.label("text", about="What it says."),
    Column.label("tokens", "int64", about="Its scored tokens."),
    Column.value("score", about="Mean over seeds."),
    Column.value("change", unit="nats", about="After − before, mean over seeds."),
)


def over_seeds(
    done: Sequence[Run], settings: ForetellSettings
) -> tuple[list[Table], list[Measurement]]:
    """Verdicts, maps, rows and what was forgotten in all, from the finished cells; the correlations of the headline."""
    heads, rows, seeds = of_heads(done), of_rows(done), seeds_of(done, settings)
    judged = judging.judge_heads(heads, settings.permutations)
    tables = [
        judged,
        judging.judge_rows(rows, settings.permutations),
        Table.of_tuples(MAP, MAP_COLUMNS, _map(heads)),
        Table.of_tuples(FORGOTTEN, FORGOTTEN_COLUMNS, _forgotten(heads)),
        Table.of_tuples(POINTS, POINTS_COLUMNS, _points(rows)),
        *together(done, seeds, (TOTALS,)).values(),
    ]
    return tables, measurements(judged, seeds)


def _map(found: OfHeads) -> Iterator[Cells]:
    for when, predictors in found.predictors.items():
        for side, contributions in found.contributions.items():
            for one in predictors:
                means = (one.values.mean(0).tolist(), contributions.mean(0).tolist())
                for head, score, nats in zip(found.heads, *means, strict=True):
                    yield when, side, *head, one.name, one.kind, score, nats


def _forgotten(found: OfHeads) -> Iterator[Cells]:
    for side, nats in found.contributions.items():
        for head, values in zip(found.heads, nats.T.tolist(), strict=True):
            mean = mean_over_seeds(values)
            yield side, *head, mean.value, mean.low, mean.high


def _points(found: OfRows) -> Iterator[Cells]:
    changes = found.change.mean(0).tolist()
    for (when, block), predictors in found.predictors.items():
        for one in predictors:
            scores = one.values.mean(0).tolist()
            for row, *figures in zip(found.rows, scores, changes, strict=True):
                said = (row["text"], row["tokens"])
                yield when, block, row["row_id"], one.name, one.kind, *said, *figures


def headline(judged: Table) -> dict[str, str]:
    """The question that the first sentences answer: all heads ranked in their blocks, rows no score saw, the whole window."""
    return {
        "when": judged.column("when")[-1],
        "side": "test",
        "outcome": judging.FORGOTTEN,
        "scope": judging.ACROSS,
        "block": judging.ALL,
    }


def measurements(judged: Table, seeds: Sequence[int]) -> list[Measurement]:
    """The headline figures: the correlation of each score that could be ranked with what was forgotten."""
    return [
        Measurement(
            name=f"rank correlation of {row['predictor']} with what heads forgot",
            value=row["correlation"],
            low=row["low"],
            high=row["high"],
            n=row["items"],
            unit="",
            how="Spearman within blocks, interval over heads, and over seeds where there are several; rows no score saw",
            seeds=tuple(seeds),
            chance=0.0,
            n_unit="heads",
        )
        for row in judged.where(**headline(judged), kind=SCORE).rows()
        if not math.isnan(row["correlation"])
    ]
