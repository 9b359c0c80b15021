"""What a training's own books say is wrong with it: checks of ledger rows and settings, each with rival causes and what separates them.

Pure functions: rows in, checks out. They need no model, and so read a foreign log as well as ours. No torch here.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

Row = Mapping[str, Any]
Outcome = Literal["passed", "failed", "skipped"]
TRAIN, PARITY = "train", "parity"
"""Sides of a ledger: rows that are learned, and the same rows through the path of held-out ones."""
CLOSES = 1e-3
"""Parts printed with a few digits may miss their total by this share of it."""
SAME = 1e-4
"""Two computations of one sum in float32 agree to this share, or"""
ROUNDING = 1e-6
"""to this much, in nats or variances, which are of the order of 1."""
_WEIGHT = "weight not applied"
_COLLISION = "two terms under one name"
_OTHER_EVAL = "another definition in evaluation"
_MICRO = "schedule in micro-batches"


@dataclass(frozen=True)
class TrainingBooks:
    """What a training said of itself, and what that is held against; what is left out is not checked."""

    rows: Sequence[Row] = ()
    """Of a loss ledger: step (counted from 1), side, term, raw, weight, weighted."""
    expected: Mapping[str, Callable[[int], float]] = field(default_factory=dict)
    """The weight that each entry should have at a step, counted from 0."""
    steps: int = 0
    """Optimizer steps of the whole training."""
    totals: Mapping[tuple[int, str], float] = field(default_factory=dict)
    """The loss that was said, by step and side."""
    rates: Mapping[int, float] = field(default_factory=dict)
    """The learning rate that was said, by step (counted from 1)."""
    expected_rate: Callable[[int], float] | None = None
    """The learning rate that there should be at a step, counted from 0."""
    accumulation: int = 1
    """Micro-batches of a step."""
    processes: int = 1
    """Processes that share a step."""
    noisy: bool = False
    """Whether the same rows may cost something else in evaluation: dropout, or half precision."""

    @property
    def factors(self) -> dict[str, float]:
        """What a wrong denominator would multiply by, in words."""
        sizes = {"accumulation": self.accumulation, "processes": self.processes}
        if min(sizes.values()) > 1:
            sizes["accumulation × processes"] = self.accumulation * self.processes
        over = {f"1 / ({name})": 1.0 / size for name, size in sizes.items()}
        return {name: size for name, size in {**sizes, **over}.items() if size != 1}

    @cached_property
    def sides(self) -> dict[tuple[int, str], dict[str, Row]]:
        """Rows by step and side, then by term."""
        found: dict[tuple[int, str], dict[str, Row]] = defaultdict(dict)
        for row in self.rows:
            found[row["step"], row["side"]][row["term"]] = row
        return found


@dataclass(frozen=True)
class Check:
    """One question to the books, and what came out."""

    name: str
    outcome: Outcome
    evidence: str
    """What was seen; of a skipped check, what it would need."""
    causes: tuple[str, ...] = ()
    """What could have led to it, the likeliest first."""
    measure: str = ""
    """The cheapest measurement that tells these apart."""
    advice: str = "continue"
    """``stop``, ``continue`` or ``continue N steps``."""

    def __str__(self) -> str:
        if self.outcome != "failed":
            return f"{self.outcome}: {self.name} ({self.evidence})"
        causes = "; or ".join(self.causes)
        return f"failed: {self.name}: {self.evidence}. Cause: {causes}. To tell: {self.measure} → {self.advice}"


def findings(books: TrainingBooks) -> list[Check]:
    """Every check of a training's books, failed ones first.

    Args:
        books: What the training said of itself.

    Returns:
        One check each, of those that could not be made with the reason.
    """
    order = ("failed", "skipped", "passed")
    return sorted((check(books) for check in CHECKS), key=lambda one: order.index(one.outcome))


def _closes(books: TrainingBooks) -> Check:
    """Σ weighted is the loss that was said, and weighted = raw · weight."""
    name, sides = "the parts add up to the loss", books.sides
    for key, parts in sides.items():
        for term, row in parts.items():
            product = row["raw"] * row["weight"]
            if not _alike(product, row["weighted"], CLOSES):
                seen = f"{term} at step {key[0]} ({key[1]}): {row['raw']:.4g} × {row['weight']:.4g} is {product:.4g}, booked {row['weighted']:.4g}"
                return _failed(name, seen, (_WEIGHT,), "print raw, weight and weighted of one step")
        said = books.totals.get(key)
        booked = sum(row["weighted"] for row in parts.values())
        if said is not None and not _alike(booked, said, CLOSES):
            seen = f"step {key[0]} ({key[1]}): parts {booked:.4g} of {said:.4g}, {said - booked:.4g} in no entry"
            causes = ("a term that is not logged", _COLLISION, _WEIGHT)
            return _failed(name, seen, causes, "log every tensor that is added to the loss by name")
    if not books.totals.keys() & sides.keys():
        return Check(name, "skipped", "no loss was said for any step that has parts")
    return Check(name, "passed", f"{len(books.totals.keys() & sides.keys())} totals")


def _weights(books: TrainingBooks) -> Check:
    """Every booked weight of a training step is the one its schedule gives."""
    name = "weights follow the curriculum"
    rows = [row for row in books.rows if row["side"] == TRAIN and row["term"] in books.expected]
    if not rows:
        return Check(name, "skipped", "no training row of an entry whose weight is known")
    off = [row for row in rows if not _alike(row["weight"], _expected(books, row), SAME)]
    if not off:
        return Check(name, "passed", f"{len(rows)} weights")
    first = off[0]
    seen = f"{first['term']} at step {first['step']}: weight {first['weight']:.4g}, expected {_expected(books, first):.4g}; {len(off)} of {len(rows)} rows"
    for words, factor in books.factors.items():
        if all(_alike(row["weight"], _expected(books, row, factor), 1e-2) for row in rows):
            told = f"{seen}; steps × {words} fit"
            return _failed(name, told, (_MICRO,), "print the counter that the schedule reads")
    bypassed = {row["term"] for row in off}
    causes = (f"{', '.join(sorted(bypassed))} bypass the curriculum", _COLLISION)
    return _failed(name, seen, causes, "print the name that each weight is looked up by")


def _names(books: TrainingBooks) -> Check:
    """Every entry that was declared is booked once under its own name."""
    name = "names are one string everywhere"
    twice = [
        key
        for key, count in Counter((r["step"], r["side"], r["term"]) for r in books.rows).items()
        if count > 1
    ]
    if twice:
        step, side, term = twice[0]
        seen = f"{term} twice at step {step} ({side})"
        return _failed(name, seen, (_COLLISION,), "book by the term's full name")
    if not books.expected or not books.rows:
        return Check(name, "skipped", "no entries were declared, or none booked")
    booked = {row["term"] for row in books.rows}
    strange = booked - books.expected.keys()
    stripped = {
        term: full
        for term in strange
        for full in books.expected
        if full.endswith((f".{term}", f"_{term}"))
    }
    if stripped:
        seen = ", ".join(f"{term} for {full}" for term, full in sorted(stripped.items()))
        causes = ("a prefix is stripped before the weight or the column is looked up", _COLLISION)
        return _failed(name, seen, causes, "compare the names in loss, log and table")
    if strange:
        seen = f"{', '.join(sorted(strange))} in no declaration"
        return _failed(name, seen, ("a term was renamed",), "compare the names in loss and log")
    trained = {row["step"] for row in books.rows if row["side"] == TRAIN}
    lost = [
        name
        for name in sorted(books.expected.keys() - booked)
        if any(books.expected[name](step - 1) for step in trained)
    ]
    if lost:
        causes = ("a term is not computed", "a term is not logged")
        return _failed(
            name, f"{', '.join(lost)} nowhere", causes, "print the terms that the loss adds up"
        )
    return Check(name, "passed", f"{len(booked)} names")


def _evaluated_alike(books: TrainingBooks) -> Check:
    """A held-out set is weighed as the training rows of the same step."""
    name, sides, compared = "evaluation weighs as training does", books.sides, 0
    for (step, side), parts in sides.items():
        own = sides.get((step, TRAIN), {})
        if side in (TRAIN, PARITY) or not own:
            continue
        for term in {**parts, **own}:
            compared += 1
            there, weight = (some[term]["weight"] if term in some else 0.0 for some in (parts, own))
            if not _alike(there, weight, SAME):
                seen = f"{term} at step {step}: {weight:.4g} in training, {there:.4g} on {side}"
                causes = ("evaluation is given no step", _OTHER_EVAL)
                measure = "evaluate the last training rows through both paths"
                return _failed(name, seen, causes, measure, "continue")
    if not compared:
        return Check(name, "skipped", "no step has both training and held-out rows")
    return Check(name, "passed", f"{compared} weights")


def parity(books: TrainingBooks) -> Check:
    """The same rows cost the same through the path of training and of evaluation."""
    name, sides = "the same rows cost the same in training and evaluation", books.sides
    pairs = [
        (step, term, own["raw"], sides[step, TRAIN][term]["raw"])
        for (step, side), parts in sides.items()
        if side == PARITY
        for term, own in parts.items()
        if term in sides.get((step, TRAIN), {})
    ]
    if not pairs:
        return Check(name, "skipped", "no training rows went through the path of evaluation")
    for step, term, evaluated, trained in pairs:
        if _alike(trained, evaluated, SAME) or abs(trained - evaluated) <= ROUNDING:
            continue
        ratio = trained / evaluated if evaluated else math.inf
        seen = f"{term} at step {step}: {trained:.6g} in training, {evaluated:.6g} in evaluation, ratio {ratio:.4g}"
        near = 0.1 if books.noisy else 1e-2
        fits = [words for words, factor in books.factors.items() if _alike(ratio, factor, near)]
        if books.noisy and (not fits or abs(trained - evaluated) < 0.1):
            continue  # what dropout or rounding does; no factor of a wrong denominator
        causes = (*(f"scaled by {words}" for words in fits), _OTHER_EVAL)
        measure = "one window as a single batch, accumulated, and over processes"
        return _failed(name, seen, causes, measure)
    if books.noisy:
        return Check(name, "skipped", "dropout or half precision: only factors are looked for")
    return Check(name, "passed", f"{len(pairs)} ratios are 1")


def _rates(books: TrainingBooks) -> Check:
    """The learning rate that was said is the one that the schedule gives."""
    name, wanted = "the learning rate follows its schedule", books.expected_rate
    if not books.rates or wanted is None:
        return Check(name, "skipped", "no learning rates were said, or no schedule")
    off = {s: r for s, r in books.rates.items() if not _alike(r, wanted(s - 1), 1e-2)}
    if not off:
        return Check(name, "passed", f"{len(books.rates)} rates")
    step, rate = next(iter(off.items()))
    seen = f"{rate:.3g} at step {step}, expected {wanted(step - 1):.3g}; {len(off)} of {len(books.rates)}"
    if all(rate == 0.0 for rate in off.values()):
        causes = (
            "the optimizer never steps: a predicate that counts is asked twice",
            "the scheduler never steps",
        )
        return _failed(name, seen, causes, "compare one weight before and after a step")
    return _failed(name, seen, (_MICRO, "another total of steps"), "print the scheduler's own step")


def _moves(books: TrainingBooks) -> Check:
    """Held-out losses change between evaluations."""
    name = "the weights move"
    held: dict[str, list[tuple[int, dict[str, float]]]] = defaultdict(list)
    for step, side in sorted(books.sides):
        if side not in (TRAIN, PARITY):
            raws = {term: row["raw"] for term, row in books.sides[step, side].items()}
            held[side].append((step, raws))
    pairs = [(side, *pair) for side, seen in held.items() for pair in pairwise(seen)]
    if not pairs:
        return Check(name, "skipped", "no held-out set was evaluated twice")
    still = [(side, one, other) for side, one, other in pairs if one[1] == other[1]]
    if not still:
        return Check(name, "passed", f"{len(pairs)} evaluations differ from the one before")
    side, (step, raws), (later, _) = still[0]
    seen = f"all of {side} is as it was at steps {step} and {later}: {raws}"
    causes = (
        "the optimizer never steps: a predicate that counts is asked twice",
        "learning rate 0",
        "nothing is trained",
    )
    return _failed(name, seen, causes, "compare one weight before and after a step")


def _shares(books: TrainingBooks) -> Check:
    """Only the term of the largest weight may be nearly all of the loss; one that is nearly none of it may have been learned."""
    name = "no term drowns the others"
    steps = sorted(step for step, side in books.sides if side == TRAIN)
    last = books.sides[steps[-1], TRAIN] if steps else {}
    total = sum(abs(row["weighted"]) for row in last.values())
    if len(last) < 2 or not total:
        return Check(name, "skipped", "fewer than two terms in the last step")
    shares = {term: abs(row["weighted"]) / total for term, row in last.items()}
    loud = max(shares, key=shares.__getitem__)
    seen = f"{loud} is {shares[loud]:.1%} of the loss at step {steps[-1]}"
    if shares[loud] <= 0.95 or last[loud]["weight"] == max(row["weight"] for row in last.values()):
        return Check(name, "passed", seen)
    causes = (
        "a term without a scale of its own (divide it by the teacher's variance)",
        "T² · alpha",
    )
    left = max(1, books.steps // 10)
    measure = "gradient norms by term (debug_every)"
    return _failed(name, seen, causes, measure, f"continue {left} steps")


CHECKS = (_closes, _weights, _names, _evaluated_alike, parity, _rates, _moves, _shares)


def settings_findings(
    settings: Any, rows: int | None = None, vocabulary: int | None = None
) -> Iterator[Check]:
    """What settings (`DistillationSettings`) say before anything runs, of so many rows to learn and tokens where these are known."""
    training = settings.training
    share = training.warmup / training.steps
    yield _judged("warm-up is a tenth or less", share <= 0.1, f"{share:.0%} of the steps")
    total = sum(map(settings.course.alpha, settings.entries))
    near = 0.5 <= total <= 1.5
    yield _judged("weights sum to about 1", near, f"{total:.3g}; clipping knows their sum")
    hot = max(settings.temperature, settings.final_temperature or 0.0)
    seen = f"{hot:g}; above it kd compares logits more than probabilities"
    yield _judged("temperature is 4 or less", hot <= 4.0, seen)
    lasts = {p.name: round((p.end - p.start) * training.steps) for p in settings.course.phases}
    seen = ", ".join(f"{name}: {steps} steps" for name, steps in lasts.items())
    yield _judged("every phase has its steps", min(lasts.values()) > 0, seen)
    if rows:
        passes = training.steps * training.batch_rows / rows
        yield _judged("rows are read at most 10 times", passes <= 10.0, f"{passes:.1f} times each")
    if vocabulary and settings.top_k:
        seen = f"{settings.top_k} of {vocabulary}: the whole vocabulary costs about as much"
        yield _judged(
            "top-k is a quarter of all tokens or less", 4 * settings.top_k <= vocabulary, seen
        )


def _judged(name: str, kept: bool, evidence: str) -> Check:
    if kept:
        return Check(name, "passed", evidence)
    return _failed(name, evidence, ("a setting",), "a run of a tenth of the steps", "continue")


def _failed(
    name: str, seen: str, causes: tuple[str, ...], measure: str, advice: str = "stop"
) -> Check:
    return Check(name, "failed", seen, causes, measure, advice)


def _expected(books: TrainingBooks, row: Row, factor: float = 1.0) -> float:
    """The weight that a row's entry should have, or would have if steps were counted that many times as fast."""
    step = min(int((row["step"] - 1) * factor), max(books.steps - 1, 0))
    return books.expected[row["term"]](step)


def _alike(one: float, other: float, share: float) -> bool:
    return abs(one - other) <= share * max(abs(one), abs(other)) + 1e-12
