"""Divergences of next-token distributions, in nats a token: T² Σ_v q_v ln(q_v / p_v) and its kin, q the teacher's and p the student's.

p = softmax(z / T). Both sides are at least float32 before they are divided by T, since what half precision rounds away
there can make a divergence negative. The factor T² keeps gradients of one size at all temperatures; it is in all values here.

    Source: Hinton, Vinyals, Dean 2015, *Distilling the Knowledge in a Neural Network*, arXiv 1503.02531, §2: temperature and T². Agarwal
    et al. 2024, *On-Policy Distillation of Language Models* (GKD), arXiv 2306.13649, eq. 1: the generalised Jensen-Shannon
    divergence. Ours is over the whole vocabulary, or over the tokens that either side ranks among its first k, and one bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crosstune.foundation.errors import SettingsError, hold

_NO_MASS = -1e9  # a log-probability whose exponential is 0, and whose differences are numbers


@dataclass(frozen=True)
class Divergence:
    """How the distance of a student's distribution from a teacher's is measured."""

    kind: str = "forward"
    """``forward``: KL(teacher ‖ student). ``reverse``: KL(student ‖ teacher). ``jsd``: the mean of both sides' KL to their mixture."""
    beta: float = 0.5
    """The teacher's share in the mixture and in the mean of ``jsd``; at 0 and 1, where that would be nothing, forward and reverse."""
    top_k: int | None = None
    """Tokens of each side that keep a probability of their own, all others being one outcome of each side; None: all."""
    vocabulary: int | None = None
    """Both sides are cut to so many first tokens, where one has more rows (padding) than the other; what is cut off gets no probability."""

    @property
    def mixture(self) -> float:
        """Beta, by which the two KL are the ends of one family."""
        return {"forward": 0.0, "reverse": 1.0}.get(self.kind, self.beta)

    def size(self, student: int, teacher: int) -> int:
        """The tokens that are compared, of so many rows of each head.

        Raises:
            SettingsError: They differ and nothing says where to cut, or there are fewer than are asked for.
        """
        found = f"{student} rows of the student and {teacher} of the teacher"
        fewest = min(student, teacher)
        cut = self.vocabulary
        words: tuple[str, object, str]
        law = "must say how many tokens are compared where the vocabularies differ"
        words = law, found, f"Give vocabulary={fewest} for padding, else teacher_tokenizer."
        hold(cut is not None or student == teacher, SettingsError, "vocabulary", words)
        size = fewest if cut is None else cut
        words = f"must be from 1 to {fewest}, the smaller vocabulary", cut, f"There are {found}."
        hold(1 <= size <= fewest, SettingsError, "vocabulary", words)
        law = f"must be at most {size}, the tokens compared, and at least 1"
        words = law, self.top_k, "Leave it out for all."
        hold(self.top_k is None or 1 <= self.top_k <= size, SettingsError, "top_k", words)
        return size


class Likeliest(NamedTuple):
    """A teacher's k likeliest tokens, [N, k], and their log-probabilities and, last, that of all others together, [N, k + 1]."""

    ids: Tensor
    logs: Tensor


def value_and_gradient(
    student: Tensor,
    teacher: Tensor | Likeliest,
    chosen: Divergence,
    temperature: float,
    known: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """T² times the divergence of two distributions at temperature T, of each row, and its derivative by the student's first logits.

    Shapes: ``student`` [N, V], ``teacher`` [N, V'], any precision; results [N], at least float32 and never below −1e-6 T², and [N, size].
    Unit: nats per token. Raises a SettingsError where sizes do not fit.

    `known` is the log-softmax of the student's logits and the softmax, where they are there already: at T = 1 they serve.
    With a teacher's likeliest tokens, T is 1, and its first `top_k` are compared, not the student's.
    """
    whole = student if isinstance(teacher, Likeliest) else teacher
    size = chosen.size(student.shape[-1], whole.shape[-1])
    wide = torch.promote_types(student.dtype, torch.float32)

    def log_softmax(logits: Tensor) -> Tensor:
        cut = logits[:, :size].to(wide)
        return (cut / temperature if temperature != 1.0 else cut).log_softmax(dim=-1)

    q = teacher if isinstance(teacher, Likeliest) else log_softmax(teacher)
    if known is not None and temperature == 1.0 and known[0].shape[-1] == size:
        p, of_p = known[0], known[1].clone()
    else:
        p = log_softmax(student)
        of_p = p.exp()
    if isinstance(q, Tensor) and chosen.top_k in (None, size):
        values, gradient = _compare(p, q, of_p, chosen.mixture)
    else:
        values, gradient = _in_buckets(p, q, chosen.mixture, chosen.top_k or size)
    if temperature != 1.0:
        values, gradient = values.mul_(temperature**2), gradient.mul_(temperature)
    return values, gradient


def _compare(p: Tensor, q: Tensor, student: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence of log-probabilities [N, B] of student and teacher, and its derivative by the student's logits.

    `student` is exp p, which is overwritten.
    Sums are of terms that are none of them negative: an error of a normaliser changes them in second order only.
    """
    gap, teacher = q - p, q.exp()
    if beta == 0.0:
        values = gap.mul_(teacher).sub_(teacher).add_(student).sum(dim=-1)
        return values, student.sub_(teacher)
    if beta == 1.0:
        pull = gap.mul_(student)
        values = (teacher - student).sub_(pull).sum(dim=-1)
        return values, student.mul_(pull.sum(dim=-1, keepdim=True)).sub_(pull)
    # ln(m / p) of the mixture m, exact where p and q are close, finite where they are far apart
    steep = torch.where(gap > 0, 1.0 - beta, beta)
    mixed = gap.abs().neg_().expm1_().mul_(steep).log1p_().add_(gap.clamp(min=0.0))
    pull = student * mixed
    values = gap.sub_(mixed).mul_(teacher).mul_(beta).sub_(pull, alpha=1.0 - beta).sum(dim=-1)
    gradient = student.mul_(pull.sum(dim=-1, keepdim=True)).sub_(pull)
    return values, gradient.mul_(1.0 - beta)


def _in_buckets(p: Tensor, q: Tensor | Likeliest, beta: float, k: int) -> tuple[Tensor, Tensor]:
    """The same over the tokens among the first k of either side, or of the teacher, each once, and one bucket of all others."""
    if isinstance(q, Likeliest):
        ids, logs = q.ids[:, :k], q.logs.to(p).log_softmax(dim=-1)  # they were rounded
        left = logs[:, ids.shape[1] :].logsumexp(dim=-1, keepdim=True)
        other = torch.cat([logs[:, : ids.shape[1]], left], dim=-1)
    else:
        first = [logs.topk(k, dim=-1, sorted=False).indices for logs in (p, q)]
        ids = torch.cat(first, dim=-1).sort(dim=-1).values
        other, _ = buckets(q, ids)
    own, outside = buckets(p, ids)
    values, slopes = _compare(own, other, own.exp(), beta)
    # A bucket's slope is shared out among its tokens as its probability is.
    gradient = outside.sub_(own[:, -1:]).exp_().mul_(slopes[:, -1:])
    return values, gradient.scatter_add_(-1, ids, slopes[:, :-1])


def buckets(logs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of these tokens (of equal neighbours the first) and, last, of all others together; and of each other one, [N, V]."""
    again = functional.pad(ids[:, 1:] == ids[:, :-1], (1, 0))
    outside = logs.scatter(-1, ids, _NO_MASS)
    kept = logs.gather(-1, ids).masked_fill_(again, _NO_MASS)
    return torch.cat([kept, outside.logsumexp(dim=-1, keepdim=True)], dim=-1), outside
