"""The findings of a conflict study in plain sentences, each with the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.page import Statement, Tone
from crosstune.studies.conflict import repairs
from crosstune.studies.conflict.agreement import PAIR_JOINT, WHOLE
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.procedure import warnings_of

Row = Mapping[str, Any]
_SHARE_NAMED = 3  # components named in a sentence
_SPELLED_IN_BYTES = (
    1.2  # bytes a token below which nats per token and bits per byte tell different stories
)


def statements(run: Run, settings: ConflictSettings) -> list[Statement]:
    """What the study found.

    Args:
        run: The run, with its tables over seeds written.
        settings: The study's settings.

    Returns:
        Warnings first, then forgetting, conflict, peaks and movement.
    """
    found = [
        *_warnings(run),
        *_forgotten(run),
        *_over_confident(run, settings),
    ]
    if settings.repair is not None and run.has_table(repairs.MEANS):
        found += repairs.statements(run.table(repairs.MEANS), settings.stage_names)
    if settings.probe is not None:
        found += [
            *_conflicts(run.table("agreement")),
            *_peaks(run.table("peaks_over_seeds")),
            *_movements(run.table("movement_over_seeds")),
        ]
    if run.has_table("ledger_rollback_agreement"):
        found += _instruments(run.table("ledger_rollback_agreement"))
    return found


def _warnings(run: Run) -> Iterator[Statement]:
    if set(run.table("closing").column("seeds")) == {1}:
        yield Statement(
            "One seed was run: intervals are over rows and states of this one path, and say nothing of another "
            "order of the training rows.",
            "warning",
            "Add seeds to this run with `--seeds`.",
        )
    spelled = [
        row["task"]
        for row in run.table("references").where(side="train").rows()
        if row["bytes_per_token"] < _SPELLED_IN_BYTES
    ]
    if spelled:
        yield Statement(
            f"The tokenizer spends about a token on every byte of {', '.join(spelled)}: a token of theirs says little; "
            "compare tasks in bits per byte.",
            "warning",
        )
    yield from warnings_of(run)


def _forgotten(run: Run) -> Iterator[Statement]:
    """Each other task after each stage: how its held-out loss changed, and through what."""
    closing, components = run.table("closing"), run.table("forgetting_components")
    for row in closing.where(side="test").rows():
        stage, task = row["stage"], row["task"]
        learned = stage.split("-", 1)[1]
        if task == learned:
            continue
        amount = f"{abs(row['measured']):.3g} nats per token"
        detail = (
            f"{row['measured']:+.4g} {_between(row['low'], row['high'])} nats per held-out token, over rows and "
            f"{_count(row['seeds'], 'seed')}; the components add up to {row['booked']:+.4g}, largest residual of a seed "
            f"{row['residual']:.2g} ({row['relative']:.1e} of the change), m = {row['every']} steps a chord."
        )
        # One seed speaks of itself alone.
        tone: Tone = "info" if row["seeds"] == 1 else "shown"
        so = "In the one seed that was run, learning" if row["seeds"] == 1 else "Learning"
        if row["low"] > 0:
            parts = _largest(components.where(stage=stage, task=task, side="test"))
            yield Statement(f"{so} {learned} cost {task} {amount}, {parts}.", tone, detail)
        elif row["high"] < 0:
            yield Statement(f"{so} {learned} helped {task} by {amount}.", tone, detail)
        else:
            text = f"Whether learning {learned} cost {task} anything is not shown."
            yield Statement(text, "not_shown", detail)


def _largest(components: Table) -> str:
    ordered = sorted(components.rows(), key=lambda row: -row["nats"])[:_SHARE_NAMED]
    named = [f"{row['component']} ({row['nats']:.2g})" for row in ordered if row["nats"] > 0]
    return f"the largest parts through {', '.join(named)}"


def _over_confident(run: Run, settings: ConflictSettings) -> Iterator[Statement]:
    """A learned task's loss above ln V is not lost knowledge: a model that knows nothing pays less."""
    chance = run.table("chance")
    learned: list[str] = []
    for stage, task in zip(settings.stage_names, settings.stage_tasks, strict=True):
        for row in run.table("retention").where(side="test", stage=stage).rows():
            if row["task"] in learned and row["low"] > row["uniform"]:
                yield Statement(
                    f"After stage {stage}, {row['task']} costs more than guessing uniformly: beyond that level the "
                    "rise is over-confidence in another task's tokens, not lost knowledge.",
                    "shown",
                    f"{row['nats']:.3g} {_between(row['low'], row['high'])} nats per token against ln V = "
                    f"{row['uniform']:.3g} and a unigram model's {_unigram(chance, row['task']):.3g}.",
                )
        learned.append(task)


def _unigram(chance: Table, task: str) -> float:
    return float(chance.where(task=task, side="test").column("nats")[0])


def _conflicts(agreement: Table) -> Iterator[Statement]:
    """One finding a stage: what the task that is learned does to the gradients of each other task."""
    whole = agreement.where(scope=WHOLE)
    for stage in dict.fromkeys(whole.column("stage")):
        pairs = _with_learned(whole.where(stage=stage), stage)
        found = [_agreed(pair, rows) for pair, rows in pairs.items()]
        basis = next(iter(pairs.values()))[0]
        yield Statement(
            f"While learning {stage}: {'; '.join(words for words, _, _ in found)}.",
            _strongest([tone for _, tone, _ in found]),
            " ".join([*(detail for _, _, detail in found if detail), _means(basis)]),
        )


def _means(row: Row) -> str:
    return (
        f"Means over {row['states']} states, {row['blocks']} blocks a task, {_count(row['seeds'], 'seed')}; Holm over the "
        "sites."
    )


def _agreed(pair: str, rows: Sequence[Row]) -> tuple[str, Tone, str]:
    """Words, tone and figures of one pair over a stage."""
    # Conflict and agreement rest on the inner product, which has its interval also where a cosine is below
    # the noise floor; both are counted after Holm over the sites.
    if all(math.isnan(row["inner_low"]) for row in rows):
        return f"{pair} cannot be told, too few blocks or states for an interval", "too_noisy", ""
    fighting = sorted((row for row in rows if row["conflict"]), key=lambda row: row["inner"])
    agreeing = sum(row["agree"] for row in rows)
    noisy = sum(not row["resolved"] for row in rows)
    counted = f"agreement at {agreeing} of {len(rows)} sites"
    noise = f" ({_count(noisy, 'cosine')} below the noise floor)" if noisy else ""
    if fighting:
        named = ", ".join(_cosine(row) for row in fighting[:_SHARE_NAMED])
        detail = f"Strongest conflicts of {pair}, as corrected cosines: {named}."
        words = f"{pair} conflict at {_count(len(fighting), 'site')}, {counted}{noise}"
        return words, "shown", detail
    if agreeing:
        return (
            f"{pair} agree at {agreeing} of {len(rows)} sites, no conflict is shown{noise}",
            "shown",
            "",
        )
    tone: Tone = "too_noisy" if noisy == len(rows) else "not_shown"
    return f"neither conflict nor agreement of {pair} is shown{noise}", tone, ""


def _with_learned(table: Table, stage: str) -> dict[str, list[Row]]:
    """The rows of the pairs that the stage's task is one of; all pairs where it is in none."""
    learned = stage.split("-", 1)[1]
    pairs: dict[str, list[Row]] = {}
    for row in table.rows():
        pairs.setdefault(row["pair"], []).append(row)
    own = {pair: rows for pair, rows in pairs.items() if learned in pair.split(PAIR_JOINT)}
    return own or pairs


def _flat(pairs: Mapping[str, list[Row]]) -> list[Row]:
    return [row for rows in pairs.values() for row in rows]


def _words(rows: Sequence[Row]) -> str:
    return " ".join(f"{row['pair']}: {row['words']}" for row in rows)


def _cosine(row: Row) -> str:
    if not row["resolved"]:
        return f"{row['where']} below the noise floor"
    return f"{row['where']} {row['corrected']:+.2f} {_between(row['low'], row['high'])}"


def _peaks(peaks: Table) -> Iterator[Statement]:
    """One finding a stage: is there a layer and component that stands out?"""
    tones: dict[str, Tone] = {
        "conflict peak": "shown",
        "most dissimilar": "shown",
        "no peak": "not_shown",
    }
    everywhere = peaks.where(scope="all sites")
    for stage in dict.fromkeys(everywhere.column("stage")):
        rows = _flat(_with_learned(everywhere.where(stage=stage), stage))
        yield Statement(
            f"Peaks while learning {stage}: " + _words(rows),
            _strongest([tones.get(row["kind"], "too_noisy") for row in rows]),
            f"Over the whole stage and {_count(rows[0]['seeds'], 'seed')}; the smallest standardised difference decides.",
        )


def _movements(movement: Table) -> Iterator[Statement]:
    """One finding a stage: does agreement move through depth while it lasts?"""
    tones: dict[str, Tone] = {"shown": "shown", "not shown": "not_shown"}
    for stage in dict.fromkeys(movement.column("stage")):
        rows = _flat(_with_learned(movement.where(stage=stage), stage))
        yield Statement(
            f"Movement while learning {stage}: " + _words(rows),
            _strongest([tones.get(row["verdict"], "too_noisy") for row in rows]),
            f"{rows[0]['probes']} probes, {_count(rows[0]['seeds'], 'seed')}; sites above the noise floor at every probe: "
            + ", ".join(str(row["sites"]) for row in rows)
            + ".",
        )


def _instruments(table: Table) -> Iterator[Statement]:
    """Do what was booked along the path and what a rollback wins back rank the sites alike?"""
    held_out = [row for row in table.rows() if row["side"] == "test"]
    lost = [row for row in held_out if row["task"] != row["stage"].split("-", 1)[1]]
    values = [row["rank_correlation"] for row in lost if not math.isnan(row["rank_correlation"])]
    if values:
        yield Statement(
            f"Ledger and rollback rank the sites alike with a correlation of {sum(values) / len(values):.2f} on "
            "average: what a site cost along the path, and what putting it back would win.",
            "info",
            f"Spearman over {lost[0]['sites']} sites, {len(values)} stages, tasks and seeds: {min(values):.2f} to "
            f"{max(values):.2f}. The two need not agree: sites interact, most at high learning rates.",
        )


def _strongest(tones: Sequence[Tone]) -> Tone:
    order: tuple[Tone, ...] = ("shown", "not_shown", "too_noisy")
    return next(tone for tone in order if tone in tones)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def decision(found: Sequence[Statement]) -> list[dict[str, str]]:
    """The findings as plain values, for `decision.json`."""
    return [{"text": one.text, "verdict": one.tone, "detail": one.detail} for one in found]


def _between(low: float, high: float) -> str:
    return "[no interval]" if math.isnan(low) or math.isnan(high) else f"[{low:.3g}, {high:.3g}]"
