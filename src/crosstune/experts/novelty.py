"""Is a skill new? Its rows' mean states against those of every known skill: by cosine, or by a calibrated p.

The p is conformal: were the rows of a batch drawn as those of a skill were, then among all ways to part the joint rows into a
batch and a reference every one is as likely, so that P(p ≤ level) ≤ level whatever the rows' distribution, without rows to
spare for calibration. It says whether rows *differ* from a skill's, not whether the difference is worth an expert; with many
rows it sees small ones.

Source: Vovk, Gammerman and Shafer (2005), *Algorithmic Learning in a Random World*, §2.2; parted at random it is the
permutation test of Pitman (1937).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.routing.passes import batches
from crosstune.experts.settings import NoveltySettings
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.data.tokens import refuse_packed
from crosstune.foundation.errors import DataError, hold
from crosstune.foundation.models import Stream
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import Interval, jackknife

Library: TypeAlias = Mapping[str, Tensor]
"""The known skills by name, each as `embed_rows` returns it: [rows, H]."""


@dataclass(frozen=True)
class Novelty:
    """What was found about a skill's rows."""

    verdict: str
    """``new``, ``known`` or ``undecided``."""
    p: float
    """The largest of the known skills' p; NaN where the rule has none."""
    similarity: Interval | None
    """The cosine with `nearest`, of the rule `cosine` that of the skills it takes; None where nothing was compared."""
    nearest: str | None
    """The known skill these rows are most like; None where nothing was compared."""
    why: str

    @property
    def is_new(self) -> bool:
        """True where an expert may be born; undecided is not new."""
        return self.verdict == "new"


def final_states(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The states of scored tokens after the final norm, row after row, [tokens, H], on the CPU; without gradient or autocast."""
    stream = Stream.of(model)
    with torch.no_grad(), torch.autocast(batch["labels"].device.type, enabled=False):
        before = stream.read(batch, [stream.num_layers])[stream.num_layers]
        states: Tensor = stream.entries[-1](before)
        return states[batch["labels"] != UNSCORED].cpu()


def embed_rows(model: nn.Module, encoded: Sequence[Encoded]) -> Tensor:
    """Where rows lie: the mean state over the scored tokens of each unit that has one, in order of first appearance; [n, H], float32.

    Windows of one row, rows of one group and copies of a row are a unit.

    Raises:
        DataError: No token is scored, the rows are packed, or a state is not finite.
    """
    refuse_packed("encoded", encoded)
    scored = [item for item in encoded if item.scored_tokens]
    found = f"none in {len(encoded)} rows"
    words = "must have a scored token", found, "Give rows with text, of two tokens or more."
    hold(bool(scored), DataError, "encoded", words)
    names = {unit: at for at, unit in enumerate(dict.fromkeys(item.unit for item in scored))}
    tokens = torch.tensor([item.scored_tokens for item in scored])
    unit_of = torch.tensor([names[item.unit] for item in scored])
    sums = torch.zeros(len(names), Stream.of(model).width, dtype=torch.float64)
    for places, batch in batches(model, scored):
        owners = unit_of[places].repeat_interleave(tokens[places])
        sums.index_add_(0, owners, final_states(model, batch).double())
    counts = torch.zeros(len(names), dtype=torch.float64).index_add_(0, unit_of, tokens.double())
    rows = (sums / counts[:, None]).float()
    found = f"{int((~rows.isfinite()).any(dim=1).sum())} of {len(rows)} with NaN or infinity"
    words = "must be finite", found, "Look at the model: its states overflow, or a weight is not."
    hold(bool(rows.isfinite().all()), DataError, "states", words)
    return rows


def assess(batch: Tensor, tokens: int, library: Library, settings: NoveltySettings) -> Novelty:
    """Whether the rows of a batch, of so many scored tokens, come from a skill that is not known yet.

    With nothing known whatever is large enough is new.
    """
    if len(batch) < settings.min_rows or tokens < settings.min_tokens:
        least = f"it takes {settings.min_rows} and {settings.min_tokens}"
        why = f"{len(batch)} rows and {tokens} tokens; {least}"
        return Novelty("undecided", math.nan, None, None, why)
    if not library:
        return Novelty("new", math.nan, None, None, "nothing is known yet")
    rule = _calibrated if settings.rule == "calibrated" else _by_cosine
    return rule(batch.double(), {n: rows.double() for n, rows in library.items()}, settings)


def _calibrated(batch: Tensor, library: Library, settings: NoveltySettings) -> Novelty:
    """New where the batch is strange to every skill: P(all p ≤ level) ≤ P(p of its own skill ≤ level)."""
    seeds = Seeds(settings.seed)
    values = {
        name: _conformal_p(batch, rows, settings.batches, seeds.torch("novelty", name))
        for name, rows in library.items()
    }
    p, _, nearest = max(
        zip(values.values(), _to_each(batch, library).tolist(), values, strict=True)
    )
    similarity = _similarity(batch, {nearest: library[nearest]}, settings)
    fewest = 1 / (settings.batches + 1)
    if fewest > settings.level:
        why = f"with {settings.batches} batches p is at least {fewest:.3g}, and {settings.level:g} is not reached"
        return Novelty("undecided", p, similarity, nearest, why)
    share = f"were these rows of {nearest}, the likeliest of {len(library)}, a share p of {p:.3g} would be as strange"
    verdict, where = ("new", "at most") if p <= settings.level else ("known", "above")
    return Novelty(verdict, p, similarity, nearest, f"{share}, {where} {settings.level:g}")


def _conformal_p(batch: Tensor, known: Tensor, draws: int, generator: torch.Generator) -> float:
    """(b + 1) / (draws + 1), where b batches drawn from the joint rows lie as far from the other rows as this one does.

    Far: Euclid's distance of the means, each feature in units of its spread over the joint rows, and rows that lie further out
    than half of them drawn in to that length, since a few far ones would drown the others. A cosine would hang on the features
    whose mean is large in every text, and on where the origin lies. What is done to the joint rows knows no part of them.
    """
    joint = torch.cat([batch, known])
    spread = joint.std(0)
    scaled = torch.where(spread > 0, (joint - joint.mean(0)) / spread, 0.0)
    length = scaled.norm(dim=1, keepdim=True)
    drawn_in = scaled * (length.median() / length.clamp_min(1e-9)).clamp_max(1.0)
    order = torch.rand(draws, len(joint), generator=generator, dtype=torch.float64).argsort(1)
    chosen = torch.zeros(draws + 1, len(joint), dtype=torch.float64)
    chosen[:-1].scatter_(1, order[:, : len(batch)], 1.0)
    chosen[-1, : len(batch)] = 1.0
    # The reference's mean lies opposite the batch's, at a fixed ratio: the batch's own length orders the distances.
    far = (chosen @ (drawn_in - drawn_in.mean(0))).norm(dim=1)
    strange = int((far[:-1] >= far[-1] * (1 - 1e-9)).sum())  # equal ones differ by rounding
    return (strange + 1) / (draws + 1)


def _by_cosine(batch: Tensor, library: Library, settings: NoveltySettings) -> Novelty:
    """The original's rule, with an interval."""
    similarity = _similarity(batch, library, settings)
    _, nearest = max(zip(_to_each(batch, library).tolist(), library, strict=True))
    threshold = settings.threshold - settings.decay * math.log1p(len(library))
    low, high = float(similarity.low), float(similarity.high)
    verdict, where = "undecided", "on both sides of"
    if not low <= threshold <= high:
        verdict, where = ("new", "below") if high < threshold else ("known", "above")
    why = f"the similarity lies in {low:.3f} to {high:.3f}, {where} the threshold {threshold:.3f}"
    return Novelty(verdict, math.nan, similarity, nearest, why)


def _similarity(batch: Tensor, library: Library, settings: NoveltySettings) -> Interval:
    """The cosine of means over the skills, with its jackknife over the rows of the batch and of every skill."""
    mean, means = batch.mean(dim=0), [rows.mean(dim=0) for rows in library.values()]
    full = _cosines(mean[None], means)
    tables = [_cosines(_without_each(batch), means)]
    for place, rows in enumerate(library.values()):
        table = full.repeat(len(rows), 1)
        table[:, place] = _cosines(_without_each(rows), [mean])[:, 0]
        tables.append(table)
    figures = [_over(table, settings) for table in tables]
    sizes = [len(figure) for figure in figures]
    return jackknife(torch.cat(figures), _over(full, settings)[0], 1 - settings.level, sizes=sizes)


def _over(cosines: Tensor, settings: NoveltySettings) -> Tensor:
    """One similarity for each row of cosines with the skills; [D, K] to [D]."""
    if settings.over == "median":
        return cosines.quantile(0.5, dim=1)
    most = settings.neighbours if settings.over == "nearest" else 1
    return cosines.topk(min(most, cosines.shape[1]), dim=1).values.mean(1)


def _to_each(batch: Tensor, library: Library) -> Tensor:
    """The cosine with each skill, [K]."""
    return _cosines(batch.mean(dim=0)[None], [rows.mean(dim=0) for rows in library.values()])[0]


def _cosines(means: Tensor, skills: Sequence[Tensor]) -> Tensor:
    """Of each mean [D, H] with each skill's: [D, K], over features and no other axis."""
    known = torch.stack(list(skills))
    return functional.normalize(means, dim=1) @ functional.normalize(known, dim=1).T


def _without_each(rows: Tensor) -> Tensor:
    """The mean without each row, [n, H]."""
    return (rows.sum(0) - rows) / (len(rows) - 1)
