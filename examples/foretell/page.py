"""The page of a foretell study: which tables are drawn, in which order, and what a reader is told about each."""

from __future__ import annotations

from collections.abc import Iterator

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Page, Section
from crosstune.foundation.worlds import EMBEDDED

from . import judging
from .profiles import BASELINE, SCORE
from .settings import ForetellSettings
from .summary import FORGOTTEN, MAP, POINTS, TOTALS, headline
from .verdicts import statements


def page(run: Run, settings: ForetellSettings) -> Page:
    """What the report says and draws."""
    return Page(
        title=f"Do heads foretell what {settings.old_task} loses to {settings.new_task}?",
        subtitle=_subtitle(run, settings),
        statements=tuple(statements(run, settings)),
        sections=tuple(_sections(run, settings)),
    )


def _subtitle(run: Run, settings: ForetellSettings) -> str:
    training = settings.training
    model = "The embedded model" if settings.before == EMBEDDED else settings.before
    seeds = dict.fromkeys(run.table(TOTALS).column("seed"))
    states = "the state before" if settings.states == 1 else f"{settings.states} states"
    return (
        f"{model}; heads scored at {states}, then {training.steps} steps on {settings.new_task} at learning rate "
        f"{training.learning_rate:g}; seeds {', '.join(map(str, seeds))}."
    )


def _sections(run: Run, settings: ForetellSettings) -> Iterator[Section]:
    judged = run.table(judging.HEADS)
    asked = headline(judged)
    yield _correlations(asked)
    yield from _heads(judged, asked)
    yield from _rows(asked)
    yield _power(asked)
    yield Section(
        id="totals",
        title="What was forgotten in all",
        lead="The measured change of the old task's loss at each seed, to which the entries of all components and heads add up.",
        view="table",
        table=TOTALS,
    )
    yield _method(settings)


def _correlations(asked: dict[str, str]) -> Section:
    return Section(
        id="foretell",
        title="Which scores foretell which heads forget?",
        lead="Rank correlation of each score, taken before, with what the ledger attributes to each head. To the right: heads "
        "with more of it forget more. Norms are what needs no score.",
        view="bars",
        table=judging.HEADS,
        y="predictor",
        value="correlation",
        color="kind",
        choose=("when", "side", "outcome", "scope", "block"),
        begin=dict(asked),
        note="Signed scores are negated, so that conflict lies to the right. Heads are ranked within their block (within "
        "layers: within their block of one layer), so neither depth alone nor a block's units count there. Intervals over heads, "
        "and over seeds where there are several; heads are not quite independent, so the permutation p is the test.",
    )


def _heads(judged: Table, asked: dict[str, str]) -> Iterator[Section]:
    first = judged.where(**asked, kind=SCORE).column("predictor")[0]
    begin: dict[str, object] = {"when": asked["when"], "side": asked["side"], "predictor": first}
    yield Section(
        id="heads",
        title="Head by head",
        lead="Each point is a head: its score before, and what was forgotten through it (above 0) or learned (below).",
        view="scatter",
        table=MAP,
        x="score",
        y="nats",
        color="block",
        choose=("when", "side", "predictor"),
        begin=begin,
        note="Means over seeds. Compare points of one block only: directional scores of two blocks have no common unit.",
    )
    yield Section(
        id="forgotten-map",
        title="Where it was forgotten",
        lead="Nats per token that the ledger attributes to every head: above 0 forgotten, below 0 learned.",
        view="heatmap",
        table=FORGOTTEN,
        x="head",
        y="layer",
        value="nats",
        choose=("block", "side"),
        begin={"side": asked["side"]},
        note="Mean over seeds. K and V have one contribution for each key-value head.",
    )
    yield Section(
        id="score-map",
        title="Where it was foretold",
        lead="The score of every head; compare with the map above.",
        view="heatmap",
        table=MAP,
        x="head",
        y="layer",
        value="score",
        choose=("block", "predictor", "when"),
        begin={"predictor": first, "when": asked["when"]},
        where={"side": asked["side"]},
    )


def _rows(asked: dict[str, str]) -> Iterator[Section]:
    begin: dict[str, object] = {"when": asked["when"], "block": judging.ALL}
    yield Section(
        id="rows",
        title="Which rows are forgotten?",
        lead="The same question of the old task's scored rows: does a row's score, over all heads, predict how much its "
        "loss rises?",
        view="bars",
        table=judging.ROWS,
        y="predictor",
        value="correlation",
        color="kind",
        choose=("when", "block"),
        begin=begin,
        note="Long rows have more to lose: the number of "
        "scored tokens, the loss before and the row's gradient norm are taken out in the column `beyond`.",
    )
    yield Section(
        id="row-points",
        title="Row by row",
        lead="Each point is a row of the old task.",
        view="scatter",
        table=POINTS,
        x="score",
        y="change",
        color="kind",
        choose=("when", "block", "predictor"),
        begin={"when": asked["when"]},
    )


def _power(asked: dict[str, str]) -> Section:
    return Section(
        id="power",
        title="What could have been seen",
        lead="Every figure behind the verdicts: reliability of the score, agreement of two seeds' forgetting, and the true "
        "correlation that this many heads would show four times of five.",
        view="table",
        table=judging.HEADS,
        choose=("when", "side", "outcome", "scope"),
        begin={name: asked[name] for name in ("when", "side", "outcome", "scope")},
        note=f"Where only a correlation above {judging.CLEAR:g} could be seen, “{judging.TOO_FEW}” stands instead of "
        f"“{judging.DOES_NOT}”.",
    )


def _method(settings: ForetellSettings) -> Section:
    return Section(
        id="method",
        title="How it was asked, and what it does not say",
        lead="Scores are means over pairs of a row of the old task and one of the new, at the state before and at "
        "snapshots of a pilot run: a copy that learns the new task for a few steps in another order and is thrown away, since signed scores flip with the "
        "optimizer's oscillation. No score sees anything of the training itself. The outcome is the forgetting ledger "
        "by block and head, whose contributions add up to the loss change; on the side `test` it stands on rows that no score saw. p: heads are permuted within "
        "their strata, in all seeds at once. “Foretells” asks for a positive correlation that holds after Holm over the scores, "
        f"and for one that gradient norms ({BASELINE}s) do not explain. None of it says that a head causes forgetting, nor speaks "
        "of other models, tasks or learning rates.",
        view="text",
        note=f"{settings.states} snapshots, {settings.apart} steps apart; {settings.permutations} permutations; up to "
        f"{settings.measurement.rows} rows a task.",
    )
