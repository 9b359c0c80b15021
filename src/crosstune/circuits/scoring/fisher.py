"""Fisher: the diagonal Fisher information of a head's slice, from squares of single samples' gradients, and its damping.

`F_k` is the mean over samples of `g_k²`, never the square of a mean gradient. Which samples:

* `task_a`: task A's, at the labels of the text (the empirical Fisher).
* `pooled`: `(F_A + F_B) / 2`, so that each task weighs the same however many samples it has.
* `held_out`: a sample of A is normalised by the half of A that it is not in; halves are the even and the odd places.
* `leave_one_out`: a sample of A is normalised by the other samples of A.
* `true`: A's rows at labels drawn from the model, which makes it the Fisher information of the model itself.

Damping is elementwise. λ is a share of the (lower) median of the slice's own F, so it follows the scale of the loss and
of the weights; ε is absolute, a floor against zeros:

* `add`: `D = max(F, ε) + λ`.
* `floor`: `D = max(F, ε, λ)`.
* `conditional`: `D = max(F, ε) + λ` where `F < 10 ε`, else `F`.

The two halves of `held_out` have a λ each. `leave_one_out` takes λ from the mean of its Fishers, which is task A's: one
sample moves a median little, and so all samples of a slice are damped alike. Where ε, λ and F are all 0, D is 0:
`inverse` answers 0 there (0/0, an element that no sample moves) under a Fisher that saw every sample it normalises, and
refuses under one that did not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import DataError, MeasurementError

_SMALL = 10.0  # times ε: what `conditional` damps


@dataclass(frozen=True)
class FisherFacts:
    """What the Fisher of each head's slice looks like before damping, [heads] each; `damping` is λ.

    Of `held_out`: the smallest and largest entry of both halves, and the means of both medians and λ.

    Unit: nats² per squared unit of weight; `below_epsilon` is the share of entries below ε.
    """

    min: Tensor
    median: Tensor
    max: Tensor
    below_epsilon: Tensor
    damping: Tensor

    @classmethod
    def joined(cls, parts: Sequence[FisherFacts]) -> FisherFacts:
        """The facts of several groups of heads, in their order, on the CPU."""
        names = (field.name for field in fields(cls))
        return cls(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


@dataclass(frozen=True)
class Squares:
    """Sums over samples of squared gradients; `counts` are samples of A, of B and at drawn labels.

    Shapes:
        a, b, true: [heads, head_dim, d], the last of A's rows at labels drawn from the model. halves: [2, heads, head_dim, d], of the
        even and of the odd samples of A. true and halves are None where no Fisher needs them.
    """

    a: Tensor
    b: Tensor
    halves: Tensor | None
    true: Tensor | None
    counts: tuple[int, int, int]

    def fisher(self, kind: str) -> Tensor:
        """The diagonal Fisher of a kind.

        Shapes:
            [1, heads, head_dim, d]; of `held_out` [2, …]: what normalises the even and what normalises the odd samples.
            Of `leave_one_out`: the mean of its Fishers, which is task A's.
        """
        count_a, count_b, drawn = self.counts
        if kind == "held_out":
            assert self.halves is not None
            even, odd = self.halves
            return torch.stack([odd / (count_a // 2), even / (count_a - count_a // 2)])
        if kind == "true":
            assert self.true is not None
            return (self.true / drawn)[None]
        of_a = self.a / count_a
        return ((of_a + self.b / count_b) / 2 if kind == "pooled" else of_a)[None]


def require_samples(kind: str, count: int, settings: CircuitSettings) -> None:
    """Raise unless there are enough samples of task A for a Fisher of this kind."""
    least = settings.min_samples
    used = {"held_out": count // 2, "leave_one_out": count - 1}.get(kind, count)
    if used >= least:
        return
    among = "" if used == count else f", {used} of them in one Fisher ({kind})"
    raise DataError(
        "task_a",
        law=f"must have at least {least} samples in every Fisher",
        found=f"{count} samples{among}",
        remedy="Give more rows, or lower min_samples and trust the scores less.",
    )


def medians(fisher: Tensor) -> Tensor:
    """The lower median of each slice, [m, heads] of [m, heads, head_dim, d]."""
    return fisher.flatten(2).median(-1).values


def damped(fisher: Tensor, scale: Tensor, settings: CircuitSettings) -> Tensor:
    """What divides, D [..., heads, head_dim, d]: the Fisher, kept from being too small; scale: [..., heads], λ of each slice."""
    added = scale[..., None, None]
    floored = fisher.clamp(min=settings.epsilon)
    if settings.damping == "floor":
        return torch.maximum(floored, added, out=floored)
    if settings.damping == "conditional":
        return floored.add_((fisher < _SMALL * settings.epsilon) * added)
    return floored.add_(added)


def inverse(kind: str, divisor: Tensor) -> Tensor:
    """1 / D in place, with 0 for an element that no sample of A or B moves."""
    nothing = divisor == 0
    if kind not in ("task_a", "pooled") and bool(nothing.any()):
        raise MeasurementError(
            f"the {kind} Fisher",
            law="must be above 0 where it divides a gradient that it has not seen",
            found=f"{int(nothing.sum())} entries of 0 with no damping",
            remedy="Set epsilon or damping_share above 0.",
        )
    return divisor.reciprocal_().masked_fill_(nothing, 0.0)


def facts_of(fisher: Tensor, median: Tensor, settings: CircuitSettings) -> FisherFacts:
    """The facts of one kind of Fisher [m, heads, head_dim, d], given its medians [m, heads]."""
    flat = fisher.flatten(2)
    return FisherFacts(
        min=flat.amin(-1).amin(0),
        median=median.mean(0),
        max=flat.amax(-1).amax(0),
        below_epsilon=(flat < settings.epsilon).sum(-1).sum(0) / (flat.shape[0] * flat.shape[2]),
        damping=settings.damping_share * median.mean(0),
    )
