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
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.routing.passes import batches
from crosstune.experts.settings import NoveltySettings, hold
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.data.tokens import refuse_packed
from crosstune.foundation.errors import DataError
from crosstune.foundation.models import Stream
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import Interval, jackknife


@dataclass(frozen=True)
class Embedding:
    """Where a skill lies in the model's states."""

    rows: Tensor
    """The mean state over the scored tokens of each independent row, after the final norm; [n, H], float32, finite."""
    tokens: int
    """How many scored tokens that were."""

    def __post_init__(self) -> None:
        bad = int((~self.rows.isfinite()).any(dim=1).sum())
        found = f"{bad} of {len(self.rows)} with NaN or infinity"
        remedy = "Look at the model: its states overflow, or a weight is not finite."
        hold(not bad, DataError, "rows", ("must be finite", found, remedy))

    @property
    def mean(self) -> Tensor:
        """The embedding itself, [H], float64."""
        return self.rows.double().mean(0)

    def moved(self, again: Embedding, share: float) -> Embedding:
        """The moving average when a skill comes again, `share` of the way: shifted rows, which vary about their mean as before."""
        shift = share * (again.mean - self.mean)
        return Embedding((self.rows.double() + shift).float(), self.tokens + again.tokens)


Library: TypeAlias = Mapping[str, Embedding]
"""The known skills by name."""


@dataclass(frozen=True)
class Novelty:
    """What was found about a skill's rows."""

    verdict: Literal["new", "known", "undecided"]
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


def embed_rows(model: nn.Module, encoded: Sequence[Encoded]) -> Embedding:
    """The mean states of rows; windows of one row, rows of one group and copies of a row are one row of the result.

    A row comes for each unit with a scored token, in order of first appearance.

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
    width = Stream.of(model).width
    sums = torch.zeros(len(names), width, dtype=torch.float64)
    for places, batch in batches(model, scored):
        owners = unit_of[places].repeat_interleave(tokens[places])
        sums.index_add_(0, owners, final_states(model, batch).double())
    counts = torch.zeros(len(names), dtype=torch.float64).index_add_(0, unit_of, tokens.double())
    return Embedding((sums / counts[:, None]).float(), int(tokens.sum()))


def assess(batch: Embedding, library: Library, settings: NoveltySettings) -> Novelty:
    """Whether a batch of rows comes from a skill that is not known yet; with nothing known whatever is large enough is new."""
    found, least = (len(batch.rows), batch.tokens), (settings.min_rows, settings.min_tokens)
    if found[0] < least[0] or found[1] < least[1]:
        why = f"{found[0]} rows and {found[1]} tokens; it takes {least[0]} and {least[1]}"
        return Novelty("undecided", math.nan, None, None, why)
    if not library:
        return Novelty("new", math.nan, None, None, "nothing is known yet")
    return (_calibrated if settings.rule == "calibrated" else _by_cosine)(batch, library, settings)


def _calibrated(batch: Embedding, library: Library, settings: NoveltySettings) -> Novelty:
    """New where the batch is strange to every skill: P(all p ≤ level) ≤ P(p of its own skill ≤ level)."""
    seeds = Seeds(settings.seed)
    values = {
        name: _conformal_p(batch.rows, skill.rows, settings.batches, seeds.torch("novelty", name))
        for name, skill in library.items()
    }
    p, _, nearest = max(zip(values.values(), _to_each(batch, library), values, strict=True))
    similarity = _similarity(batch, {nearest: library[nearest]}, settings)
    fewest = 1 / (settings.batches + 1)
    if fewest > settings.level:
        why = f"with {settings.batches} batches p is at least {fewest:.3g}, and {settings.level:g} is not reached"
        return Novelty("undecided", p, similarity, nearest, why)
    share = f"were these rows of {nearest}, the likeliest of {len(library)}, a share p of {p:.3g} would be as strange"
    if p <= settings.level:
        return Novelty("new", p, similarity, nearest, f"{share}, at most {settings.level:g}")
    return Novelty("known", p, similarity, nearest, f"{share}, above {settings.level:g}")


def _conformal_p(batch: Tensor, known: Tensor, draws: int, generator: torch.Generator) -> float:
    """(b + 1) / (draws + 1), where b batches drawn from the joint rows lie as far from the other rows as this one does.

    Far: Euclid's distance of the means, each feature in units of its spread over the joint rows, and rows that lie further out
    than half of them drawn in to that length, since a few far ones would drown the others. A cosine would hang on the features
    whose mean is large in every text, and on where the origin lies. What is done to the joint rows knows no part of them.
    """
    joint = torch.cat([batch, known]).double()
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


def _by_cosine(batch: Embedding, library: Library, settings: NoveltySettings) -> Novelty:
    """The original's rule, with an interval."""
    similarity = _similarity(batch, library, settings)
    _, nearest = max(zip(_to_each(batch, library), library, strict=True))
    threshold = settings.threshold - settings.decay * math.log1p(len(library))
    low, high = float(similarity.low), float(similarity.high)
    verdict: Literal["new", "known", "undecided"] = "new" if high < threshold else "undecided"
    if low > threshold:
        verdict = "known"
    where = {"new": "below", "known": "above", "undecided": "on both sides of"}[verdict]
    why = f"the similarity lies in {low:.3f} to {high:.3f}, {where} the threshold {threshold:.3f}"
    return Novelty(verdict, math.nan, similarity, nearest, why)


def _similarity(batch: Embedding, library: Library, settings: NoveltySettings) -> Interval:
    """The cosine of means over the skills, with its jackknife over the rows of the batch and of every skill."""
    skills = list(library.values())
    means = [skill.mean for skill in skills]
    full = _cosines(batch.mean[None], means)
    tables = [_cosines(_without_each(batch), means)]
    for place, skill in enumerate(skills):
        table = full.repeat(len(skill.rows), 1)
        table[:, place] = _cosines(_without_each(skill), [batch.mean])[:, 0]
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


def _to_each(batch: Embedding, library: Library) -> list[float]:
    """The cosine with each skill."""
    found: list[float] = _cosines(batch.mean[None], [skill.mean for skill in library.values()])[
        0
    ].tolist()
    return found


def _cosines(means: Tensor, skills: Sequence[Tensor]) -> Tensor:
    """Of each mean [D, H] with each skill's: [D, K], over features and no other axis."""
    known = torch.stack(list(skills))
    return functional.normalize(means, dim=1) @ functional.normalize(known, dim=1).T


def _without_each(embedding: Embedding) -> Tensor:
    """The mean without each row, [n, H]."""
    rows = embedding.rows.double()
    return (rows.sum(0) - rows) / (len(rows) - 1)
