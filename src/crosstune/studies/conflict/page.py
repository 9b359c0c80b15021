"""The page of a conflict study: which tables are drawn, in which order, and what is said about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Page, Section, drawn
from crosstune.studies.conflict import repairs
from crosstune.studies.conflict.agreement import PAIR_JOINT, WHOLE, WINDOW
from crosstune.studies.conflict.settings import ConflictSettings, learned_in
from crosstune.studies.conflict.tables import KEY
from crosstune.studies.conflict.verdicts import statements

_LOST: dict[str, Any] = {"ends": ("gained", "lost")}  # the words for a fall and a rise of a loss
_PULL: dict[str, Any] = {"ends": ("conflict", "agreement"), "worse": "below"}
Begin = dict[str, object]
"""Where selectors stand at first."""


def page(run: Run, settings: ConflictSettings) -> Page:
    """What the report of a conflict study says and draws, from the tables over seeds."""
    begin = _most_forgotten(run.table("closing"))
    *others, last = settings.reference_tasks
    answer, *findings = statements(run, settings)
    return Page(
        title=f"What learning {' → '.join(settings.stage_tasks)} does to {' and '.join([', '.join(others), last])}",
        subtitle=_subtitle(settings, run.table("scores").column("seed")),
        answer=answer,
        pictures=tuple(_pictures(begin)),
        statements=tuple(findings),
        sections=tuple(_sections(run, settings, begin)),
    )


def _pictures(begin: Begin) -> Iterator[Section]:
    yield Section(
        "changes",
        "What each stage did to each task",
        "Change of the held-out loss in nats per token, mean over seeds.",
        **drawn(
            "heatmap", "closing", x="task", y="stage", value="measured", where={"side": "test"}
        ),
        **_LOST,
    )
    yield Section(
        "largest",
        f"Through which components {begin['task']} was lost in stage {begin['stage']}",
        "The three largest parts; intervals over seeds alone.",
        **drawn("bars", "forgetting_components", y="component", value="nats", where=begin),
        **_LOST,
        order="size",
        most=3,
    )


def _subtitle(settings: ConflictSettings, seeds: Sequence[int]) -> str:
    training = settings.training
    adapters = "" if training.lora is None else f", LoRA of rank {training.lora.rank}"
    return (
        f"{settings.model.rstrip('/').split('/')[-1]}{adapters}; {training.steps} steps a stage at learning rate "
        f"{training.learning_rate:g}; seeds {', '.join(map(str, dict.fromkeys(seeds)))}. A seed changes the order of training rows, "
        "dropout and new adapters; the rows, and which are held out, are the same for all seeds. Intervals hold the "
        "error of rows and seeds where both are known; a figure's note says which."
    )


def _sections(run: Run, settings: ConflictSettings, begin: Begin) -> Iterator[Section]:
    yield from _ledger(settings, begin)
    if run.has_table("forgetting_head_means"):
        yield _heads(begin)
    if settings.rollback != "none":
        yield _rollback(begin)
    if settings.probe is not None:
        yield from _agreement(run, settings, begin)
    if settings.repair is not None and run.has_table(repairs.MEANS.name):
        yield repairs.section()
    yield from _retention(settings, run.table("chance"))
    yield from _learning(settings, run.table("chance"))


def _most_forgotten(closing: Table) -> Begin:
    """Where a reader will want to look first: the stage and task with the largest rise of held-out loss, the learned one aside."""
    rows = closing.where(side="test").rows()
    others = [row for row in rows if row["task"] != learned_in(row["stage"])]
    worst = max(others or rows, key=lambda row: row["measured"])
    return {name: worst[name] for name in KEY}


def _ledger(settings: ConflictSettings, begin: Begin) -> Iterator[Section]:
    yield Section(
        "forgetting",
        "The forgetting ledger",
        "How many nats per token each task lost (right) or gained (left) through each component while another was "
        "learned. The bars of a task add up to the measured change of its loss.",
        **drawn("bars", "forgetting_components", begin, y="component", value="nats"),
        **_LOST,
        note="Path integral of the task's gradient (loss change allocation); intervals over seeds alone, without the error of the rows.",
    )
    yield Section(
        "forgetting-sites",
        "Where it was forgotten",
        "The same account cut by layer and component. Layer −1 holds what is outside the blocks: embeddings, "
        "last norm, head.",
        **drawn("heatmap", "forgetting", begin, x="component", y="layer", value="nats"),
        **_LOST,
        note="Hover for intervals over seeds and rows.",
    )
    yield Section(
        "forgetting-path",
        "When it was forgotten",
        "The account along training: what each component had cost the task by each step, its layers added up. The "
        "lines of a step add up to the change of the task's loss so far.",
        **drawn("lines", "forgetting_course", begin, x="step", value="nats", color="component"),
        **_LOST,
        note="Mean over seeds, bands over seeds alone.",
    )
    yield Section(
        "closing",
        "The accounts close",
        "For every stage, task and side: the measured change of the loss, the sum of all contributions, and what is "
        f"left over, with segments of {settings.ledger.every} optimizer steps. An account that does not close stops the run.",
        **drawn("table", "closing", value="measured"),
        beside=("booked",),
        **_LOST,
        note="Side train: rows of the kind that was trained on (retention); side test: held out (capability).",
        aside=True,
    )


def _heads(begin: Begin) -> Section:
    return Section(
        "forgetting-heads",
        "Through which heads",
        "The same account of one attention projection, cut by layer and head: queries and the output by query head, "
        "keys and values by key-value head.",
        **drawn(
            "heatmap",
            "forgetting_head_means",
            begin,
            choose=("component", *KEY),
            x="head",
            y="layer",
            value="nats",
        ),
        **_LOST,
        note="A head owns rows of the query, key and value weights and columns of the output's. The "
        "heads of a layer add up to its component above, but for what belongs to no head (a bias of the output, a LoRA "
        "factor). Hover for intervals over seeds and rows.",
    )


def _rollback(begin: Begin) -> Section:
    return Section(
        "rollback",
        "Rollback",
        "The causal check: put one component back to where it was before the stage, and read how much of a task's "
        "loss comes back (right) or is lost again (left).",
        **drawn("bars", "rollback_means", begin, y="where", value="nats", order="size"),
        ends=("lost again", "comes back"),
        worse="below",
        note="Intervals over seeds and rows. Putting one component back and then another need not add up: they interact.",
    )


def _agreement(run: Run, settings: ConflictSettings, begin: Begin) -> Iterator[Section]:
    meet = (learned_in(str(begin["stage"])), begin["task"])
    pair = PAIR_JOINT.join(task for task in settings.reference_tasks if task in meet)
    first = {"stage": begin["stage"], "pair": pair}
    yield Section(
        "agreement",
        "Do gradients agree?",
        "The corrected cosine between the gradients of two tasks, over the whole stage, beside the naive cosine "
        "that noise pulls towards 0. Hatched cells are below the noise floor and have no number.",
        **drawn(
            "heatmap",
            "agreement",
            first,
            x="component",
            y="layer",
            value="corrected",
        ),
        **_PULL,
        beside=("naive",),
        where={"scope": WHOLE},
        note="Window means over states and seeds: U-statistics over blocks, jackknife over blocks, t over seeds.",
    )
    if len({row["stop_step"] for row in run.table("agreement").where(scope=WINDOW).rows()}) > 1:
        yield Section(
            "agreement-time",
            "Agreement over time",
            "The corrected cosine in each window of the stage. One state alone may have the other sign a few "
            "steps later; only window means over states and seeds are read here.",
            **drawn(
                "lines",
                "agreement",
                {**first, "layer": 0},
                x="stop_step",
                value="corrected",
                color="component",
            ),
            **_PULL,
            where={"scope": WINDOW},
            thin="agreement_at_one_state",
            note="Thick: window means over states and seeds. Thin: the first seed at one state. What is below the noise "
            "floor is left out.",
        )
    yield Section(
        "peaks",
        "Is there a peak?",
        "A site is called a peak only if it is distinguished from every other by its standardised difference; else "
        "the sites that cannot be distinguished are named.",
        **drawn("table", "peaks_over_seeds", choose=("scope",)),
        aside=True,
    )
    if run.has_table("movement_over_seeds"):
        yield Section(
            "movement",
            "Does it move through depth?",
            "The slope of agreement on depth, and whether it changes over the stage.",
            **drawn("table", "movement_over_seeds"),
            aside=True,
        )


def _retention(settings: ConflictSettings, chance: Table) -> Iterator[Section]:
    repaired = "" if settings.repair is None else " After a stage stands for its repaired model."
    titles = {"test": "Capability: held-out rows", "train": "Retention: training rows"}
    for side, title in titles.items():
        yield Section(
            f"retention-{side}",
            title,
            "Nats per token of every task (columns) after every stage (rows), the base model first; with "
            f"perplexity and its change against the base model.{repaired}",
            **drawn("matrix", "retention", x="task", y="stage", value="nats", where={"side": side}),
            beside=("change_percent",),
            **_LOST,
            note=_chance_words(chance, side),
        )


def _chance_words(chance: Table, side: str) -> str:
    rows = chance.where(side=side).rows()
    unigram = ", ".join(f"{row['task']} {row['nats']:.3g}" for row in rows)
    return (
        f"Guessing uniformly costs ln V = {rows[0]['uniform']:.3g} nats per token; knowing only how frequent tokens "
        f"are: {unigram}. A loss above ln V is over-confidence, not lost knowledge."
    )


def _learning(settings: ConflictSettings, chance: Table) -> Iterator[Section]:
    held_out = chance.where(side="test").rows()
    uniform = ("uniform", held_out[0]["uniform"])
    unigrams = ((f"unigram {row['task']}", row["nats"]) for row in held_out)
    last = {"stage": settings.stage_names[-1]}
    course: dict[str, Any] = {"begin": last, "x": "step", "trace": "seed"}
    if settings.training.evaluate_every:
        yield Section(
            "learning",
            "Learning curves",
            "Held-out loss of every task while one of them is learned.",
            **drawn("lines", "evaluation", value="nats", color="task", **course),
            lines=(uniform, *unigrams),
        )
    yield Section(
        "training-loss",
        "Training loss",
        "The optimised loss, as the loss ledger has it.",
        **drawn("lines", "learning", value="loss", **course),
        lines=(uniform,),
        aside=True,
    )
    yield Section(
        "references",
        "What the intervals stand on",
        "Reference blocks of ledger and rollback: rows of one task that are left out together by the jackknife.",
        **drawn("table", "references"),
        note="The probe's blocks are drawn from the training rows in the same way.",
        aside=True,
    )
    lead = "Time, rows, tokens and memory of every stage and seed."
    yield Section("cost", "What it cost", lead, **drawn("table", "cost"), aside=True)
