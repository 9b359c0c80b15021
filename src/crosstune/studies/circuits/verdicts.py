"""What a circuit study found, in sentences: each cell's own, then checkpoints, scores against each other, and where arrays lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from crosstune.circuits import tables
from crosstune.foundation.records import Run
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.records.page import Statement
from crosstune.studies.circuits.cell import STATEMENT
from crosstune.studies.circuits.prepare import CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.summary import CHECKPOINTS
from crosstune.studies.frame.over_seeds import PLAIN, by_key
from crosstune.studies.frame.procedure import warnings_of

_GUIDE = "Within blocks. Intervals treat heads as independent, so they are a guide."


def statements(
    run: Run, done: Mapping[CellKey, Run], settings: CircuitStudySettings
) -> list[Statement]:
    """The findings of a study whose tables are written, from its finished cells, the most important first."""
    return [
        *_of_cells(done),
        *warnings_of(run),
        *(_checkpoints(run) if run.has_table(CHECKPOINTS) else ()),
        *(_ablation(run, next(iter(done))) if run.has_table(tables.ABLATION) else ()),
        _where(settings),
    ]


def _of_cells(done: Mapping[CellKey, Run]) -> Iterator[Statement]:
    """Each cell's own findings, which say where they are from where there are several."""
    # Means of scores that treat both tasks alike say the same of `A:B` and of `B:A`: once is enough.
    said = set()
    several = len({key.checkpoint for key in done}) > 1
    for key, cell in done.items():
        where = f" at {key.checkpoint}" if several else ""
        for event in cell.events(STATEMENT):
            found = Statement(event["text"], event["tone"], event["detail"])
            once = key.checkpoint, frozenset((key.task_a, key.task_b)), found
            if once not in said:
                said.add(once)
                yield replace(found, text=f"{key.pair}{where}. {found.text}")


def _checkpoints(run: Run) -> Iterator[Statement]:
    """Whether the same heads stand out at other checkpoints, variant by variant."""
    for (pair, variant, against), rows in by_key(
        run.table(CHECKPOINTS), ("pair", "variant", "against")
    ):
        found = [(Estimate.of(row, "rank_correlation", PLAIN), row) for row in rows]
        known = [(rho, row) for rho, row in found if rho.has_interval]
        if not known:
            continue
        alike = sum(rho.is_positive for rho, _ in known)
        rho, row = min(known, key=lambda pair: pair[0].value)
        yield Statement(
            f"{pair}. Heads rank alike at {against} and later in {alike} of {len(known)} comparisons of {variant} scores "
            f"(least alike: block {row['block'].upper()} at {row['checkpoint']}, rank correlation {rho}).",
            "shown" if alike == len(known) else "info" if alike else "not_shown",
            _GUIDE,
        )


def _ablation(run: Run, first: CellKey) -> Iterator[Statement]:
    """How far the choice of score and Fisher matters, for the first cell."""
    found = [
        (Estimate.of(row, "spearman"), row)
        for row in run.table(tables.ABLATION).where(**first.axes).rows()
        if row["spearman"] == row["spearman"]
    ]
    if not found:
        return
    least, most = (
        f"{row['form_a']} and {row['form_b']} in {row['block'].upper()}: {rho}, {row['overlap']:.0%} of the 100 largest shared"
        for rho, row in (pick(found, key=lambda one: one[0].value) for pick in (min, max))
    )
    yield Statement(
        f"{first.pair}. The choice of score and Fisher changes which pairs stand out most between {least}; "
        f"least between {most}.",
        "info",
        "Rank correlation over all pairs and heads of a block; see the table of all of them.",
    )


def _where(settings: CircuitStudySettings) -> Statement:
    factors = settings.factors or ("factors" if settings.keep_factors else "")
    kept = (
        f" Captured factors are kept in {factors}; another run with `factors` set to that folder asks them other questions "
        "without running the model."
    )
    return Statement(
        "Every pair's score is kept: cells/*/scores/BLOCK-VARIANT-FISHER.npy, [samples of A, samples of B, layers, heads]. "
        f"CircuitScores.open(folder) reads them.{kept if factors else ''}",
        "info",
    )
