"""The findings of a conflict study in plain sentences, each with the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.findings import Estimate, counted, signed
from crosstune.foundation.records.page import Statement, Tone
from crosstune.studies.conflict import repairs
from crosstune.studies.conflict.agreement import PAIR_JOINT, WHOLE
from crosstune.studies.conflict.settings import ConflictSettings, learned_in
from crosstune.studies.frame.over_seeds import PLAIN, by_key
from crosstune.studies.frame.procedure import warnings_of

Row = Mapping[str, Any]
_NAMED = 3  # components named in a sentence
# Bytes a token below which nats per token and bits per byte tell different stories.
_SPELLED_IN_BYTES = 1.2


def statements(run: Run, settings: ConflictSettings) -> list[Statement]:
    """Warnings first, then forgetting, repairs, conflict, peaks and movement, from the tables over seeds."""
    found = [*_warnings(run), *_forgotten(run), *_over_confident(run, settings)]
    if run.has_table(repairs.MEANS.name):
        found += repairs.statements(run.table(repairs.MEANS.name), settings.stage_names)
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
    components = run.table("forgetting_components")
    for row in run.table("closing").where(side="test").rows():
        stage, task = row["stage"], row["task"]
        learned = learned_in(stage)
        if task == learned:
            continue
        change, alone = Estimate.of(row, "measured", PLAIN), row["seeds"] == 1
        so = f"In the one seed that was run, learning {learned}" if alone else f"Learning {learned}"
        amount = f"{abs(row['measured']):.3g} nats per token"
        parts = _largest(components.where(stage=stage, task=task, side="test"))
        said = change.says(
            f"{so} cost {task} {amount}, {parts}.",
            f"{so} helped {task} by {amount}.",
            f"Whether learning {learned} cost {task} anything is not shown.",
        )
        yield Statement(
            said.text,
            "info"
            if alone and said.tone == "shown"
            else said.tone,  # one seed speaks of itself alone
            f"{change} nats per held-out token, over rows and {counted(row['seeds'], 'seed')}; measured "
            f"{signed(row['measured'])}, and the components add up to {signed(row['booked'])}: largest residual of a seed {row['residual']:.2g} ({row['relative']:.1e} of the "
            f"change), m = {row['every']} steps a segment.",
        )


def _largest(components: Table) -> str:
    ordered = sorted(components.rows(), key=lambda row: -row["nats"])[:_NAMED]
    named = [f"{row['component']} ({row['nats']:.2g})" for row in ordered if row["nats"] > 0]
    return f"the largest parts through {', '.join(named)}"


def _over_confident(run: Run, settings: ConflictSettings) -> Iterator[Statement]:
    """A learned task's loss above ln V is not lost knowledge: a model that knows nothing pays less."""
    known = run.table("chance").where(side="test").rows()
    unigram = {row["task"]: row["nats"] for row in known}
    learned: list[str] = []
    for stage, task in zip(settings.stage_names, settings.stage_tasks, strict=True):
        for row in run.table("retention").where(side="test", stage=stage).rows():
            if row["task"] in learned and row["low"] > row["uniform"]:
                yield Statement(
                    f"After stage {stage}, {row['task']} costs more than guessing uniformly: beyond that level the "
                    "rise is over-confidence in another task's tokens, not lost knowledge.",
                    "shown",
                    f"{Estimate.of(row, 'nats', PLAIN)} nats per token against ln V = {row['uniform']:.3g} and a "
                    f"unigram model's {unigram[row['task']]:.3g}.",
                )
        learned.append(task)


def _conflicts(agreement: Table) -> Iterator[Statement]:
    """One finding a stage: what the task that is learned does to the gradients of each other task."""
    for stage, rows in _stages(agreement.where(scope=WHOLE)):
        found = [_agreed(pair, own) for (pair,), own in by_key(rows, ("pair",))]
        basis = rows[0]
        means = (
            f"Means over {basis['states']} states, {basis['blocks']} blocks a task, {counted(basis['seeds'], 'seed')}; "
            "Holm over the sites."
        )
        yield Statement(
            f"While learning {stage}: {'; '.join(words for words, _, _ in found)}.",
            _strongest([tone for _, tone, _ in found]),
            " ".join([*(detail for _, _, detail in found if detail), means]),
        )


def _agreed(pair: str, rows: Sequence[Row]) -> tuple[str, Tone, str]:
    """Words, tone and figures of one pair over a stage."""
    # Conflict and agreement rest on the inner product, which has its interval also where a cosine is below
    # the noise floor; both are counted after Holm over the sites.
    if all(math.isnan(row["inner_low"]) for row in rows):
        return f"{pair} cannot be judged: too few blocks or states for an interval", "too_noisy", ""
    fighting = sorted((row for row in rows if row["conflict"]), key=lambda row: row["inner"])
    agreeing = f"at {sum(row['agree'] for row in rows)} of {len(rows)} sites"
    noisy = sum(not row["resolved"] for row in rows)
    noise = f" ({counted(noisy, 'cosine')} below the noise floor)" if noisy else ""
    if fighting:
        named = ", ".join(map(_cosine, fighting[:_NAMED]))
        words = f"{pair} conflict at {counted(len(fighting), 'site')}, agreement {agreeing}{noise}"
        return words, "shown", f"Strongest conflicts of {pair}, as corrected cosines: {named}."
    if any(row["agree"] for row in rows):
        return f"{pair} agree {agreeing}, no conflict is shown{noise}", "shown", ""
    tone: Tone = "too_noisy" if noisy == len(rows) else "not_shown"
    return f"neither conflict nor agreement of {pair} is shown{noise}", tone, ""


def _cosine(row: Row) -> str:
    if not row["resolved"]:
        return f"{row['where']} below the noise floor"
    return f"{row['where']} {Estimate.of(row, 'corrected', PLAIN)}"


def _stages(table: Table) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each stage: of the pairs that its task is one of, or of all pairs where it is in none."""
    for (stage,), rows in by_key(table, ("stage",)):
        own = [row for row in rows if learned_in(stage) in row["pair"].split(PAIR_JOINT)]
        yield stage, own or rows


def _words(rows: Sequence[Row]) -> str:
    return " ".join(f"{row['pair']}: {row['words']}" for row in rows)


def _peaks(peaks: Table) -> Iterator[Statement]:
    """One finding a stage: is there a layer and component that stands out?"""
    tones: dict[str, Tone] = {
        "conflict peak": "shown",
        "most dissimilar": "shown",
        "no peak": "not_shown",
    }
    for stage, rows in _stages(peaks.where(scope="all sites")):
        yield Statement(
            f"Peaks while learning {stage}: {_words(rows)}",
            _strongest([tones.get(row["kind"], "too_noisy") for row in rows]),
            f"Over the whole stage and {counted(rows[0]['seeds'], 'seed')}; the smallest standardised difference decides.",
        )


def _movements(movement: Table) -> Iterator[Statement]:
    """One finding a stage: does agreement move through depth while it lasts?"""
    tones: dict[str, Tone] = {"shown": "shown", "not shown": "not_shown"}
    for stage, rows in _stages(movement):
        sites = ", ".join(str(row["sites"]) for row in rows)
        yield Statement(
            f"Movement while learning {stage}: {_words(rows)}",
            _strongest([tones.get(row["verdict"], "too_noisy") for row in rows]),
            f"{rows[0]['probes']} probes, {counted(rows[0]['seeds'], 'seed')}; sites above the noise floor at every "
            f"probe: {sites}.",
        )


def _instruments(table: Table) -> Iterator[Statement]:
    """Do what was accounted along the path and what a rollback wins back rank the sites alike?"""
    lost = [
        row for row in table.where(side="test").rows() if row["task"] != learned_in(row["stage"])
    ]
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


def decision(found: Sequence[Statement]) -> list[dict[str, str]]:
    """The findings as plain values, for `decision.json`."""
    return [{"text": one.text, "verdict": one.tone, "detail": one.detail} for one in found]
