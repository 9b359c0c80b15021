"""The page of a circuit study: the explorer of heads, then scores against each other, checkpoints, slices and methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from crosstune.circuits import tables
from crosstune.circuits.checks import INVARIANT
from crosstune.foundation.records import Run
from crosstune.foundation.records.page import Page, Section
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.circuits.cell import METHODS
from crosstune.studies.circuits.head_pairs import MATRICES, ROWS, standing
from crosstune.studies.circuits.prepare import CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.summary import CHECKPOINTS
from crosstune.studies.circuits.verdicts import statements

_BESIDE = 4  # checkpoints whose maps stand side by side; more are chosen
_heads = partial(Section, table=tables.HEADS, x="head", y="layer")
_EXPLORER = _heads(
    id="heads",
    title="Head by head",
    lead="Each cell is one head: the mean score over all pairs of a sample of A and one of B. Open a head to see its matrix of "
    "pairs, and the texts of those that stand out. In K and V a head is a key-value head, counted once for all query "
    "heads that it serves.",
    view="explorer",
    value="mean",
    facet="checkpoint",
    choose=("block", "variant"),
    begin={"variant": "signed"},
    mark="stands_out",
    matrices=MATRICES,
    pairs=tables.PAIRS,
    names=ROWS,
    note="The directional and EWC scores are not invariant to rescaling a head's weights, so their colours rank no heads and no head is "
    "marked: look at the pairs within one head. Signed and symmetric scores are invariant. Signed: above 0 a step for one sample "
    "helps the other, below 0 it harms it. Means are under the Fisher of averages (pooled by default), single pairs under that of "
    "pair scores, so a mean need not be that of its matrix.",
)
_COSINES = {
    variant: _heads(
        id=f"cosine-{variant}",
        title=title,
        lead=f"The cosine of the {what} in each head, in the metric of the Fisher: the mean score over pairs of one sample of each task, "
        "in parts of the same mean over pairs within each task; pairs that are not independent (of one row or group) are left out.",
        view="heatmap",
        value="cosine",
        choose=("block",),
        where={"variant": variant},
        note="1 is what two halves of one task have. Only where the gradients within each task are shown to agree: of what a model has "
        "learned already little mean gradient is left. It is hatched where that lies within its error, and blank where the "
        "figure within a task is not even above 0. Intervals are of single heads, in the numbers below.",
    )
    for variant, title, what in (
        ("signed", "Do both want the same change?", "mean gradients"),
        ("symmetric", "Do both use the same weights?", "mean magnitudes of both tasks' gradients"),
    )
}
_ablation = partial(
    Section,
    view="heatmap",
    table=tables.ABLATION,
    x="form_a",
    y="form_b",
    choose=("block",),
    note="Intervals: jackknife over folds of rows of both tasks, in the numbers below the figure. Directional and EWC scores of "
    "several heads are ranked here although they depend on how each head's weights are scaled.",
)
_ABLATION = (
    _ablation(
        id="ablation-spearman",
        title="Does the choice of score matter?",
        lead="Rank correlation of all pair scores of a block between two forms (variant/Fisher). Near 1 the two tell the same; "
        "where one has a sign and the other none, magnitudes are compared.",
        value="spearman",
    ),
    _ablation(
        id="ablation-overlap",
        title="Do the same pairs come out on top?",
        lead="The share of the 100 largest scores of a block that two forms have in common.",
        value="overlap",
    ),
)
_OVER_CHECKPOINTS = (
    Section(
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
    ),
    Section(
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
    ),
)
_SLICES = Section(
    id="slices",
    title="What each Fisher is made of",
    lead="Smallest, median and largest entry of each head's diagonal Fisher, how many entries lie below the floor ε, and the "
    "damping λ that was used.",
    view="table",
    table=tables.SLICES,
    choose=("block", "fisher"),
    aside=True,
)


def page(run: Run, done: Mapping[CellKey, Run], settings: CircuitStudySettings) -> Page:
    """What the report of a circuit study says and draws of its finished cells."""
    *first, last = settings.task_names
    return Page(
        title=f"How {', '.join(first)} and {last} meet in attention heads",
        subtitle=_subtitle(done, settings),
        statements=tuple(statements(run, done, settings)),
        pictures=tuple(_pictures(run)),
        sections=tuple(_sections(run, done)),
    )


def _pictures(run: Run) -> Iterator[Section]:
    """The map of the block in which a head stands out most, by scores that rank heads."""
    rows = [row for row in run.table(tables.HEADS).rows() if row["variant"] in INVARIANT]
    if rows:
        most = max(rows, key=standing)
        where = {name: most[name] for name in ("checkpoint", "pair", "block", "variant", "fisher")}
        yield _heads(
            id="glance",
            title=f"Mean {most['variant']} score of each head of block {most['block'].upper()}, {most['pair']}",
            lead="",
            view="heatmap",
            value="mean",
            where=where,
        )


def _subtitle(done: Mapping[CellKey, Run], settings: CircuitStudySettings) -> str:
    measured = settings.measurement
    states = list(dict.fromkeys(key.checkpoint for key in done))
    model = "The embedded model" if settings.model == EMBEDDED else settings.model
    if settings.conflict:
        model = f"The model of {settings.conflict}"
    at = f" at {', '.join(states)}" if len(states) > 1 else ""
    blocks = ", ".join(block.upper() for block in measured.blocks)
    return (
        f"{model}{at}. At most {measured.rows} samples a task of at most {measured.length} tokens; blocks {blocks}; "
        f"{', '.join(measured.variants)} scores. Of a pair A:B, A's Fisher normalises the directional pair scores."
    )


def _sections(run: Run, done: Mapping[CellKey, Run]) -> Iterator[Section]:
    """The sections whose tables were written, with selectors of checkpoint and pair where there are several."""
    rows = run.table(tables.HEADS).rows()
    within = {row["variant"] for row in rows if row["own_a"] == row["own_a"]}
    cosines = (section for variant, section in _COSINES.items() if variant in within)
    states, pairs = len({key.checkpoint for key in done}), len({key.pair for key in done})
    several = ["checkpoint"] * (states > 1) + ["pair"] * (pairs > 1)
    for section in (_EXPLORER, *cosines, *_ABLATION, *_OVER_CHECKPOINTS, _SLICES):
        if run.has_table(str(section.table)):
            facet = section.facet if 1 < states <= _BESIDE else None
            choose = (name for name in several if name != facet)
            yield replace(section, facet=facet, choose=(*choose, *section.choose))
    first = next(iter(done))
    methods = " ".join(event["text"] for event in done[first].events(METHODS))
    yield Section(
        id="methods",
        title="Methods",
        lead="A paragraph for a paper, written from the settings of the first pair of tasks.",
        view="text",
        note=f"Task A is {first.task_a}, task B is {first.task_b}. {methods}",
    )
