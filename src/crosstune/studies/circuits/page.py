"""The page of a circuit study: the explorer of heads, then scores against each other, checkpoints, slices and methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crosstune.circuits import tables
from crosstune.foundation.records import Run
from crosstune.foundation.records.page import Page, Section
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.circuits.cell import METHODS
from crosstune.studies.circuits.entries import MATRICES, ROWS
from crosstune.studies.circuits.prepare import CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.summary import CHECKPOINTS
from crosstune.studies.circuits.verdicts import statements

_BESIDE = 4  # checkpoints whose maps stand side by side; more are chosen
_UNITS = (
    "The directional and EWC scores hang on the units of each head's weights, so their colours rank no heads and no head is marked: "
    "look at the pairs within one head. Signed and symmetric scores do not hang on them."
)


def page(run: Run, cells: Sequence[CellKey], settings: CircuitStudySettings) -> Page:
    """What the report of a circuit study says and draws.

    Args:
        run: The run, with its tables over cells.
        cells: Its finished cells.
        settings: The study's settings.

    Returns:
        The page.
    """
    return Page(
        title=_title(settings),
        subtitle=_subtitle(cells, settings),
        statements=tuple(statements(run, cells, settings)),
        sections=tuple(_chosen(one, cells) for one in _sections(run, cells)),
    )


def _title(settings: CircuitStudySettings) -> str:
    names = [task.name for task in settings.tasks]
    return f"How {', '.join(names[:-1])} and {names[-1]} meet in attention heads"


def _subtitle(cells: Sequence[CellKey], settings: CircuitStudySettings) -> str:
    measured, names = settings.measurement, [place.checkpoint.name for place in cells]
    states = list(dict.fromkeys(names))
    model = (
        f"The model of {settings.conflict}"
        if settings.conflict
        else "The embedded model"
        if settings.model == EMBEDDED
        else settings.model
    )
    at = f" at {', '.join(states)}" if len(states) > 1 else ""
    blocks = ", ".join(block.upper() for block in measured.blocks)
    return (
        f"{model}{at}. At most {measured.rows} samples a task of at most {measured.length} tokens; blocks {blocks}; "
        f"{', '.join(measured.variants)} scores. Of a pair A:B, A's Fisher normalises the directional pair scores."
    )


def _chosen(section: Section, cells: Sequence[CellKey]) -> Section:
    """The section; it has selectors for checkpoint and pair only where there are several."""
    if section.table is None or section.view == "scatter":
        return section
    several = _several(cells)
    beside = [name for name in several if name == section.facet]
    choose = [name for name in several if name not in beside]
    return replace(
        section,
        choose=(*choose, *section.choose),
        facet=section.facet if beside or section.facet not in ("checkpoint", "pair") else None,
    )


def _several(cells: Sequence[CellKey]) -> list[str]:
    found = []
    if len({place.checkpoint for place in cells}) > 1:
        found.append("checkpoint")
    if len({place.pair for place in cells}) > 1:
        found.append("pair")
    return found


def _sections(run: Run, cells: Sequence[CellKey]) -> Iterator[Section]:
    yield _explorer(cells)
    yield from _cosines(run)
    if run.has_table(tables.ABLATION):
        yield from _ablation()
    if run.has_table(CHECKPOINTS):
        yield from _checkpoints(run)
    yield _slices()
    yield _method(run, cells)


def _explorer(cells: Sequence[CellKey]) -> Section:
    states = {place.checkpoint for place in cells}
    return Section(
        id="heads",
        title="Head by head",
        lead="Each cell is one head: the mean score over all pairs of a sample of A and one of B. Open a head to see its matrix of "
        "pairs, and the texts of those that stand out. In K and V a head is a key-value head, counted once for all query "
        "heads that it serves.",
        view="explorer",
        table=tables.HEADS,
        x="head",
        y="layer",
        value="mean",
        facet="checkpoint" if 1 < len(states) <= _BESIDE else None,
        choose=("block", "variant"),
        begin={"variant": "signed"},
        mark="stands_out",
        matrices=MATRICES,
        pairs=tables.PAIRS,
        names=ROWS,
        note=f"{_UNITS} Signed: above 0 a step for one sample helps the other, below 0 it harms it. Means are under the Fisher of "
        "averages (pooled by default), single pairs under that of pair scores, so a mean need not be that of its matrix.",
    )


def _cosines(run: Run) -> Iterator[Section]:
    rows = run.table(tables.HEADS).rows()
    measured = {row["variant"] for row in rows if row["own_a"] == row["own_a"]}
    for variant, title, what in (
        ("signed", "Do both want the same change?", "mean gradients"),
        ("symmetric", "Do both use the same weights?", "mean magnitudes of both tasks' gradients"),
    ):
        if variant in measured:
            yield Section(
                id=f"cosine-{variant}",
                title=title,
                lead=f"The cosine of the {what} in each head, in the metric of the Fisher: the mean score over pairs of one sample of each task, "
                "in parts of the same mean over pairs within each task; pairs that were drawn together are left out.",
                view="heatmap",
                table=tables.HEADS,
                x="head",
                y="layer",
                value="cosine",
                choose=("block",),
                where={"variant": variant},
                note="1 is what two halves of one task have. Only where each task can be told to share something with itself: of what a model has "
                "learned already little mean gradient is left. It is hatched where that lies within its error, and blank where the "
                "figure within a task is not even above 0. Intervals are of single heads, in the numbers below.",
            )


def _ablation() -> Iterator[Section]:
    for value, title, lead in (
        (
            "spearman",
            "Does the choice of score matter?",
            "Rank correlation of all pair scores of a block between two forms (variant/Fisher). Near 1 the two tell the same; "
            "where one has a sign and the other none, magnitudes are compared.",
        ),
        (
            "overlap",
            "Do the same pairs come out on top?",
            "The share of the 100 largest scores of a block that two forms have in common.",
        ),
    ):
        yield Section(
            id=f"ablation-{value}",
            title=title,
            lead=lead,
            view="heatmap",
            table=tables.ABLATION,
            x="form_a",
            y="form_b",
            value=value,
            choose=("block",),
            note="Intervals: jackknife over folds of rows of both tasks, in the numbers below the figure. Directional and EWC scores of "
            "several heads are ranked here in the units of these weights as they are.",
        )


def _checkpoints(run: Run) -> Iterator[Section]:
    yield Section(
        id="checkpoints",
        title="Do the same heads stand out at other checkpoints?",
        lead="Rank correlation of the heads' means with those of the first checkpoint, within each block, of scores that no rescaling of "
        "weights changes.",
        view="heatmap",
        table=CHECKPOINTS,
        x="block",
        y="checkpoint",
        value="rank_correlation",
        choose=("variant",),
        note="Ranks, because sizes follow the size of the gradients. Intervals treat heads as independent.",
    )
    if run.has_table(tables.CHANGES):
        yield Section(
            id="changes",
            title="Which heads changed?",
            lead="The change of each head's mean since the first checkpoint, over the same pairs of samples.",
            view="heatmap",
            table=tables.CHANGES,
            x="head",
            y="layer",
            value="change",
            choose=("block", "variant"),
            note="Each state's scores are normalised by its own Fisher: interference in units of what that state is sensitive to. Only "
            "scores that no rescaling of weights changes.",
        )


def _slices() -> Section:
    return Section(
        id="slices",
        title="What each Fisher is made of",
        lead="Smallest, median and largest entry of each head's diagonal Fisher, how many entries lie below the floor ε, and the "
        "damping λ that was used.",
        view="table",
        table=tables.SLICES,
        choose=("block", "fisher"),
    )


def _method(run: Run, cells: Sequence[CellKey]) -> Section:
    opened = {cell.folder.name: cell for cell in run.cells()}
    told = [event["text"] for event in opened[cells[0].name].events(METHODS)]
    who = f"Task A is {cells[0].task_a}, task B is {cells[0].task_b}. "
    return Section(
        id="methods",
        title="Methods",
        lead="A paragraph for a paper, written from the settings of the first pair of tasks.",
        view="text",
        note=who + " ".join(told),
    )
