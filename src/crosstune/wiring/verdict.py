"""Did anything arrive? Nats a token of a receiver given a text in several ways, paired by document, and the verdict in words.

With A→B what the channel gives, r a rival, t the text itself, each nats a token,

    share of r = (r − A→B) / (r − t)

*Communication* is said only if A→B beats the best of nothing, the mean and the map that was fitted on shuffled documents, by a paired interval above 0;
*relay* if it does, but not the sender's embeddings and the receiver's mean per token too: then the sender says no more than which tokens there were.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.evaluation.scoring import unit_sums
from crosstune.foundation.records import Column, Table
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife

TEXT, CHANNEL, NOTHING = "text", "A→B", "nothing"
MEAN, SHUFFLED = "mean", "fitted on shuffled documents"
RELAY, IDENTITY = "A's embeddings", "B's mean per token"
RIVALS, RELAYS = (NOTHING, MEAN, SHUFFLED), (RELAY, IDENTITY)
_JACKKNIFE = "Jackknife over documents"
_COLUMNS = (
    Column.axis("given", about="What the receiver has of the text that it goes on with."),
    *Column.interval("nats", unit="nats/token", about="Of what comes next.", bounds=_JACKKNIFE),
    *Column.interval(
        "more",
        unit="nats/token",
        about="The same less that of A→B.",
        bounds=f"{_JACKKNIFE}, paired.",
    ),
    *Column.interval(
        "share",
        about="Of what text would give in place of this, what A→B gives; none where text is not better.",
        bounds=f"{_JACKKNIFE}, paired.",
    ),
)


@dataclass(frozen=True)
class WireVerdict:
    """A verdict and what it rests on.

    Args:
        word: ``communication``, ``relay`` or ``not communication``.
        why: The rest of the sentence.
        table: One row for each way in which the receiver was given the text.
    """

    word: str
    why: str
    table: Table

    def __str__(self) -> str:
        """The table, and the verdict below it."""
        lines = [f"{'given':30}{'nats a token':>24}{'less A→B':>26}{'share':>22}"]
        for row in self.table.rows():
            cells = [_bounded(row, name) for name in ("nats", "more", "share")]
            lines.append(f"{row['given']:30}{cells[0]:>24}{cells[1]:>26}{cells[2]:>22}")
        return "\n".join([*lines, self.table.note, f"{self.word}: {self.why}"])


def judged(
    nats: Mapping[str, Tensor], tokens: Tensor, documents: Sequence[str], note: str = ""
) -> WireVerdict:
    """The verdict on a channel by what each row's next tokens cost under every condition.

    Shapes: each of ``nats``, and ``tokens``, [rows].

    Args:
        nats: Summed, by what the receiver was given; all names of this module must be there.
        tokens: Scored.
        documents: Of each row: what intervals leave out.
        note: Goes below the table.

    Returns:
        Table and verdict.
    """
    sums = {name: unit_sums(values, documents) for name, values in nats.items()}
    counts, text, ours = unit_sums(tokens, documents), sums[TEXT], sums[CHANNEL]
    costs = {name: ratio_jackknife(one, counts) for name, one in sums.items()}
    more = {name: ratio_jackknife(one - ours, counts) for name, one in sums.items()}
    useful = ratio_jackknife(sums[NOTHING] - text, counts).low > 0
    shares = {
        name: ratio_jackknife(one - ours, one - text)
        for name, one in sums.items()
        if useful and ratio_jackknife(one - text, counts).low > 0 and name != CHANNEL
    }
    unmeasured = Interval(*[torch.tensor(math.nan)] * 3, level=0.95, df=torch.tensor(math.nan))
    rows = [
        {"given": name}
        | _cells("nats", costs[name])
        | _cells("more", more[name])
        | _cells("share", shares.get(name, unmeasured))
        for name in sums
    ]
    best = min(RIVALS, key=lambda name: float(costs[name].value))
    word, why = _verdict(more, best)
    told = "the receiver cannot do this from text: text is no better than nothing."
    if useful:
        share = shares.get(best)
        told = f"Of what text gives beside {best}, {_said(share)}." if share else ""
    return WireVerdict(word, f"{why} {told}".strip(), Table("wire", _COLUMNS, rows, note=note))


def _verdict(more: Mapping[str, Interval], best: str) -> tuple[str, str]:
    """Word and reason, from what each condition costs more than A→B."""
    beaten = f"A→B is better than {best}, the best rival, by {_said(more[best])} nats a token"
    if not more[best].low > 0:
        return "not communication", f"{best} does as well: its nats less A→B's {_said(more[best])}."
    if as_well := [name for name in RELAYS if not more[name].low > 0]:
        also = " and ".join(f"{name} ({_said(more[name])})" for name in as_well)
        return "relay", f"{beaten}, but {also} does as well: it says which tokens there were."
    return "communication", f"{beaten}, and than {' and '.join(RELAYS)}."


def _cells(name: str, interval: Interval) -> dict[str, float]:
    bounds = {"": interval.value, "_low": interval.low, "_high": interval.high}
    return {f"{name}{end}": float(value) for end, value in bounds.items()}


def _said(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _bounded(row: Mapping[str, float], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return "" if math.isnan(value) else f"{value:.3f} [{low:.3f}, {high:.3f}]"
