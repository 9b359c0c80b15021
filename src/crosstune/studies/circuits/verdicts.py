"""What a circuit study found, in sentences: each cell's own, then checkpoints, scores against each other, and where arrays lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crosstune.circuits import tables
from crosstune.foundation.records import Run
from crosstune.foundation.records.page import Statement
from crosstune.studies.circuits.cell import STATEMENT
from crosstune.studies.circuits.prepare import CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.summary import CHECKPOINTS
from crosstune.studies.frame.over_seeds import by_key
from crosstune.studies.frame.procedure import warnings_of

_GUIDE = "Intervals treat heads as independent, so they are a guide."


def statements(
    run: Run, cells: Sequence[CellKey], settings: CircuitStudySettings
) -> list[Statement]:
    """The findings of a study.

    Args:
        run: The study's run, with its tables over cells written.
        cells: Its finished cells.
        settings: Its settings.

    Returns:
        Sentences with their figures, the most important first.
    """
    return [
        *_of_cells(run, cells),
        *warnings_of(run),
        *_checkpoints(run),
        *_ablation(run, cells),
        _where(settings),
    ]


def _of_cells(run: Run, cells: Sequence[CellKey]) -> Iterator[Statement]:
    """Each cell's own findings, which say where they are from where there are several."""
    # Means of scores that treat both tasks alike say the same of `A:B` and of `B:A`: once is enough.
    said = set()
    opened = {cell.folder.name: cell for cell in run.cells()}
    several = len({place.checkpoint for place in cells}) > 1
    for place in cells:
        where = f" at {place.checkpoint.name}" if several else ""
        for event in opened[place.name].events(STATEMENT):
            found = Statement(event["text"], event["tone"], event["detail"])
            key = (place.checkpoint, frozenset((place.task_a, place.task_b)), found)
            if key in said:
                continue
            said.add(key)
            yield replace(found, text=f"{place.pair}{where}. {found.text}")


def _checkpoints(run: Run) -> Iterator[Statement]:
    """Whether the same heads stand out at other checkpoints, block by block and variant by variant."""
    if not run.has_table(CHECKPOINTS):
        return
    rows = run.table(CHECKPOINTS).rows()
    for (pair, variant), own in by_key(run.table(CHECKPOINTS), ("pair", "variant")):
        known = [row for row in own if row["low"] == row["low"]]
        if not known:
            continue
        alike = [row for row in known if row["low"] > 0]
        least = min(known, key=lambda row: row["rank_correlation"])
        told = (
            f"least alike: block {least['block'].upper()} at {least['checkpoint']}, rank correlation "
            f"{least['rank_correlation']:.2f} [{least['low']:.2f}, {least['high']:.2f}]"
        )
        text = (
            f"{pair}. Heads rank alike at {rows[0]['against']} and later in {len(alike)} of {len(known)} comparisons of "
            f"{variant} scores ({told})."
        )
        yield Statement(text, "shown" if alike else "not_shown", f"Within blocks. {_GUIDE}")


def _ablation(run: Run, cells: Sequence[CellKey]) -> Iterator[Statement]:
    """How far the choice of score and Fisher matters, for the first cell."""
    if not run.has_table(tables.ABLATION) or not cells:
        return
    first = {"checkpoint": cells[0].checkpoint.name, "pair": cells[0].pair}
    rows = [
        row
        for row in run.table(tables.ABLATION).where(**first).rows()
        if row["form_a"] != row["form_b"] and row["spearman"] == row["spearman"]
    ]
    if not rows:
        return
    most, least = (pick(rows, key=lambda row: row["spearman"]) for pick in (max, min))

    def told(row: dict[str, object]) -> str:
        block = str(row["block"]).upper()
        return (
            f"{row['form_a']} and {row['form_b']} in {block}: {row['spearman']:.2f} "
            f"[{row['spearman_low']:.2f}, {row['spearman_high']:.2f}], {row['overlap']:.0%} of the 100 largest shared"
        )

    yield Statement(
        f"{cells[0].pair}. The choice of score and Fisher changes which pairs stand out most between {told(least)}; "
        f"least between {told(most)}.",
        "info",
        "Rank correlation over all pairs and heads of a block; see the table of all of them.",
    )


def _where(settings: CircuitStudySettings) -> Statement:
    factors = settings.factors or ("factors" if settings.keep_factors else "")
    kept = (
        f" Captured factors are kept in {factors}; another run with `factors` set to that folder asks them other questions "
        "without running the model."
        if factors
        else ""
    )
    return Statement(
        "Every pair's score is kept: cells/*/scores/BLOCK-VARIANT-FISHER.npy, [samples of A, samples of B, layers, heads]. "
        f"CircuitScores.open(folder) reads them.{kept}",
        "info",
    )
