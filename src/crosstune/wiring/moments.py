"""Sums over rows of two models' states, by fold of documents: what similarity, ranks and every closed-form map are computed from.

With a = x − origin, b = y − origin, each fold keeps n, Σa, Σb, Σaaᵀ, Σabᵀ and Σbbᵀ. The origin, the mean of some first rows, keeps
float32 products small; it is undone exactly: Σ(a − s)(b − t)ᵀ = Σabᵀ − s(Σb)ᵀ − (Σ(a − s))tᵀ.

Linear HSIC is ‖E(x − μ)(y − ν)ᵀ‖². Of four different folds f, g, h, l, with C the mean of xyᵀ, u and v those of x and y in a fold,

    HSIC(x, y) = mean of ⟨C_f, C_g⟩ + (u_f·u_g)(v_h·v_l) − 2 u_fᵀ C_g v_h;   CKA = HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)).

Every product is of different documents' rows, so HSIC is unbiased however alike the rows of one document are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crosstune.foundation.errors import DataError, MeasurementError, hold
from crosstune.foundation.gradients.gradients import float32_products
from crosstune.foundation.ranks import from_first, sum_over_ranks
from crosstune.foundation.seeds import content_key
from crosstune.foundation.statistics.intervals import Interval, jackknife
from crosstune.foundation.storage import atomic_write

Sites = Mapping[str, Tensor]
"""States of the same rows by name of site, [n, width] each."""
ROUNDING = 2.0**-20
"""Of the largest singular value: what is smaller may be rounding of float32 products."""
_PAIRS = ("x", "x"), ("x", "y"), ("y", "y")


@dataclass(frozen=True)
class Covariances:
    """Means [p], [q] and covariances [p, p], [p, q], [q, q], divided by the rows, of a sender's x and a receiver's y; float64."""

    rows: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor


@dataclass(frozen=True)
class PairMoments:
    """Sums over rows of two models, a sender x and a receiver y, each at several sites side by side.

    Shapes: p, q all the sender's, all the receiver's columns, k folds; ``origin`` x [p], y [q], float32; ``sums`` rows [k], x [k, p],
    y [k, q], xx [k, p, p], xy [k, p, q], yy [k, q, q], float64.
    """

    sender: Mapping[str, int]
    """Width by name of site, in the order of the columns."""
    receiver: Mapping[str, int]
    origin: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]

    @classmethod
    def about(cls, x: Sites, y: Sites, folds: int = 5) -> PairMoments:
        """No rows yet, about the mean of some first ones, which are not added: all processes call it, and the first's rows count."""
        sender, receiver = ({name: s.shape[1] for name, s in side.items()} for side in (x, y))
        device = next(iter(x.values())).device
        here = {"x": _beside(x), "y": _beside(y)}
        means = from_first({side: rows.mean(dim=0).float().cpu() for side, rows in here.items()})
        shapes = {"rows": [folds]} | {side: [folds, len(mean)] for side, mean in means.items()}
        shapes |= {a + b: [folds, len(means[a]), len(means[b])] for a, b in _PAIRS}
        empty = {n: torch.zeros(s, dtype=torch.float64, device=device) for n, s in shapes.items()}
        return cls(sender, receiver, {side: mean.to(device) for side, mean in means.items()}, empty)

    def add(self, documents: Sequence[str], x: Sites, y: Sites) -> None:
        """Take in more rows, with the document of each, whose hash is its fold; products are float32, or float64 of float64 rows.

        Other sites, widths or rows than expected, and states that are not finite, are a DataError.
        """
        rows: dict[str, Tensor] = {}
        for side, given, known in (("x", x, self.sender), ("y", y, self.receiver)):
            found = [(name, *states.shape) for name, states in given.items()]
            expected = [(name, len(documents), width) for name, width in known.items()]
            law = f"must have these sites, rows and widths: {expected}"
            hold(found == expected, DataError, side, (law, found, "Read both models alike."))
            rows[side] = _beside(given)
            bad = (~rows[side].sum(dim=1).isfinite()).nonzero().flatten().tolist()
            where = f"NaN or infinity in {len(bad)} rows, of {documents[bad[0]]!r}" if bad else ""
            hold(not bad, DataError, side, ("must be finite", where, "Leave them out."))
        place = {n: content_key(n, "fold") % len(self.sums["rows"]) for n in {*documents}}
        of_row = torch.tensor([place[name] for name in documents])
        for fold in of_row.unique().tolist():
            chosen = (of_row == fold).to(rows["x"].device)
            off = {side: states[chosen] - self.origin[side] for side, states in rows.items()}
            self.sums["rows"][fold] += len(off["x"])
            with float32_products():
                for side, states in off.items():
                    self.sums[side][fold] += states.sum(dim=0, dtype=torch.float64)
                for a, b in _PAIRS:
                    self.sums[a + b][fold] += off[a].T @ off[b]

    def __add__(self, other: PairMoments) -> PairMoments:
        """The moments of both one's rows, about the first's origin."""
        ours, theirs = ((m.sender, m.receiver, len(m.sums["rows"])) for m in (self, other))
        words = f"must have the same sites and folds, {ours}", theirs, "Read them alike."
        hold(ours == theirs, DataError, "other", words)
        by = {side: self.origin[side].double() - other.origin[side].double() for side in "xy"}
        moved = _moved(other.sums, by)
        return replace(self, sums={name: part + moved[name] for name, part in self.sums.items()})

    def all_reduced(self) -> PairMoments:
        """The moments of all processes' rows, the same bits on each; all call it."""
        sums = {n: torch.stack([sum_over_ranks(p) for p in ps]) for n, ps in self.sums.items()}
        return replace(self, sums=sums)

    def select(self, sender: Collection[str], receiver: Collection[str]) -> PairMoments:
        """The moments of some of the sites, in the order that they have here; a DataError where one is not there."""
        at: dict[str, Tensor] = {}
        sites: dict[str, dict[str, int]] = {}
        sides = ("x", "sender", self.sender, sender), ("y", "receiver", self.receiver, receiver)
        for side, argument, known, asked in sides:
            sites[side] = {name: width for name, width in known.items() if name in asked}
            words = f"must be among {list(known)}", list(asked), "Read that site too."
            hold({*asked} <= {*known}, DataError, argument, words)
            columns = [name in asked for name, width in known.items() for _ in range(width)]
            at[side] = torch.tensor(columns, device=self.origin[side].device).nonzero().flatten()
        sums = {"rows": self.sums["rows"]} | {side: self.sums[side][:, at[side]] for side in "xy"}
        sums |= {a + b: self.sums[a + b][:, at[a][:, None], at[b]] for a, b in _PAIRS}
        origin = {side: self.origin[side][places] for side, places in at.items()}
        return PairMoments(sites["x"], sites["y"], origin, sums)

    @property
    def folds(self) -> list[int]:
        """Those that have rows."""
        return [fold for fold, rows in enumerate(self.sums["rows"].tolist()) if rows]

    def covariances(self, folds: Sequence[int] | None = None) -> Covariances:
        """Over the documents of some folds that have rows; or of all, with a warning where rows are few."""
        chosen = self.folds if folds is None else list(folds)
        total = {name: part[chosen].sum(dim=0, keepdim=True) for name, part in self.sums.items()}
        rows, columns = int(total["rows"]), len(self.origin["x"])
        if folds is None and rows < 5 * columns:
            said = "warning: %d rows are fewer than 5 for each of the sender's %d columns"
            logging.getLogger("crosstune").warning(said, rows, columns)
        by, means = _averages(total)
        mean_x, mean_y = (self.origin[side] + by[side] for side in "xy")
        return Covariances(rows, mean_x, mean_y, *(means[a + b][0] for a, b in _PAIRS))

    def cka(self, level: float = 0.95) -> tuple[Interval, str]:
        """How alike the states are up to rotation, scale and shift, with the jackknife's interval over folds; unclipped, and 0 on average by chance.

        Pairs of rows of one document are left out, and with them all of one fold: the estimate spreads 1.1 to 1.3 times as far as over all pairs of
        documents (5 folds of 40 to 200), which would take more matrices. What places in a document alone make alike needs moments of `shuffled` rows.

        Returns:
            The estimate, and why it or its interval is NaN.

        Raises:
            MeasurementError: Documents of fewer than four folds.

        Source: Kornblith, Norouzi, Lee, Hinton 2019, arXiv 1905.00414, §3; Song, Smola, Gretton, Bedo, Borgwardt 2012, *Feature Selection via
            Dependence Maximization*, JMLR 13, §2 (the U-statistic); ours is over folds of documents instead of rows.
        """
        kept = self.folds
        words = "must hold documents of at least four folds", len(kept), "Add documents."
        hold(len(kept) >= 4, MeasurementError, "moments", words)
        by, means = _averages({name: part[kept] for name, part in self.sums.items()})
        least = [(ROUNDING * (self.origin[side] + by[side]).norm().cpu()) ** 4 for side in "xy"]
        tables = [_tables(means[a + b], means[a], means[b]) for a, b in _PAIRS]

        def over(folds: list[int]) -> Tensor:
            """CKA of some folds, NaN of fewer than four."""
            f, g, h, e = torch.tensor([*permutations(folds, 4)]).long().reshape(-1, 4).T
            terms = [c[f, g] + u[f, g] * v[h, e] - 2 * m[f, g, h] for c, u, v, m in tables]
            own, both, other = torch.stack(terms).mean(dim=1)
            varies = (own > least[0]) & (other > least[1])
            return torch.where(varies, both / (own * other).sqrt(), torch.nan)

        every = list(range(len(kept)))
        without = torch.stack([over([at for at in every if at != left]) for left in every])
        interval = jackknife(without, over(every), level)
        if interval.value.isnan():
            return interval, "one side's states do not vary beyond rounding"
        return interval, "no estimate without one of the folds" if interval.low.isnan() else ""

    def save(self, path: Path | str) -> None:
        """One safetensors file, whole or absent."""
        named = {**self.sums, **{f"origin.{side}": mean for side, mean in self.origin.items()}}
        sites = {"sender": json.dumps(self.sender), "receiver": json.dumps(self.receiver)}
        with atomic_write(path) as temporary:
            save_file({name: part.contiguous() for name, part in named.items()}, temporary, sites)

    @classmethod
    def load(cls, path: Path | str) -> PairMoments:
        """What `save` wrote, to the bit."""
        with safe_open(path, framework="pt") as file:
            sites = {name: json.loads(text) for name, text in file.metadata().items()}
            named = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        origin = {side: named.pop(f"origin.{side}") for side in "xy"}
        return cls(sites["sender"], sites["receiver"], origin, named)


def shuffled(
    documents: Sequence[str], x: Sites, y: Sites, generator: torch.Generator
) -> tuple[list[str], Sites, Sites]:
    """The same rows, the receiver's of another document, place by place to the end of the shorter: for `PairMoments.add`.

    Documents meet in one circle that the generator draws; of fewer than three, two would swap, and still share what they share: a DataError.
    """
    at: dict[str, list[int]] = {}
    for place, name in enumerate(documents):
        at.setdefault(name, []).append(place)
    hold(len(at) > 2, DataError, "documents", ("must name three", len(at), "Shuffle larger parts."))
    circle = [[*at.values()][i] for i in torch.randperm(len(at), generator=generator).tolist()]
    met = zip(circle, circle[1:] + circle[:1], strict=True)
    of_x, of_y = zip(*(pair for two in met for pair in zip(*two, strict=False)), strict=True)
    ours, theirs = ({n: s[[*of]] for n, s in m.items()} for m, of in ((x, of_x), (y, of_y)))
    return [documents[i] for i in of_x], ours, theirs


def ranks_of(matrix: Tensor) -> tuple[int, float]:
    """How many singular values are more than rounding, and the effective rank: exp of the entropy of their shares.

    Source: Roy and Vetterli 2007, *The Effective Rank: A Measure of Effective Dimensionality*, EUSIPCO, §2.
    """
    values = torch.linalg.svdvals(matrix)
    entropy = torch.special.entr(values / values.sum()).sum()
    return int((values > ROUNDING * values.max()).sum()), float(entropy.exp())


def _beside(sites: Sites) -> Tensor:
    """Sites side by side, [n, Σ width], float32 or more."""
    wide = torch.cat([states.detach() for states in sites.values()], dim=1)
    return wide.to(torch.promote_types(wide.dtype, torch.float32))


def _moved(sums: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums by fold as they are about points that lie farther by so much."""
    moved = {side: sums[side] - sums["rows"][:, None] * by[side] for side in "xy"}
    for a, b in _PAIRS:
        shift = by[a][:, None] * sums[b][:, None] + moved[a][:, :, None] * by[b]
        moved[a + b] = sums[a + b] - shift
    return {"rows": sums["rows"], **moved}


def _averages(sums: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean of all rows, from the origin; and the averages by fold about it."""
    by = {side: sums[side].sum(dim=0) / sums["rows"].sum() for side in "xy"}
    moved, shares = _moved(sums, by), 1 / sums["rows"]
    return by, {name: torch.einsum("f...,f->f...", part, shares) for name, part in moved.items()}


def _tables(products: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
    """By folds: ⟨C_f, C_g⟩, u_f·u_g and v_f·v_g, all [k, k], and u_fᵀ C_g v_h [k, k, k]."""
    flat, mixed = products.flatten(1), torch.einsum("fp,gpq,hq->fgh", left, products, right)
    return tuple(table.cpu() for table in (flat @ flat.T, left @ left.T, right @ right.T, mixed))
