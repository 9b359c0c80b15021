"""The page of a study of skills: who forgot, who answers what, how experts came, and what the router costs where."""

from __future__ import annotations

from collections.abc import Iterator

from crosstune.foundation.records import Run
from crosstune.foundation.records.page import Page, Section, drawn
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.skills.settings import SkillStudySettings
from crosstune.studies.skills.verdicts import statements

_LOST = ("gained", "lost")
_BETTER = ("lower", "higher")


def page(run: Run, settings: SkillStudySettings) -> Page:
    """What the report says and draws, from the tables over cells."""
    answer, *findings = statements(run, settings)
    return Page(
        title=f"Learning {' → '.join(settings.stream(0))} with an expert for what is new",
        subtitle=_subtitle(settings),
        answer=answer,
        statements=tuple(findings),
        pictures=tuple(_pictures()),
        sections=tuple(one for one in _sections(settings) if run.has_table(str(one.table))),
    )


def _pictures() -> Iterator[Section]:
    yield Section(
        "forgotten",
        "Forgotten, and by whom",
        "Nats per token lost since a skill was learned last, mean over skills: by the skill's own expert, and by the router.",
        **drawn("bars", "forgotten", y="arm", value="nats", color="by"),
        ends=_LOST,
    )
    yield Section(
        "arms",
        "Held-out loss at the end",
        "Nats per token, mean over learned skills.",
        **drawn("bars", "arms", y="arm", value="loss"),
    )


def _sections(settings: SkillStudySettings) -> Iterator[Section]:
    first = settings.arms[0]
    yield Section(
        "timeline",
        "What came, and who was born for it",
        "Every arrival in order: whether its rows were called new, how like the nearest known skill they were, and who learned them.",
        **drawn("table", "births", {"arm": first, "order": 0, "seed": settings.seeds[0]}),
        note="p: among batches drawn from the rows of a known skill and these together, the share that would be as strange; the largest "
        "over known skills. The model itself is `base`.",
    )
    yield Section(
        "retention",
        "What was kept",
        "Nats per token lost since the skill was learned last, after each arrival in the first order.",
        **drawn("heatmap", "retention", {"arm": first}, x="skill", y="arrival", value="whole"),
        ends=_LOST,
    )
    yield Section(
        "handled",
        "Who answers what",
        "The mean gate of each expert over the tokens of each skill's held-out rows; `base` is the model itself.",
        **drawn("matrix", "handled", {"arm": first}, x="answers", y="skill", value="gate"),
    )
    yield Section(
        "tokens",
        "Who answers, word by word",
        "The gates at each token of the beginning of one held-out row: a column is a token, with its place.",
        **drawn(
            "heatmap",
            "tokens",
            {"skill": settings.new[0], "arm": first, "order": 0, "seed": settings.seeds[0]},
            x="token",
            y="answers",
            value="gate",
        ),
    )
    yield from _costs(first)


def _costs(first: str) -> Iterator[Section]:
    """What it cost: where in a row, against other arms, and in time."""
    yield Section(
        "places",
        "What the router costs, by place",
        "Nats per token that gates cost against the skill's expert alone, by a token's place in its row: a prefix must be read before it "
        "can be known.",
        **drawn("lines", "places", x="position", value="cost", color="arm"),
    )
    yield Section(
        "learned",
        "Can one expert learn it?",
        "Nats per token that a skill's expert, just learned, wins against the model alone. What is not learned is left out of the means.",
        **drawn("table", "learned"),
    )
    yield Section(
        "differences",
        "Arms against each other",
        f"Held-out loss at the end less that of {first}, paired by seed and order.",
        **drawn("bars", "arms", y="arm", value="more"),
        ends=_BETTER,
    )
    yield Section(
        "took",
        "What it took",
        "Mean over skills, seeds and orders.",
        **drawn("table", "took", {"arm": first}),
        aside=True,
    )


def _subtitle(settings: SkillStudySettings) -> str:
    model = (
        "The embedded model"
        if settings.model == EMBEDDED
        else settings.model.rstrip("/").split("/")[-1]
    )
    training = settings.training
    known = f" It knows {settings.known} already." if settings.known else ""
    return (
        f"{model}.{known} {training.steps} steps of {training.batch_rows} rows a skill at learning rate {training.learning_rate:g}; "
        f"experts of rank {settings.learning.rank}, the sequential adapters of as many parameters as all experts; seeds "
        f"{', '.join(map(str, settings.seeds))}, orders of arrival: {settings.orders}. A seed changes first factors and the order of rows; "
        "the rows are the same for all. Intervals are over seeds and orders."
    )
