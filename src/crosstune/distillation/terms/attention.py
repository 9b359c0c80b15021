"""Where the student looks held against where the teacher looks: KL(teacher's map ‖ student's map) per query, on matched layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crosstune.distillation.curriculum import Schedule
from crosstune.distillation.terms.hidden import Sites, match_sites
from crosstune.distillation.terms.pilot import predicting
from crosstune.foundation.errors import SettingsError, UnsupportedError, hold
from crosstune.foundation.models import Anatomy
from crosstune.foundation.training import Needs, Seen
from crosstune.foundation.training.terms import Unit

DROPOUTS = ("attention_dropout", "attn_pdrop")
"""What configurations call the dropout of attention maps."""


def map_nats(teacher: Tensor, student: Tensor, where: Tensor, *, by_head: bool = False) -> Tensor:
    """KL(teacher ‖ student) of two attention maps at some queries; heads are averaged before, or by head after.

    They are probabilities: no softmax is taken of them. A key that the teacher does not look at adds nothing; one that the
    student cannot see counts as the smallest normal probability, about e^−87.

    Shapes: maps [B, heads, T, T], `where` [B, T] with N queries; result [N], float64.
    Unit: nats.
    """
    if not by_head:
        teacher, student = (maps.float().mean(dim=1, keepdim=True) for maps in (teacher, student))
    pair = [maps.transpose(1, 2)[where].double() for maps in (teacher, student)]  # [N, heads, keys]
    p, q = pair
    logs = [maps.clamp(min=torch.finfo(torch.float32).tiny).log() for maps in pair]
    # p and q sum to 1 to rounding only; with − p + q that is of second order, as the divergence of like maps is.
    return (p * (logs[0] - logs[1]) - p + q).sum(dim=-1).mean(dim=1)


def check_maps(student: Any) -> None:
    """A dropout of attention maps leaves zeros where the student does look.

    Raises:
        UnsupportedError: The student trains its attention with dropout.
    """
    found = {name: getattr(student.config, name, 0.0) for name in DROPOUTS}
    dropped = {name: share for name, share in found.items() if share}
    law = "must be 0 where attention maps are learned: what is dropped is no probability"
    words = law, dropped, "Set it to 0 in the student's configuration; other dropout may stay."
    hold(not dropped, UnsupportedError, "attention_dropout", words)


class AttentionMaps:
    """KL(teacher's map ‖ student's map) of each scored query, over keys; the mean over matched layers, summed over tokens.

    Layers are matched by the sites that they end at (`match_sites`), so the last goes with the last; where that site is the
    teacher's embedding, the layer is left out. Heads are averaged (``mean``), or matched one to one (``matched``).

    Unit: tokens, in nats. Zero point: 0 where the maps are the same.
    Source: Zagoruyko and Komodakis 2017, *Paying More Attention to Attention*, ICLR, arXiv 1612.03928, §3.1 (the student learns
        the teacher's attention maps; there squared distances of activations); Wang et al. 2020, *MiniLM*, NeurIPS,
        arXiv 2002.10957, eq. 6 (KL of self-attention by query; there of the last layer, by head); here of chosen layers.

    Args:
        weight: When it counts.
        student: Only its shape is read.
        teacher: Only its shape is read.
        layers: Pairs of layers from 0, student's first; all when not given.
        heads: ``mean`` or ``matched``.

    Raises:
        SettingsError: Layers do not fit, or heads cannot be matched.
        UnsupportedError: The student trains its attention with dropout.
    """

    name = "attention"
    unit: Unit = "tokens"

    def __init__(
        self,
        weight: Schedule,
        student: Any,
        teacher: Any,
        *,
        layers: Sites | None = None,
        heads: str = "mean",
    ) -> None:
        own, other = Anatomy.of(student), Anatomy.of(teacher)
        self.weight = weight
        self.layers = match_layers(own.num_layers, other.num_layers, layers)
        counts = own.heads.num_heads, other.heads.num_heads
        words = (
            "must be 'mean' where the models have different numbers of heads",
            "'matched' for {} of the student's and {} of the teacher's".format(*counts),
            "Average them.",
        )
        hold(heads == "mean" or counts[0] == counts[1], SettingsError, "heads", words)
        check_maps(student)
        self.by_head = heads == "matched"
        self.needs = Needs(
            maps=self.layers.keys(), second=Needs(maps=frozenset(self.layers.values()))
        )
        pairs = [[s, t] for s, t in self.layers.items()]
        self.settings: Mapping[str, Any] = {**weight.settings, "layers": pairs, "heads": heads}

    def sums(self, seen: Seen) -> Tensor:
        """Over scored queries, float64; the mean over matched layers."""
        where = predicting(seen.batch["labels"])
        found = [
            map_nats(seen.second.maps[other], seen.maps[layer], where, by_head=self.by_head)
            for layer, other in self.layers.items()
        ]
        return torch.stack(found).sum() / len(found)


def match_layers(student: int, teacher: int, given: Sites | None) -> dict[int, int]:
    """Layers by the sites that they end at; given ones are held to the same laws."""
    if given is None:
        ends = match_sites(student, teacher)
        return {site - 1: other - 1 for site, other in ends.items() if other}
    return match_sites(student - 1, teacher - 1, given)
