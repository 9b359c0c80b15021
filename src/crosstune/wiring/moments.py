"""Sums over rows of two models' states, by fold of documents: what similarity, ranks and every closed-form map are computed from.

With a = x − pilot, b = y − pilot, each fold keeps n, Σa, Σb, Σaaᵀ, Σabᵀ and Σbbᵀ. The pilot, the mean of some first rows, keeps
float32 products small; it is undone exactly: Σ(a − s)(b − t)ᵀ = Σabᵀ − s(Σb)ᵀ − (Σ(a − s))tᵀ.

Linear HSIC is ‖E(x − μ)(y − ν)ᵀ‖²: over sets of four different folds f, g, h, l, of which C is the mean of xyᵀ, and u, v are the means of x, y,

    HSIC = mean of ⟨C_f, C_g⟩ + (u_f·u_g)(v_h·v_l) − 2 u_fᵀ C_g v_h,    CKA = HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)).

Every product is of different documents' rows, so HSIC is unbiased however alike the rows of one document are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
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

ROUNDING = 2.0**-20
"""Of the largest singular value: what is smaller may be rounding of float32 products."""
_PAIRS = ("x", "x"), ("x", "y"), ("y", "y")
_PLENTY = 5  # rows a column, below which a warning is given


@dataclass(frozen=True)
class Covariances:
    """Means and covariances of a sender's x and a receiver's y over some rows, float64.

    Shapes: ``mean_x`` [p], ``mean_y`` [q], ``xx`` [p, p], ``xy`` [p, q], ``yy`` [q, q], divided by the rows.
    """

    rows: int
    mean_x: Tensor
    mean_y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor


@dataclass(frozen=True)
class Similarity:
    """Unbiased linear CKA with its jackknife interval over folds; it may lie below 0, and is NaN where `reason` says why."""

    interval: Interval
    reason: str


@dataclass(frozen=True)
class PairMoments:
    """Sums over pairs of rows of two models, each at several sites side by side.

    Shapes: p, q the widths of all sender's, all receiver's sites together, k folds; ``pilot`` x [p], y [q] float32; ``sums`` float64:
    rows [k], x [k, p], y [k, q], xx [k, p, p], xy [k, p, q], yy [k, q, q].
    """

    sender: Mapping[str, int]
    """Width by name of site, side by side in this order."""
    receiver: Mapping[str, int]
    """Likewise."""
    pilot: Mapping[str, Tensor]
    sums: dict[str, Tensor]

    @classmethod
    def about(cls, x: Mapping[str, Tensor], y: Mapping[str, Tensor], folds: int = 5) -> PairMoments:
        """Nothing yet, about the mean of some first rows; with several processes all call it, and the first's rows count.

        Args:
            x: The sender's states by name of site, [n, width] each; they are not added.
            y: Likewise the receiver's.
            folds: Among how many documents are dealt. CKA needs four with rows, its interval five.

        Returns:
            Moments to add rows to, on the rows' device.
        """
        device = next(iter(x.values())).device
        here = {
            "x": _beside(x).mean(dim=0).float().cpu(),
            "y": _beside(y).mean(dim=0).float().cpu(),
        }
        pilot = {side: mean.to(device) for side, mean in from_first(here).items()}
        width = {side: len(mean) for side, mean in pilot.items()}
        shapes = {"rows": [folds]} | {side: [folds, width[side]] for side in width}
        shapes |= {a + b: [folds, width[a], width[b]] for a, b in _PAIRS}
        sums = {
            name: torch.zeros(shape, dtype=torch.float64, device=device)
            for name, shape in shapes.items()
        }
        sender, receiver = ({name: s.shape[1] for name, s in side.items()} for side in (x, y))
        return cls(sender, receiver, pilot, sums)

    def add(
        self, documents: Sequence[str], x: Mapping[str, Tensor], y: Mapping[str, Tensor]
    ) -> None:
        """Take in some more rows. Products are float32, or float64 of float64 rows; a document's fold is a hash of its name.

        Args:
            documents: Of each row, [n].
            x: The sender's states by name of site, [n, width] each.
            y: Likewise the receiver's, row by row.

        Raises:
            DataError: Other sites, widths or rows than expected, or a state that is not finite.
        """
        for argument, given, known in (("x", x, self.sender), ("y", y, self.receiver)):
            shapes = {name: tuple(states.shape) for name, states in given.items()}
            expected = {name: (len(documents), width) for name, width in known.items()}
            words = (
                f"must have these sites, each [rows, width]: {expected}",
                shapes,
                "Read the same.",
            )
            hold(list(shapes.items()) == list(expected.items()), DataError, argument, words)
        rows = {"x": _beside(x), "y": _beside(y)}
        for argument, states in rows.items():
            bad = sorted(
                {documents[at] for at in (~states.isfinite().all(dim=1)).nonzero().flatten()}
            )
            words = (
                "must be finite",
                f"NaN or infinite states in {bad[:3]}",
                "Leave these rows out.",
            )
            hold(not bad, DataError, argument, words)
        count = len(self.sums["rows"])
        place = {name: content_key(name, "fold") % count for name in set(documents)}
        of_row = torch.tensor([place[name] for name in documents])
        for fold in set(place.values()):
            chosen = (of_row == fold).nonzero().flatten().to(rows["x"].device)
            off = {side: states[chosen] - self.pilot[side] for side, states in rows.items()}
            self.sums["rows"][fold] += len(chosen)
            with float32_products():
                for side, states in off.items():
                    self.sums[side][fold] += states.sum(dim=0, dtype=torch.float64)
                for a, b in _PAIRS:
                    self.sums[a + b][fold] += off[a].T @ off[b]

    def __add__(self, other: PairMoments) -> PairMoments:
        """The moments of both one's rows, about the first's pilot."""
        alike = [(m.sender, m.receiver, len(m.sums["rows"])) for m in (self, other)]
        words = f"must have the same sites and folds, {alike[0]}", alike[1], "Read the same."
        hold(alike[0] == alike[1], DataError, "other", words)
        by = {side: self.pilot[side].double() - other.pilot[side].double() for side in "xy"}
        moved = _moved(other.sums, by)
        sums = {name: total + moved[name] for name, total in self.sums.items()}
        return PairMoments(self.sender, self.receiver, self.pilot, sums)

    def all_reduced(self) -> PairMoments:
        """The moments of all processes' rows, the same bits on each; all call it."""
        sums = {
            name: torch.stack([sum_over_ranks(part) for part in total])
            for name, total in self.sums.items()
        }
        return PairMoments(self.sender, self.receiver, self.pilot, sums)

    def select(self, sender: Collection[str], receiver: Collection[str]) -> PairMoments:
        """The moments of some of the sites, side by side in their own order.

        Raises:
            DataError: A site is not there.
        """
        places = {}
        for side, known, asked in (("x", self.sender, sender), ("y", self.receiver, receiver)):
            words = f"must be among {list(known)}", list(asked), "Read that site too."
            hold({*asked} <= {*known}, DataError, "sender" if side == "x" else "receiver", words)
            kept = [name in asked for name, width in known.items() for _ in range(width)]
            places[side] = torch.tensor(kept, device=self.pilot[side].device).nonzero().flatten()
        sums = {"rows": self.sums["rows"]}
        sums |= {side: self.sums[side][:, places[side]] for side in "xy"}
        sums |= {a + b: self.sums[a + b][:, places[a][:, None], places[b]] for a, b in _PAIRS}
        return PairMoments(
            {name: width for name, width in self.sender.items() if name in sender},
            {name: width for name, width in self.receiver.items() if name in receiver},
            {side: self.pilot[side][at] for side, at in places.items()},
            sums,
        )

    @property
    def folds(self) -> list[int]:
        """Those that have rows."""
        return [fold for fold, rows in enumerate(self.sums["rows"].tolist()) if rows]

    def covariances(self, folds: Sequence[int] | None = None) -> Covariances:
        """Means and covariances over the documents of some folds; of all, with a warning where rows are few.

        Raises:
            MeasurementError: There are no rows.
        """
        chosen = self.folds if folds is None else list(folds)
        total = {name: part[chosen].sum(dim=0, keepdim=True) for name, part in self.sums.items()}
        rows, columns = int(total["rows"]), len(self.pilot["x"])
        words = "must hold rows", f"none in folds {chosen}", "Add documents."
        hold(rows > 0, MeasurementError, "moments", words)
        if folds is None and rows < _PLENTY * columns:
            said = "warning: %d rows are fewer than %d for each of the sender's %d columns"
            logging.getLogger("crosstune").warning(said, rows, _PLENTY, columns)
        means = {side: total[side][0] / rows for side in "xy"}
        about = {name: part[0] / rows for name, part in _moved(total, means).items()}
        mean_x, mean_y = (self.pilot[side] + means[side] for side in "xy")
        return Covariances(rows, mean_x, mean_y, about["xx"], about["xy"], about["yy"])

    def cka(self, level: float = 0.95) -> Similarity:
        """How alike the two models' states are up to rotation, scale and shift: 0 on average where documents are independent of each other's.

        Pairs of rows of one document are left out, and with them those of one fold, which costs the interval a factor of
        √(k / (k − 1)) or so; pairs of documents would need three more matrices a fold. What remains of it where the second side is
        another document's, at the same places, is not in these sums: collect them of `shuffled` rows.

        Args:
            level: Of the interval.

        Returns:
            The estimate, neither clipped nor ever below or above 0 by force.

        Raises:
            MeasurementError: Documents of fewer than four folds.

        Source: Kornblith, Norouzi, Lee and Hinton 2019, *Similarity of Neural Network Representations Revisited*, ICML, arXiv
            1905.00414, §3 (linear CKA); Song, Smola, Gretton, Bedo and Borgwardt 2012, *Feature Selection via Dependence
            Maximization*, JMLR 13, eq. 4 (the U-statistic of order four); ours over folds of documents instead of rows.
        """
        kept = self.folds
        words = "must hold documents of at least four folds", len(kept), "Add documents."
        hold(len(kept) >= 4, MeasurementError, "moments", words)
        sums = {name: part[kept] for name, part in self.sums.items()}
        rows = sums["rows"]
        moved = _moved(sums, {side: sums[side].sum(dim=0) / rows.sum() for side in "xy"})
        means = {name: (part.T / rows).T for name, part in moved.items() if name != "rows"}
        tables = [_tables(means[a + b], means[a], means[b]) for a, b in _PAIRS]

        def over(some: list[int]) -> Tensor:
            """CKA over some folds."""
            own, both, other = (_hsic(table, some) for table in tables)
            positive = (own > 0) & (other > 0)
            return torch.where(positive, both / (own * other).abs().sqrt(), torch.nan)

        every = list(range(len(kept)))
        value = over(every)
        without = torch.stack([over([at for at in every if at != left]) for left in every])
        interval = jackknife(without, value, level)
        reason = ""
        if isnan(value):
            reason = "by this estimate one side's states do not vary from document to document"
        elif isnan(interval.low):
            reason = "without one of the folds there is no estimate, so there is no interval"
        return Similarity(interval, reason)

    def save(self, path: Path | str) -> None:
        """One safetensors file, whole or absent."""
        tensors = self.sums | {f"pilot.{side}": mean for side, mean in self.pilot.items()}
        sites = {"sender": json.dumps(self.sender), "receiver": json.dumps(self.receiver)}
        with atomic_write(path) as temporary:
            save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, temporary, sites)

    @classmethod
    def load(cls, path: Path | str) -> PairMoments:
        """What `save` wrote, to the bit."""
        with safe_open(path, framework="pt") as opened:
            sites = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        pilot = {side: tensors.pop(f"pilot.{side}") for side in "xy"}
        return cls(json.loads(sites["sender"]), json.loads(sites["receiver"]), pilot, tensors)


def shuffled(
    documents: Sequence[str],
    x: Mapping[str, Tensor],
    y: Mapping[str, Tensor],
    generator: torch.Generator,
) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
    """The same rows with the receiver's of another document, place by place to the end of the shorter: what `PairMoments.add` takes.

    Args:
        documents: Of each row, [n].
        x: The sender's states by name of site, [n, width] each.
        y: Likewise the receiver's.
        generator: Draws which document meets which, in one circle.

    Returns:
        Documents of x, x and y, of fewer rows.

    Raises:
        DataError: Fewer than three documents: two would swap, and so still be told from each other by what they share.
    """
    names = sorted({*documents})
    words = "must name at least three documents", len(names), "Shuffle larger parts."
    hold(len(names) > 2, DataError, "documents", words)
    places: dict[str, list[int]] = {name: [] for name in names}
    for at, name in enumerate(documents):
        places[name].append(at)
    circle = [names[at] for at in torch.randperm(len(names), generator=generator).tolist()]
    met = zip(circle, circle[1:] + circle[:1], strict=True)
    pairs = [pair for name, other in met for pair in zip(places[name], places[other], strict=False)]
    of_x, of_y = ([pair[side] for pair in pairs] for side in (0, 1))
    return (
        [documents[at] for at in of_x],
        {site: states[of_x] for site, states in x.items()},
        {site: states[of_y] for site, states in y.items()},
    )


def rank_of(matrix: Tensor) -> int:
    """How many singular values are more than rounding of float32 products."""
    values = torch.linalg.svdvals(matrix)
    return int((values > ROUNDING * values.max()).sum())


def effective_rank(matrix: Tensor) -> float:
    """exp of the entropy of the singular values' shares: as many directions of equal size would have it; 1 to the rank.

    Args:
        matrix: Such as the covariance of a side, or of what a map gives.

    Returns:
        NaN of a zero matrix.

    Source: Roy and Vetterli 2007, *The Effective Rank: A Measure of Effective Dimensionality*, EUSIPCO, eq. 4.
    """
    values = torch.linalg.svdvals(matrix)
    return float(torch.special.entr(values / values.sum()).sum().exp())


def _beside(sites: Mapping[str, Tensor]) -> Tensor:
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


def _tables(products: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, ...]:
    """By folds: ⟨C_f, C_g⟩ [k, k], u_f·u_g [k, k], v_f·v_g [k, k] and u_fᵀ C_g v_h [k, k, k]."""
    flat = products.flatten(1)
    mixed = torch.einsum("fp,gpq,hq->fgh", left, products, right)
    return tuple(table.cpu() for table in (flat @ flat.T, left @ left.T, right @ right.T, mixed))


def _hsic(tables: tuple[Tensor, ...], folds: list[int]) -> Tensor:
    """The mean over sets of four different ones of some folds; NaN of fewer."""
    at = torch.tensor(folds)
    products, left, right = (table[at][:, at] for table in tables[:3])
    mixed = tables[3][at][:, at][:, :, at]
    apart = torch.eye(len(folds)).logical_not()
    four = apart[:, :, None, None] & apart[:, None, :, None] & apart[:, None, None, :]
    four = four & apart[:, :, None] & apart[:, None, :] & apart
    kernel = products[:, :, None, None] + left[:, :, None, None] * right - 2 * mixed[..., None]
    return (kernel * four).sum() / four.sum()
