"""The findings of a conflict study in plain sentences, each with the figures behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from crosstune.foundation.records import Run, Table
from crosstune.foundation.records.findings import Claim, Estimate, counted
from crosstune.foundation.records.page import Statement, Tone
from crosstune.studies.conflict import repairs
from crosstune.studies.conflict.agreement import PAIR_JOINT, WHOLE
from crosstune.studies.conflict.settings import ConflictSettings, learned_in
from crosstune.studies.conflict.tables import BASE, KEY
from crosstune.studies.frame.over_seeds import PLAIN, by_key
from crosstune.studies.frame.procedure import warnings_of

Row = Mapping[str, Any]
_NAMED = 3  # components named in a sentence
_FEW_SEEDS = 8  # below, an interval over seeds is wide for want of seeds
# Bytes a token below which nats per token and bits per byte tell different stories.
_SPELLED_IN_BYTES = 1.2


def statements(run: Run, settings: ConflictSettings) -> list[Statement]:
    """The answer, warnings, forgetting, repairs, conflict, peaks and movement, from the tables over seeds."""
    changes = list(_forgotten(run, settings))
    answer = _answer(changes, settings)
    found = [answer, *_warnings(run), *(one for one in changes if one != answer)]
    found += _over_confident(run, settings)
    if run.has_table(repairs.MEANS.name):
        found += repairs.statements(run.table(repairs.MEANS.name), settings.stage_names)
    for table, of in (
        ("agreement", _conflict),
        ("peaks_over_seeds", _peak),
        ("movement_over_seeds", _movement),
    ):
        if run.has_table(table):
            found += [of(*place, rows) for place, rows in _met(run.table(table), settings)]
    if run.has_table("ledger_rollback_agreement"):
        found += _instruments(run.table("ledger_rollback_agreement"))
    return found


def _answer(changes: Sequence[Statement], settings: ConflictSettings) -> Statement:
    """What was lost most, in one sentence."""
    costs = [one for one in changes if one.size > 0 and one.tone != "not_shown"]
    if costs:
        return max(costs, key=lambda one: (one.tone == "shown", one.size))
    learned = " → ".join(settings.stage_tasks)
    return Statement(
        f"That learning {learned} cost any other task anything is not shown.", "not_shown"
    )


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


def _forgotten(run: Run, settings: ConflictSettings) -> Iterator[Statement]:
    """Each other task after each stage: how its held-out loss changed, and through what."""
    components, totals = run.table("forgetting_components"), run.table("forgetting_totals")
    rows = {row["task"]: row["rows"] for row in run.table("references").where(side="test").rows()}
    for row in run.table("closing").where(side="test").rows():
        place = {name: row[name] for name in KEY}
        if row["task"] == learned_in(row["stage"]):
            continue
        seeds = [Estimate.of(one, "nats", PLAIN) for one in totals.where(**place).rows()]
        number = settings.stage_names.index(row["stage"])
        is_later = row["task"] in settings.stage_tasks[number:]
        name = f"{row['task']} (learned later)" if is_later else row["task"]
        said = _change(row, name, seeds, _largest(components.where(**place)))
        of_seeds = (
            f"; seed by seed {', '.join(map(str, seeds))}" if 1 < len(seeds) < _FEW_SEEDS else ""
        )
        yield Statement(
            said.text,
            said.tone,
            f"Held-out loss, interval over {counted(rows[row['task']], 'row')} and {counted(row['seeds'], 'seed')}{of_seeds}.",
            size=row["measured"],
        )


def _change(row: Row, task: str, seeds: Sequence[Estimate], parts: str) -> Claim:
    """How the loss of a task changed while another was learned, in words; `seeds` are the changes over rows at each seed."""
    change, learned = Estimate.of(row, "measured", PLAIN), learned_in(row["stage"])
    cost, helped = f"cost {task} {{}} nats per token", f"helped {task} by {{}} nats per token"
    if len(seeds) == 1:  # one seed speaks of itself alone
        so = f"In the one seed that was run, learning {learned}"
        said = change.says(
            f"{so} {cost}{parts}.", f"{so} {helped}.", f"{so} is not shown to have {cost}."
        )
        return replace(said, tone="info") if said.tone == "shown" else said
    said = change.says(
        f"Learning {learned} {cost}{parts}.",
        f"Learning {learned} {helped}.",
        f"That learning {learned} cost {task} anything is not shown ({{}} nats per token).",
    )
    if said.tone == "shown" or len(seeds) >= _FEW_SEEDS:
        return said
    alike = all(one.is_positive for one in seeds) or all(one.is_negative for one in seeds)
    if not alike:
        return said
    values = ", ".join(str(one if one.is_positive else -one) for one in seeds)
    verb = "cost" if seeds[0].is_positive else "helped"
    return Claim(
        f"In each of the {len(seeds)} seeds learning {learned} {verb} {task} ({values} nats per token, over rows); "
        f"so few seeds do not say that others would ({change} over seeds).",
        "info",
    )


def _largest(components: Table) -> str:
    ordered = sorted(components.rows(), key=lambda row: -row["nats"])[:_NAMED]
    named = [f"{row['component']} ({row['nats']:.2g})" for row in ordered if row["nats"] > 0]
    return f", most through {', '.join(named)}" if named else ""


def _over_confident(run: Run, settings: ConflictSettings) -> Iterator[Statement]:
    """A known task's loss above ln V is not lost knowledge: a model that knows nothing pays less."""
    known = run.table("chance").where(side="test").rows()
    unigram = {row["task"]: row["nats"] for row in known}
    retention = run.table("retention").where(side="test")
    learned = [
        row["task"]
        for row in retention.where(stage=BASE).rows()
        if row["task"] not in settings.stage_tasks and row["nats"] < row["uniform"]
    ]
    for stage, task in zip(settings.stage_names, settings.stage_tasks, strict=True):
        for row in retention.where(stage=stage).rows():
            if row["task"] in learned and row["low"] > row["uniform"]:
                yield Statement(
                    f"After stage {stage}, {row['task']} costs more than guessing uniformly: beyond that level the "
                    "rise is over-confidence in another task's tokens, not lost knowledge.",
                    "shown",
                    f"{Estimate.of(row, 'nats', PLAIN)} nats per token against ln V = {row['uniform']:.3g} and a "
                    f"unigram model's {unigram[row['task']]:.3g}.",
                )
        learned.append(task)


def _met(table: Table, settings: ConflictSettings) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    """The rows of each stage and pair that meets in it: the task that is learned, and one that is not learned later."""
    for (stage, pair), rows in by_key(table, ("stage", "pair")):
        number, both = settings.stage_names.index(stage), pair.split(PAIR_JOINT)
        later = settings.stage_tasks[number + 1 :]
        if learned_in(stage) in both and not set(both) & set(later):
            yield (stage, pair), rows


def _conflict(stage: str, pair: str, rows: Sequence[Row]) -> Statement:
    """Do the gradients of two tasks conflict or agree while one of them is learned?"""
    # Both rest on the inner product, which has its interval also where a cosine is below the noise floor; both are
    # counted after Holm over the sites.
    whole = [row for row in rows if row["scope"] == WHOLE]
    fighting = sorted((row for row in whole if row["conflict"]), key=lambda row: row["inner"])
    agreeing, noisy = sum(row["agree"] for row in whole), sum(not row["resolved"] for row in whole)
    basis = whole[0]
    detail = (
        f"Means over {basis['states']} states, {basis['blocks']} blocks a task, {counted(basis['seeds'], 'seed')}; Holm "
        f"over {len(whole)} sites, {noisy} of whose cosines are below the noise floor."
    )
    where = f"While learning {learned_in(stage)}"
    tone: Tone = "shown"
    if all(math.isnan(row["inner_low"]) for row in whole):
        text, tone = f"{where}, {pair} cannot be judged: too few blocks or states.", "too_noisy"
    elif fighting:
        also = f" and agree at {agreeing}" if agreeing else ""
        text = (
            f"{where}, gradients of {pair} conflict at {len(fighting)} of {len(whole)} sites{also}."
        )
        detail = f"Strongest conflicts: {', '.join(map(_cosine, fighting[:_NAMED]))}. {detail}"
    elif agreeing:
        text = f"{where}, gradients of {pair} agree at {agreeing} of {len(whole)} sites; no conflict is shown."
    else:
        tone = "too_noisy" if noisy == len(whole) else "not_shown"
        text = f"{where}, neither conflict nor agreement of the gradients of {pair} is shown."
    return Statement(text, tone, detail)


def _cosine(row: Row) -> str:
    if not row["resolved"]:
        return f"{row['where']} below the noise floor"
    return f"{row['where']} {Estimate.of(row, 'corrected', PLAIN)}"


def _peak(stage: str, pair: str, rows: Sequence[Row]) -> Statement:
    """Is there a layer and component that stands out?"""
    tones: dict[str, Tone] = {
        "conflict peak": "shown",
        "most dissimilar": "shown",
        "no peak": "not_shown",
    }
    (row,) = (row for row in rows if row["scope"] == "all sites")
    return Statement(
        f"While learning {learned_in(stage)}, {pair}: {row['words']}",
        tones.get(row["kind"], "too_noisy"),
        f"Over the whole stage and {counted(row['seeds'], 'seed')}; the smallest standardised difference decides.",
    )


def _movement(stage: str, pair: str, rows: Sequence[Row]) -> Statement:
    """Does agreement move through depth while a task is learned?"""
    tones: dict[str, Tone] = {"shown": "shown", "not shown": "not_shown"}
    (row,) = rows
    return Statement(
        f"While learning {learned_in(stage)}, {pair}: {row['words']}",
        tones.get(row["verdict"], "too_noisy"),
        f"{row['probes']} probes, {counted(row['seeds'], 'seed')}; {row['sites']} sites are above the noise floor at every "
        "probe.",
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


def decision(found: Sequence[Statement]) -> list[dict[str, str]]:
    """The findings as plain values, for `decision.json`."""
    return [{"text": one.text, "verdict": one.tone, "detail": one.detail} for one in found]
