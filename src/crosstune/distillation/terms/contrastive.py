"""A row told from other rows by its mean state: −ln e^(cos(W s, t − m) / τ) / Σ e^(cos / τ) over its own t and the pilot's."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.distillation.curriculum import Schedule
from crosstune.distillation.terms.pilot import Pilot, pooled, predicting
from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.models import Anatomy
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import Needs, Seen
from crosstune.foundation.training.terms import Unit

COLD = 0.07
"""τ, by which cosines are divided."""


class Contrastive(nn.Module):
    """InfoNCE: the student's pooled state, projected, must be more like the teacher's of its own row than like the pilot's rows.

    States are means over scored tokens: s of the student at its last site, t of the teacher at the pilot's; m is the mean of t
    over the pilot's rows. Negatives are the pilot's rows but for the row itself, never the batch's, so a row's loss depends on
    no other row. A row without a scored token adds nothing.

    Unit: rows, in nats. Zero point: none; chance = ln(M + 1) is what a student pays to whom the M negatives are as like as the
        row (ln M on the pilot's own rows). Rows of another kind than the pilot's are told from it by that alone: draw both from
        the same rows.
    Source: van den Oord, Li and Vinyals 2018, *Representation Learning with Contrastive Predictive Coding*, arXiv 1807.03748,
        eq. 4 (InfoNCE); Tian, Krishnan and Isola 2020, *Contrastive Representation Distillation*, ICLR, arXiv 1910.10699, §3.1
        (teacher and student of one input against other inputs; negatives there from a memory of all training data). The
        teacher's states are taken about m: they lie in a narrow cone, where cosines tell little apart.

    Args:
        weight: When it counts.
        pilot: Made of this teacher.
        student: Only its shape is read.
        seed: Draws the projection; where both are equally wide it begins as the identity.

    Raises:
        SettingsError: The pilot has no two rows.
    """

    name = "contrastive"
    unit: Unit = "rows"
    mean: Tensor
    """The teacher's pooled state, mean over the pilot's rows, [H]."""
    negatives: Tensor
    """The directions of the pilot's rows from it, [M, H], of length 1."""

    def __init__(
        self,
        weight: Schedule,
        pilot: Pilot,
        student: nn.Module,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        law = "must have two rows with scored tokens, so that each has a negative"
        alone = law, ", ".join({*pilot.row_ids}), "Give more rows."
        hold(len({*pilot.row_ids}) > 1, SettingsError, "pilot", alone)
        shape = Anatomy.of(student)
        self.weight, self.pilot = weight, pilot
        self.site = shape.num_layers
        self.needs = Needs(states={self.site}, second=Needs(states={pilot.site}))
        own = {"seed": seed, "site": pilot.site, **pilot.settings}
        self.settings: Mapping[str, Any] = {**weight.settings, **own}
        generator = Seeds(seed).torch("distillation", self.name)
        narrow, wide = shape.hidden_size, pilot.width
        drawn = torch.randn(wide, narrow, generator=generator) / narrow**0.5
        self.projection: nn.Linear = nn.utils.skip_init(nn.Linear, narrow, wide, bias=False)
        self.projection.weight = nn.Parameter(torch.eye(wide) if narrow == wide else drawn)
        self.register_buffer("mean", pilot.pooled.mean(dim=0), persistent=False)
        self.register_buffer("negatives", self._direction(pilot.pooled), persistent=False)

    @property
    def chances(self) -> dict[str, float]:
        """Nats of a row that is as like every negative as its own: ln(M + 1)."""
        return {self.name: log(len(self.negatives) + 1)}

    def sums(self, seen: Seen) -> Tensor:
        """Over rows, float64."""
        where = predicting(seen.batch["labels"])
        target = self._direction(pooled(seen.second.states[self.pilot.site], where))
        guess = self.projection(pooled(seen.states[self.site], where))
        guess = functional.normalize(guess, dim=-1)
        own = (guess * target).sum(dim=-1, keepdim=True)
        others = (guess @ self.negatives.T).masked_fill(self._own(seen), -torch.inf)
        logits = torch.cat([own, others], dim=1) / COLD
        nats = -logits.log_softmax(dim=1)[:, 0]
        return nats[where.any(dim=1)].sum(dtype=torch.float64)

    def _direction(self, states: Tensor) -> Tensor:
        """Where teacher's pooled states lie from their mean, of length 1."""
        return functional.normalize(states - self.mean, dim=-1)

    def _own(self, seen: Seen) -> Tensor:
        """Which of the pilot's rows each row is, [B, M]."""
        known = self.pilot.row_ids
        same = [[row == other for other in known] for row in seen.batch["row_ids"]]
        return torch.tensor(same, device=self.negatives.device)
