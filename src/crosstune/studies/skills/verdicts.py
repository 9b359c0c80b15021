"""What a study of skills found, in sentences: the arms against each other, who forgot, what was born, and what was not learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.findings import Claim, Estimate, counted
from crosstune.foundation.records.page import Statement
from crosstune.studies.frame.procedure import warnings_of
from crosstune.studies.skills.settings import KNOWN_ID, SkillStudySettings

Row = Mapping[str, Any]
ROUTED = {"prefix": "experts routed by prefix", "learned": "experts whose router is learned"}


def statements(run: Run, settings: SkillStudySettings) -> list[Statement]:
    """The findings of a study whose tables are written, the answer first."""
    arms = {row["arm"]: row for row in run.table("arms").rows()}
    first = settings.arms[0]
    return [
        *against(arms, first),
        who_forgot(arms[first]),
        *born(run.table("births"), first, settings.known),
        *not_learned(run.table("learned")),
        *_few_seeds(settings),
        *warnings_of(run),
    ]


def called(arm: str) -> str:
    """An arm in words."""
    if arm == KNOWN_ID:
        return "experts asked by name"
    kind, _, more = arm.partition("+")
    name = ROUTED.get(kind, "one adapter trained in sequence")
    parts = ["the prefix mean"] * ("mean" in more) + ["replay"] * ("replay" in more)
    return f"{name} with {' and '.join(parts)}" if parts else name


def against(arms: Mapping[str, Row], first: str) -> Iterator[Statement]:
    """Every other arm less the first one, the rival that comes nearest at the front."""
    others = sorted(
        (row for arm, row in arms.items() if arm not in (first, KNOWN_ID)),
        key=lambda row: row["more"],
    )
    for row in others:
        more = Estimate.of(row, "more")
        claim = more.says(
            f"{called(first).capitalize()} end {{}} nats per token below {called(row['arm'])}",
            f"{called(first).capitalize()} end {{}} nats per token above {called(row['arm'])}",
            f"{called(first).capitalize()} are not shown to differ from {called(row['arm'])} ({{}} nats per token)",
        )
        yield _said(claim, arms, first, row)
    if KNOWN_ID in arms:
        cost = -Estimate.of(arms[KNOWN_ID], "more")
        claim = cost.says(
            "Not being told the skill costs {} nats per token",
            "Not being told the skill wins {} nats per token",
            "Not being told the skill is not shown to cost anything ({} nats per token)",
        )
        yield _said(claim, arms, first, arms[KNOWN_ID])


def _said(claim: Claim, arms: Mapping[str, Row], first: str, row: Row) -> Statement:
    own, other = Estimate.of(arms[first], "loss"), Estimate.of(row, "loss")
    detail = (
        f"Held-out loss at the end, mean over learned skills: {own} against {other}; differences are paired "
        f"over {counted(row['cells'], 'pair')} of seed and order."
    )
    return Statement(f"{claim.text}.", claim.tone, detail, size=abs(row["more"]))


def who_forgot(row: Row) -> Statement:
    """What was lost of skills after they were learned, by experts and by the router."""
    experts, router, whole = (Estimate.of(row, part) for part in ("experts", "router", "whole"))
    claim = whole.says(
        f"After a skill was learned, {{}} nats per token of it were lost: {experts} by its expert, {router} by the router",
        f"After a skill was learned, it won a further {{}} nats per token: {-experts} by its expert, {-router} by the router",
        f"Forgetting is not shown ({{}} nats per token; {experts} by experts, {router} by the router)",
    )
    return Statement(
        f"{claim.text}.",
        claim.tone,
        "Held-out loss at the end less that when the skill was learned last, mean over skills; an expert's part is that of the "
        "expert alone.",
        size=abs(row["whole"]),
    )


def born(births: Table, arm: str, known: str | None) -> Iterator[Statement]:
    """Whether experts were born for what is new, and for nothing else."""
    rows = [row for row in births.where(arm=arm).rows() if row["stage"] > 0 or known is None]
    new = [row for row in rows if row["is_new"]]
    again = [row for row in rows if not row["is_new"]]
    right, wrong = (sum(row["born"] for row in part) for part in (new, again))
    missed = sorted({row["arrived"] for row in new if not row["born"]})
    text = f"An expert was born at {right} of {len(new)} arrivals of a new skill"
    text += f", and at {wrong} of {len(again)} of a skill that came again" if again else ""
    text += f"; not for {', '.join(missed)}: {missed_why(new)}" if missed else ""
    detail = "Each seed and order counts; the rows are the same for all seeds, so arrivals are not independent."
    yield Statement(f"{text}.", "shown" if right == len(new) and not wrong else "not_shown", detail)


def missed_why(new: Sequence[Row]) -> str:
    """What was said of the first new skill that got no expert."""
    row = next(row for row in new if not row["born"])
    return f"{row['verdict']}, {row['why']}"


def not_learned(learned: Table) -> Iterator[Statement]:
    """The skills that no expert is shown to learn."""
    for row in learned.rows():
        gain = Estimate.of(row, "gain")
        if not gain.is_positive:
            text = f"An expert is not shown to learn {row['arrived']} ({gain} nats per token): it is left out."
            yield Statement(text, "warning")


def _few_seeds(settings: SkillStudySettings) -> Iterator[Statement]:
    if len(settings.seeds) == 1:
        yield Statement(
            "One seed was run: there are no intervals over seeds.",
            "warning",
            "Add seeds to this run with `--seeds`.",
        )
