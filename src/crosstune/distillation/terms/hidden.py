"""States of the student held against the teacher's: Σ_d (W s − t)_d² / variance_d over matched sites, 1 = predicting the mean.

`Hidden` takes the mean over sites, `Layerwise` a learned softmax.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.distillation.curriculum import Schedule
from crosstune.distillation.terms.alignment import Alignment
from crosstune.distillation.terms.pilot import Pilot, predicting
from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.models import Anatomy
from crosstune.foundation.training import Needs, Seen
from crosstune.foundation.training.terms import Unit

Sites = Mapping[int, int] | Iterable[tuple[int, int]]


def match_sites(student: int, teacher: int, given: Sites | None = None) -> dict[int, int]:
    """Which site of the teacher each site of the student is held against: s to ⌊s · L_t / L_s⌋, for the end of each block.

    Source: Jiao et al. 2020, *TinyBERT*, Findings of EMNLP, arXiv 1909.10351, §3.1 (the uniform mapping); without the embeddings.

    Args:
        student: Its number of layers L_s.
        teacher: Its number of layers L_t.
        given: Pairs of sites, student's first, instead of these.

    Returns:
        Site of the student → site of the teacher.

    Raises:
        SettingsError: A site is out of range on either side, given twice, or there is none.
    """
    if given is None:
        return {site: site * teacher // student for site in range(1, student + 1)}
    pairs = [*given.items()] if isinstance(given, Mapping) else [*given]
    strange = [f"{s}: {t}" for s, t in pairs if not (0 <= s <= student and 0 <= t <= teacher)]
    law = f"must be of the student's sites 0 to {student} and the teacher's 0 to {teacher}"
    words = law, ", ".join(strange), "Site l is the input of block l, the last the output."
    hold(not strange, SettingsError, "sites", words)
    found = ", ".join(f"{s}: {t}" for s, t in pairs) or "none"
    words = "must be at least one, each of the student's once", found, "Name pairs of sites."
    hold(0 < len({s for s, _ in pairs}) == len(pairs), SettingsError, "sites", words)
    return dict(pairs)


class Hidden(nn.Module):
    """The student's states through a learned projection W, held against the teacher's at matched sites.

    ``mse`` is 1/D Σ_d (W s − t)_d² / v_d with the variance v of the teacher's states over the pilot's scored tokens and D the
    dimensions that vary; ``cosine`` is 1 − cos(W s, t). Mean over matched sites, sum over scored tokens, in float32. W has no
    bias; where both are equally wide it begins as the identity, else, by `begin`, where it maps the pilot's rows best.

    Unit: tokens. Zero point: 0 where W s = t, which holds at the start for student = teacher; ``mse`` is 1 for who predicts the
        teacher's mean, ``cosine`` 1 for unrelated directions.
    Source: Romero et al. 2015, *FitNets*, ICLR, arXiv 1412.6550, eq. 3 (a learned regressor from the student's layer to the
        teacher's); Sun et al. 2019, *Patient Knowledge Distillation*, EMNLP, arXiv 1908.09355, eq. 7 (several layers; there
        states of unit length); in units of the teacher's variance, which no outlier dimension rules.

    Args:
        weight: When it counts.
        pilot: Made of this teacher, at the sites matched.
        student: Only its shape is read.
        sites: Pairs of sites (`match_sites`); all blocks when not given.
        kind: ``mse`` or ``cosine``.
        alignment: Of all rows, where the teacher reads tokens of its own: states are those where spans begin, and 1 the share of tokens where one does.

    Raises:
        SettingsError: Sites do not fit.
    """

    name = "hidden"
    unit: Unit = "tokens"

    def __init__(
        self,
        weight: Schedule,
        pilot: Pilot,
        student: nn.Module,
        *,
        sites: Sites | None = None,
        kind: str = "mse",
        alignment: Alignment | None = None,
    ) -> None:
        super().__init__()
        shape = Anatomy.of(student)
        self.weight, self.pilot, self.kind, self.alignment = weight, pilot, kind, alignment
        self.sites = match_sites(shape.num_layers, pilot.layers, sites)
        self.needs = Needs(
            states=self.sites.keys(), second=Needs(states=frozenset(self.sites.values()))
        )
        pairs = [[s, t] for s, t in self.sites.items()]
        own = {"sites": pairs, "kind": kind, **pilot.settings}
        own |= alignment.settings if alignment else {}
        self.settings: Mapping[str, Any] = {**weight.settings, **own}
        self.projections = nn.ModuleDict()
        for site, other in self.sites.items():
            narrow, wide = shape.hidden_size, pilot.width
            layer: nn.Linear = nn.utils.skip_init(nn.Linear, narrow, wide, bias=False)
            self.projections[str(site)] = layer
            nn.init.eye_(layer.weight)
            self.register_buffer(f"precision{site}", pilot.precision[other], persistent=False)

    @torch.no_grad()
    def begin(self, some: Iterable[Seen]) -> None:
        """Where widths differ, let projections begin at the least squares (with a ridge of 1e-4 of the mean square) over some batches."""
        sums: dict[int, list[Any]] = {site: [0.0, 0.0] for site in self.sites}
        for seen in some:
            for site, own, target in self._pairs(seen):
                sums[site][0] += own.double().T @ own.double()
                sums[site][1] += own.double().T @ target.double()
        for site, (squares, products) in sums.items():
            ridge = 1e-4 * squares.diagonal().mean() * torch.eye(len(squares)).to(squares)
            weight: Any = self.projections[str(site)].weight
            if weight.shape[0] != weight.shape[1]:
                weight.copy_(torch.linalg.solve(squares + ridge, products).T)

    def sums(self, seen: Seen) -> Tensor:
        """Over scored tokens, the mean over sites."""
        return self.mixed(self.by_site(seen))

    def by_site(self, seen: Seen) -> Tensor:
        """The sum over scored tokens at each matched site, float64."""
        found = []
        for site, own, target in self._pairs(seen):
            mapped = self.projections[str(site)](own)
            if self.kind == "cosine":
                values = 1.0 - functional.cosine_similarity(mapped, target, dim=-1)
            else:
                values = (mapped - target).square() @ getattr(self, f"precision{site}")
            found.append(values.sum(dtype=torch.float64))
        return torch.stack(found)

    def _pairs(self, seen: Seen) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Each site with both models' states there, float32, token by token."""
        where: Any = predicting(seen.batch["labels"])
        there = where
        if self.alignment:
            rows, begins, others = self.alignment.spans(seen.batch)
            where, there = (rows, begins[:, 0]), (rows, others[:, 0])
        for site, other in self.sites.items():
            yield site, seen.states[site][where].float(), seen.second.states[other][there].float()

    def mixed(self, values: Tensor) -> Tensor:
        """What the sites' sums become."""
        return values.mean()


class Layerwise(Hidden):
    """`Hidden` with a learned softmax over the matched sites in place of their mean.

    The softmax minimises what it weighs: it may run to the site that is easiest to match, and leave the others unlearned.

    Unit: tokens. Zero point: as that of `Hidden`.
    Source: Romero et al. 2015, *FitNets*, ICLR, arXiv 1412.6550, eq. 3, as `Hidden`; the learned weights over layers have no
        paper of their own.
    """

    name = "layerwise"

    def __init__(self, weight: Schedule, pilot: Pilot, student: nn.Module, **options: Any) -> None:
        super().__init__(weight, pilot, student, **options)
        self.scores = nn.Parameter(torch.zeros(len(self.sites)))

    def mixed(self, values: Tensor) -> Tensor:
        """The sites' sums by the softmax."""
        return self.scores.softmax(dim=0, dtype=torch.float64) @ values
