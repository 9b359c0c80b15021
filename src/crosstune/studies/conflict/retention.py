"""R[stage][task] over seeds, on train rows and test rows apart, with ACC, BWT and forgetting as measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from crosstune.foundation.evaluation.retention import SIDES, RetentionMatrix, Side
from crosstune.foundation.records import Column, Measurement, Table
from crosstune.studies.conflict.settings import learned_in
from crosstune.studies.conflict.tables import BASE, BITS, KEY, NATS, SIDE, STAGE, TASK
from crosstune.studies.frame.over_seeds import PLAIN, Rows, SeedMean, by_place, mean_over_seeds

_RETENTION = (
    *(STAGE, TASK, SIDE),
    *Column.interval(
        "nats",
        names=PLAIN,
        unit=NATS,
        about="Mean over seeds.",
        bounds="Over seeds and rows; over rows for one seed.",
    ),
    Column.chance("uniform", of="nats", unit=NATS, about="ln V."),
    Column.label("rows_low", "float64", unit=NATS, about="Interval over rows alone."),
    Column.label("rows_high", "float64", unit=NATS),
    Column.value("perplexity", about="exp of the mean nats."),
    Column.value("change_percent", unit="%", about="Of the perplexity, against the base model."),
    *Column.interval("bits", unit=BITS, about="Mean over seeds."),
    Column.label("rows", "int64"),
    Column.label("cut_share", "float64", about="Rows that lost their end."),
    Column.label("seeds", "int64"),
)


def retention(scores: Table) -> Table:
    """The table `retention`: what the model knew of every task after every stage, the base model first, over seeds."""
    base: dict[tuple[str, str], float] = {}
    rows = (_row(place, found, base) for place, found in by_place(scores, KEY))
    return Table("retention", _RETENTION, rows)


def _row(place: dict[str, Any], found: Rows, base: dict[tuple[str, str], float]) -> dict[str, Any]:
    nats, bits = SeedMean.of(found, "nats", PLAIN), SeedMean.of(found, "bits")
    before = base.setdefault(
        (place["task"], place["side"]), nats.value
    )  # rows of the base are first
    return {
        **place,
        **nats.cells("nats", PLAIN),
        "uniform": found[0]["uniform"],
        "rows_low": nats.rows_low,
        "rows_high": nats.rows_high,
        "perplexity": math.exp(min(nats.value, 700.0)),
        "change_percent": 100.0 * math.expm1(min(nats.value - before, 700.0)),
        **bits.cells("bits"),
        "rows": found[0]["rows"],
        "cut_share": found[0]["cut_share"],
        "seeds": nats.seeds,
    }


def measurements(scores: Table, stages: Sequence[str]) -> Iterator[Measurement]:
    """ACC, BWT and forgetting on both sides, in nats and in bits per byte, with intervals over seeds."""
    learned = [learned_in(stage) for stage in stages]
    seeds = tuple(dict.fromkeys(scores.column("seed")))
    for column, unit in (("nats", NATS), ("bits", BITS)):
        matrices = [
            _matrix(scores.where(seed=seed), stages, learned, column, unit) for seed in seeds
        ]
        for side in SIDES:
            for name in ("acc", "bwt", "forgetting"):
                yield _over_seeds(
                    [getattr(matrix, name)(side) for matrix in matrices], column, seeds
                )


def _matrix(
    scores: Table, stages: Sequence[str], learned: Sequence[str], column: str, unit: str
) -> RetentionMatrix:
    others = [task for task in dict.fromkeys(scores.column("task")) if task not in learned]
    matrix = RetentionMatrix(learned, lower_is_better=True, references=others)
    numbers = {stage: number for number, stage in enumerate((BASE, *stages))}
    for row in scores.rows():
        side: Side = row["side"]
        found = Measurement(
            column, row[column], math.nan, math.nan, row["rows"], unit, "score_rows"
        )
        matrix.record(numbers[row["stage"]], row["task"], side, found)
    return matrix


def _over_seeds(found: Sequence[Measurement], column: str, seeds: tuple[int, ...]) -> Measurement:
    mean = mean_over_seeds([one.value for one in found])
    return Measurement(
        f"{found[0].name} ({column})",
        *(mean.value, mean.low, mean.high, mean.seeds),
        unit=found[0].unit,
        how=f"{found[0].how}; {mean.how}, rows as they are",
        seeds=seeds,
        n_unit="seeds",
    )
