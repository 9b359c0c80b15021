"""Did anything arrive? What a receiver's next tokens cost, given a text in several ways, paired by document, and the verdict in words.

With A→B what the channel gives, r a rival and t the text itself, each nats a token, share of r = (r − A→B) / (r − t).

*Communication* is said only if A→B beats the best of nothing, the mean and the map that was fitted on shuffled documents, by a paired interval above 0;
*relay* if it does, but not the sender's embeddings and the receiver's mean per token too: then to be told which tokens there were is worth as much.
That the sender has nothing to add to them is not said by it (docs/wiring.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from crosstune.foundation.evaluation.scoring import unit_sums
from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import ratio_jackknife

TEXT, CHANNEL, NOTHING, MEAN = "text", "A→B", "nothing", "mean"
SHUFFLED = "fitted on shuffled documents"
RELAY, IDENTITY = "A's embeddings", "B's mean per token"
RIVALS, RELAYS = (NOTHING, MEAN, SHUFFLED), (RELAY, IDENTITY)
_OVER = "Jackknife over documents"
_COLUMNS = (
    Column.axis("given", about="What the receiver has of the text that it goes on with."),
    *Column.interval("nats", unit="nats/token", about="Of what comes next.", bounds=f"{_OVER}."),
    *Column.interval("more", unit="nats/token", about="Less A→B's.", bounds=f"{_OVER}, paired."),
    *Column.interval(
        "share",
        about="What A→B gives of what text would in place of this; none where text is not better.",
        bounds=f"{_OVER}, paired.",
    ),
)
_NONE = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class WireVerdict:
    """A verdict and what it rests on.

    Args:
        word: ``communication``, ``relay`` or ``not communication``.
        why: The rest of the sentence.
        table: A row for each way in which the receiver was given the text.
    """

    word: str
    why: str
    table: Table

    def __str__(self) -> str:
        """The table in Markdown, and the verdict below it."""
        lines = ["| given | nats a token | less A→B | share |", "| --- | --- | --- | --- |"]
        for row in self.table.rows():
            cells = [str(Estimate.of(row, name)) for name in ("nats", "more", "share")]
            lines.append(f"| {' | '.join([row['given'], *cells])} |")
        return "\n".join([*lines, "", f"{self.table.note} **{self.word}**: {self.why}"])


def judged(
    nats: Mapping[str, Tensor], tokens: Tensor, documents: Sequence[str], note: str = ""
) -> WireVerdict:
    """The verdict by each row's nats, summed over its tokens, under all conditions that this module names; each [rows]."""
    sums = {name: unit_sums(values, documents) for name, values in nats.items()}
    counts, text, ours = unit_sums(tokens, documents), sums[TEXT], sums[CHANNEL]
    costs = {name: _ratio(one, counts) for name, one in sums.items()}
    more = {name: _ratio(one - ours, counts) for name, one in sums.items()}
    told = [n for n, one in sums.items() if _ratio(one - text, counts).is_positive and n != CHANNEL]
    useful = NOTHING in told
    shares = {name: _ratio(sums[name] - ours, sums[name] - text) for name in told if useful}
    cells = {"nats": costs, "more": more, "share": shares}
    rows = []
    for name in sums:
        row: dict[str, str | float] = {"given": name}
        for column, by in cells.items():
            found = by.get(name, _NONE)
            row |= {column: found.value, f"{column}_low": found.low, f"{column}_high": found.high}
        rows.append(row)
    best = min(RIVALS, key=lambda name: costs[name].value)
    word, why = _worded(more, best)
    if not useful:
        why += " The receiver cannot do this from text: text is no better than nothing."
    elif best in shares and more[best].is_positive:
        why += f" Share of what text gives beside {best}: {shares[best]}."
    return WireVerdict(word, why, Table("wire", _COLUMNS, rows, note=note))


def _worded(more: Mapping[str, Estimate], best: str) -> tuple[str, str]:
    """Word and reason, from what each condition costs more than A→B."""
    if not more[best].is_positive:
        return "not communication", f"{best} does as well; less A→B it costs {more[best]}."
    beaten = f"A→B saves {more[best]} nats a token on {best}, the best rival"
    if as_well := [f"{name} {more[name]}" for name in RELAYS if not more[name].is_positive]:
        also = " and ".join(as_well)
        return "relay", f"{beaten}, but which tokens there were does as well: less A→B, {also}."
    return "communication", f"{beaten}, and beats {' and '.join(RELAYS)}."


def _ratio(sums: Tensor, counts: Tensor) -> Estimate:
    found = ratio_jackknife(sums, counts)
    return Estimate(float(found.value), float(found.low), float(found.high))
