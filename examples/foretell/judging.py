"""Does a profile predict forgetting? Its rank correlation with it, beyond gradient norms, against permutations, and the power."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from scipy import special
from torch import Tensor

from crosstune.foundation.records import Column, Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.multiplicity import holm
from crosstune.studies.frame.over_seeds import mean_over_seeds

from .joined import OfHeads, OfRows, Predictor
from .permutations import (
    RankTest,
    correlation_error,
    detectable_correlation,
    rank_test,
    ranks_within,
)
from .profiles import BASELINE, KIND, PREDICTOR, SCORE

HEADS, ROWS = "foretell", "foretell_by_row"
ALL = "all"
FORGOTTEN, SIZE = "forgotten", "size"
ACROSS, WITHIN = "across layers", "within layers"
ERROR = 0.05
CLEAR = 0.7
"""A design that could only see correlations above this is too small to deny one."""
FORETELLS, NORMS_DO, OPPOSITE = "foretells", "no better than norms", "foretells the opposite"
DOES_NOT, TOO_FEW, UNMEASURED = "does not foretell", "too few to say", "unmeasured"
_WHEN = Column.axis(
    "when", about="before: the state before; window: mean over the pilot run's snapshots."
)
_FIGURES = (
    *Column.interval(
        "correlation",
        names=("low", "high"),
        about="Rank correlation, mean over seeds.",
        bounds="Over items, and seeds where several.",
    ),
    Column.label("p", "float64", about="Two-sided, by permuting items within strata."),
    Column.label("p_adjusted", "float64", about="Holm over the scores that ask the same."),
    Column.value(
        "beyond",
        about="Partial rank correlation: what the baselines explain is taken out. Scores only.",
    ),
    Column.label("beyond_p", "float64", about="Of it, likewise by permutations."),
)
_ENDING = (
    Column.label("verdict"),
    Column.label("items", "int64", about="Heads or rows that were ranked."),
    Column.label("seeds", "int64"),
)
HEADS_COLUMNS = (
    _WHEN,
    Column.axis("side", about="train: rows scores come from; test: no score saw them."),
    Column.axis("outcome", about="forgotten: contributed nats; size: their magnitude."),
    Column.axis("scope", about="Heads ranked within a block, or within its layers."),
    Column.axis("block", about="q, k, v, o, or all: each ranked in itself."),
    PREDICTOR,
    KIND,
    *_FIGURES,
    Column.value("reliability", about="Of the score, by halves of both tasks' rows."),
    Column.value("agreement", about="Correlation of the forgetting of two seeds."),
    Column.value(
        "detectable", about="The true correlation that would be found four times of five."
    ),
    *_ENDING,
)
ROWS_COLUMNS = (
    _WHEN,
    Column.axis("block", about="q, k, v, o, or all: the mean of their ranks."),
    PREDICTOR,
    KIND,
    *_FIGURES,
    _ENDING[0],
    Column.value("detectable", about="The correlation that would be found likewise."),
    *_ENDING[1:],
)
Cells = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One outcome of some items, which predictors are correlated with."""

    outcome: Tensor  # [S, n]
    strata: Sequence[object]  # of each item
    name: tuple[str, ...]  # of its random streams
    permutations: int

    @property
    def agreement(self) -> float:
        """The mean correlation of two seeds' outcomes within strata; NaN for one seed."""
        ranked = ranks_within(self.outcome, self.strata)
        unit = ranked / ranked.square().sum(1, keepdim=True).sqrt()
        pairs = [float(unit[i] @ unit[j]) for i, j in combinations(range(len(unit)), 2)]
        return sum(pairs) / len(pairs) if pairs else math.nan

    def detectable(self) -> float:
        """The smallest true correlation, of a score as it was measured, that would be found."""
        agreement = self.agreement
        return detectable_correlation(
            self.strata,
            Seeds(0).torch("foretell", "power", *self.name),
            series=len(self.outcome),
            agreement=1.0 if math.isnan(agreement) else agreement,
            level=1 - ERROR,
        )

    def ask(self, x: Tensor, given: Tensor | None = None) -> RankTest:
        """The test of one profile, [S, n]."""
        generator = Seeds(0).torch("foretell", "permutations", *self.name)
        return rank_test(
            x, self.outcome, self.strata, generator, given=given, permutations=self.permutations
        )


def judge_heads(found: OfHeads, permutations: int) -> Table:
    """The table `foretell`: one row for each moment, side, outcome, scope, block and predictor."""
    rows = [
        row
        for axes, members, strata in _groups(found)
        for side, nats in found.contributions.items()
        for outcome, values in ((FORGOTTEN, nats), (SIZE, nats.abs()))
        for row in _asked_of_heads(
            found.predictors,
            members,
            Question(values[:, members], strata, (side, outcome, *axes.values()), permutations),
            {"side": side, "outcome": outcome, **axes},
        )
    ]
    _adjust(rows, ("when", "side", "outcome", "scope"))
    return Table(HEADS, HEADS_COLUMNS, rows)


def _asked_of_heads(
    predictors: Mapping[str, Sequence[Predictor]],
    members: list[int],
    question: Question,
    about: Cells,
) -> Iterator[Cells]:
    """One row for each predictor."""
    seen, agreement = question.detectable(), question.agreement
    for when, profiles in predictors.items():
        asked = [_only(one, members) for one in profiles if _may_say(one, about["outcome"])]
        for one, answer in zip(asked, _answers(question, asked), strict=True):
            reliability = _reliability(one, question.strata)
            yield {
                "when": when,
                **about,
                **answer,
                "reliability": reliability,
                "agreement": agreement,
                "detectable": _of_truth(seen, reliability),
            }


def judge_rows(found: OfRows, permutations: int) -> Table:
    """The table `foretell_by_row`: one row for each moment, block and predictor."""
    one = ["rows"] * len(found.rows)
    question = Question(found.change, one, ("rows",), permutations)
    seen = question.detectable()
    rows: list[Cells] = []
    for when in dict.fromkeys(when for when, _ in found.predictors):
        by_block = {block: them for (at, block), them in found.predictors.items() if at == when}
        for block, predictors in (*by_block.items(), (ALL, _together(list(by_block.values())))):
            for answer in _answers(question, predictors):
                rows.append({"when": when, "block": block, **answer, "detectable": seen})
    _adjust(rows, ("when",))
    return Table(ROWS, ROWS_COLUMNS, rows)


def _groups(found: OfHeads) -> Iterator[tuple[dict[str, str], list[int], list[object]]]:
    """Which heads are ranked among which: every block by itself and all of them, across layers and within."""
    blocks = list(dict.fromkeys(head.block for head in found.heads))
    for scope in (ACROSS, WITHIN):
        for block in (*blocks, ALL):
            members = [at for at, head in enumerate(found.heads) if block in (head.block, ALL)]
            heads = [found.heads[at] for at in members]
            strata: list[object] = [
                head.block if scope == ACROSS else (head.block, head.layer) for head in heads
            ]
            yield {"scope": scope, "block": block}, members, strata


def _only(one: Predictor, members: list[int]) -> Predictor:
    return Predictor(one.name, one.kind, one.values[:, members], one.halves[..., members])


def _may_say(one: Predictor, outcome: str) -> bool:
    """A score with a sign predicts forgetting, not how much a head matters."""
    return outcome == FORGOTTEN or not one.name.startswith("−")


def _together(blocks: Sequence[Sequence[Predictor]]) -> list[Predictor]:
    """Each predictor of rows as the mean of its ranks in every block: units of blocks are not comparable."""
    one = ["rows"] * blocks[0][0].values.shape[1]
    return [
        Predictor(
            same[0].name,
            same[0].kind,
            torch.stack([ranks_within(p.values, one) for p in same]).mean(0),
            same[0].halves,
        )
        for same in zip(*blocks, strict=True)
    ]


def _answers(question: Question, predictors: Sequence[Predictor]) -> list[Cells]:
    baselines = [one.values for one in predictors if one.kind == BASELINE]
    given = torch.stack(baselines, dim=1) if baselines else None
    return [_answer(question, one, given) for one in predictors]


def _answer(question: Question, one: Predictor, given: Tensor | None) -> Cells:
    whole = question.ask(one.values)
    low, high = _bounds(whole)
    beyond = question.ask(one.values, given) if one.kind == SCORE else None
    return {
        "predictor": one.name,
        "kind": one.kind,
        "correlation": whole.value,
        "low": low,
        "high": high,
        "p": whole.p,
        "beyond": math.nan if beyond is None else beyond.value,
        "beyond_p": math.nan if beyond is None else beyond.p,
        "items": whole.items,
        "seeds": len(question.outcome),
    }


def _bounds(found: RankTest) -> tuple[float, float]:
    """The interval over items, and over seeds where there are several; both add in squares, on Fisher's scale."""
    reach = float(special.ndtri(1 - ERROR / 2)) * correlation_error(
        found.each, found.items, found.strata
    )
    middle = found.each.atanh()
    mean = mean_over_seeds(middle.tolist(), (middle - reach).tolist(), (middle + reach).tolist())
    return math.tanh(mean.low), math.tanh(mean.high)


def _reliability(one: Predictor, strata: Sequence[object]) -> float:
    """The smaller of two: of the profile over heads as halves of A's rows tell it, and as halves of B's do."""
    ranked = ranks_within(one.halves.mean(0), strata)
    unit = ranked / ranked.square().sum(-1, keepdim=True).sqrt()
    found = []
    for first, second in ((0, 1), (2, 3)):
        if not bool(one.halves[:, [first, second]].isnan().any()):
            r = max(0.0, float(unit[first] @ unit[second]))
            found.append(2 * r / (1 + r))
    return min(found, default=math.nan)


def _of_truth(seen: float, reliability: float) -> float:
    """What a correlation of the measured score is of the true one; NaN where that would be above 1."""
    known = 1.0 if math.isnan(reliability) else reliability
    value = seen / math.sqrt(known) if known > 0 else math.inf
    return value if value <= 1 else math.nan


def _adjust(rows: list[Cells], family: Sequence[str]) -> None:
    """Add p_adjusted and the verdict: Holm over the scores of one family, single blocks and all of them apart."""
    families: dict[tuple[object, ...], list[Cells]] = {}
    for row in rows:
        row["p_adjusted"] = row["p"] if row["kind"] == BASELINE else math.nan
        if row["kind"] == SCORE:
            key = (*(row[name] for name in family), row["block"] == ALL)
            families.setdefault(key, []).append(row)
    for same in families.values():
        adjusted = holm(torch.tensor([row["p"] for row in same], dtype=torch.float64))
        for row, p in zip(same, adjusted.tolist(), strict=True):
            row["p_adjusted"] = p
    for row in rows:
        row["verdict"] = verdict(row)


def verdict(row: Cells) -> str:
    """What one row says, in a word."""
    if math.isnan(row["correlation"]):
        return UNMEASURED
    if row["p_adjusted"] <= ERROR:
        # Whether what norms leave of a score still says the same.
        is_beyond = row["beyond"] * row["correlation"] > 0 and row["beyond_p"] <= ERROR
        if row["kind"] == SCORE and not is_beyond:
            return NORMS_DO
        return FORETELLS if row["correlation"] > 0 else OPPOSITE
    # Power leaves out that seeds differ, so what would have been found must lie outside the interval too.
    is_denied = row["detectable"] <= CLEAR and row["high"] < row["detectable"]
    return DOES_NOT if is_denied else TOO_FEW
