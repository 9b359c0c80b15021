"""The findings of a conflict study in plain sentences, each with the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Statement, Tone
from crosstune.studies.conflict.agreement import WHOLE
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.tables import BASE

Row = Mapping[str, Any]
_SHARE_NAMED = 3  # components named in a sentence


def statements(run: Run, settings: ConflictSettings) -> list[Statement]:
    """What the study found.

    Args:
        run: The run, with its tables over seeds written.
        settings: The study's settings.

    Returns:
        Forgetting first, then conflict, peaks, movement; warnings at the end.
    """
    found = [
        *_forgotten(run),
        *_over_confident(run.table("retention"), run.table("chance")),
    ]
    if settings.probe is not None:
        found += [
            *_conflicts(run.table("agreement")),
            *_peaks(run.table("peaks_over_seeds")),
            *_movements(run.table("movement_over_seeds")),
        ]
    if run.has_table("ledger_rollback_agreement"):
        found += _instruments(run.table("ledger_rollback_agreement"))
    if len(settings.seeds) == 1:
        found.append(
            Statement(
                "One seed was run: intervals are over rows and states of this one path, and say nothing of "
                "another order of the training rows.",
                "warning",
                "Add seeds to this run with `--seeds`.",
            )
        )
    warnings = dict.fromkeys(
        event["text"] for event in run.all_events() if event["kind"] == "warning"
    )
    return [*found, *(Statement(text, "warning") for text in warnings)]


def _forgotten(run: Run) -> Iterator[Statement]:
    """Each earlier task after each stage that followed it: how much, and through what."""
    closing, components = run.table("closing"), run.table("forgetting_components")
    for row in closing.where(side="test").rows():
        stage, task = row["stage"], row["task"]
        learned = stage.split("-", 1)[1]
        if task == learned:
            continue
        amount = f"{abs(row['measured']):.3g} nats per token"
        interval = _between(row["low"], row["high"])
        detail = (
            f"{row['measured']:+.4g} {interval} nats per held-out token over {row['seeds']} seeds; the components add "
            f"up to {row['booked']:+.4g}, largest residual of a seed {row['residual']:.2g} "
            f"({row['relative']:.1e} of the change), m = {row['every']} steps a chord."
        )
        if row["low"] > 0 or (row["seeds"] == 1 and row["measured"] > 0):
            parts = _largest(components.where(stage=stage, task=task, side="test"))
            tone: Tone = "shown" if row["low"] > 0 else "info"
            yield Statement(
                f"Learning {learned} cost {task} {amount}, most of it through {parts}.",
                tone,
                detail,
            )
        elif row["high"] < 0 or (row["seeds"] == 1 and row["measured"] < 0):
            tone = "shown" if row["high"] < 0 else "info"
            yield Statement(f"Learning {learned} helped {task} by {amount}.", tone, detail)
        else:
            yield Statement(
                f"Whether learning {learned} cost {task} anything is not shown.",
                "not_shown",
                detail,
            )


def _largest(components: Table) -> str:
    ordered = sorted(components.rows(), key=lambda row: -row["nats"])[:_SHARE_NAMED]
    named = [f"{row['component']} ({row['nats']:.2g})" for row in ordered if row["nats"] > 0]
    return ", ".join(named) or "no single component"


def _over_confident(retention: Table, chance: Table) -> Iterator[Statement]:
    """A loss above ln V is not lost knowledge: a model that knows nothing pays less."""
    for row in retention.where(side="test").rows():
        if row["stage"] != BASE and row["low"] > row["uniform"]:
            yield Statement(
                f"After stage {row['stage']}, {row['task']} costs more than guessing uniformly: beyond that level the "
                "rise is over-confidence in another language's tokens, not lost knowledge.",
                "shown",
                f"{row['nats']:.3g} {_between(row['low'], row['high'])} nats per token against ln V = "
                f"{row['uniform']:.3g} and a unigram model's {_unigram(chance, row['task']):.3g}.",
            )


def _unigram(chance: Table, task: str) -> float:
    return float(chance.where(task=task, side="test").column("nats")[0])


def _conflicts(agreement: Table) -> Iterator[Statement]:
    whole = agreement.where(window=WHOLE)
    for stage, pair in dict.fromkeys(zip(whole.column("stage"), whole.column("pair"), strict=True)):
        rows = whole.where(stage=stage, pair=pair).rows()
        resolved = [row for row in rows if row["resolved"]]
        fighting = [row for row in resolved if row["conflict"]]
        agreeing = [row for row in resolved if row["inner_low"] > 0]
        basis = (
            f"{len(rows)} sites, {len(resolved)} above the noise floor; {rows[0]['states']} states, {rows[0]['blocks']} "
            f"blocks a task, {rows[0]['seeds']} seeds; Holm over the sites."
        )
        if fighting:
            worst = sorted(fighting, key=lambda row: row["corrected"])[:_SHARE_NAMED]
            named = ", ".join(_cosine(row) for row in worst)
            yield Statement(
                f"While learning {stage}, the gradients of {pair} conflict at {len(fighting)} of {len(rows)} sites.",
                "shown",
                f"Lowest corrected cosines: {named}. {basis}",
            )
        elif resolved:
            yield Statement(
                f"While learning {stage}, no conflict between {pair} is shown"
                + (f"; they agree at {len(agreeing)} sites." if agreeing else "."),
                "not_shown",
                basis,
            )
        else:
            yield Statement(
                f"While learning {stage}, whether {pair} conflict cannot be told: every site is below the noise floor.",
                "too_noisy",
                basis,
            )


def _cosine(row: Row) -> str:
    return f"{row['where']} {row['corrected']:+.2f} {_between(row['low'], row['high'])}"


def _peaks(peaks: Table) -> Iterator[Statement]:
    tones: dict[str, Tone] = {
        "conflict peak": "shown",
        "most dissimilar": "shown",
        "no peak": "not_shown",
    }
    for row in peaks.where(scope="all sites").rows():
        yield Statement(
            f"While learning {row['stage']}, {row['pair']}: {row['words']}",
            tones.get(row["kind"], "too_noisy"),
            f"Over the whole stage and {row['seeds']} seeds; the smallest standardised difference decides.",
        )


def _movements(movement: Table) -> Iterator[Statement]:
    tones: dict[str, Tone] = {"shown": "shown", "not shown": "not_shown"}
    for row in movement.rows():
        yield Statement(
            f"While learning {row['stage']}, {row['pair']}: {row['words']}",
            tones.get(row["verdict"], "too_noisy"),
            f"{row['probes']} probes, {row['sites']} sites above the noise floor throughout, {row['seeds']} seeds.",
        )


def _instruments(table: Table) -> Iterator[Statement]:
    """Do what was booked along the path and what a rollback wins back rank the sites alike?"""
    for stage, task in dict.fromkeys(zip(table.column("stage"), table.column("task"), strict=True)):
        if task == stage.split("-", 1)[1]:
            continue
        rows = table.where(stage=stage, task=task, side="test").rows()
        values = [
            row["rank_correlation"] for row in rows if not math.isnan(row["rank_correlation"])
        ]
        if values:
            yield Statement(
                f"Ledger and rollback rank the sites that cost {task} in stage {stage} with a correlation of "
                f"{sum(values) / len(values):.2f}.",
                "info",
                f"Spearman, mean of {len(values)} seeds (range {min(values):.2f} to {max(values):.2f}), "
                f"{rows[0]['sites']} sites; first seed {_between(rows[0]['low'], rows[0]['high'])}.",
            )


def decision(found: Sequence[Statement]) -> list[dict[str, str]]:
    """The findings as plain values, for `decision.json`.

    Args:
        found: The statements.

    Returns:
        One mapping a statement.
    """
    return [{"text": one.text, "verdict": one.tone, "detail": one.detail} for one in found]


def _between(low: float, high: float) -> str:
    return "[no interval]" if math.isnan(low) or math.isnan(high) else f"[{low:.3g}, {high:.3g}]"
