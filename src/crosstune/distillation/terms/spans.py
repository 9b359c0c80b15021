"""Likelihoods of spans of text, whatever tokens spell them: p ln(p / q) + (1 − p) ln((1 − p) / (1 − q)), p the teacher's and q the student's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from crosstune.distillation.curriculum import Schedule
from crosstune.distillation.head import CHUNK_BYTES, Head, check_head
from crosstune.distillation.terms.alignment import Alignment
from crosstune.foundation.training import Needs, Seen
from crosstune.foundation.training.terms import Unit


def binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL in nats of what happens or does not, of log-likelihoods below 0, [N] float64; ln(1 − p) is ln(−expm1(ln p))."""
    rest, other = -teacher.expm1(), -student.expm1()
    return teacher.exp() * (teacher - student) + rest * (rest.log() - other.log())


def token_logs(hidden: Tensor, head: Head, labels: Tensor, most: int = CHUNK_BYTES) -> Tensor:
    """The log of p(label) in nats: −ln(1 + Σ_{v ≠ label} e^(z_v − z_label)), which stays exact where p is nearly 1.

    Logits of more than so many bytes are made in chunks, and again in the backward pass.

    Shapes: ``hidden`` [N, H], ``labels`` [N]; result [N], float64.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)

    def some(states: Tensor, tokens: Tensor) -> Tensor:
        bias = None if head.bias is None else head.bias.to(wide)
        logits = head.finish(functional.linear(states.to(wide), head.weight.to(wide), bias))
        gaps = logits - logits.gather(-1, tokens[:, None])
        others = gaps.scatter(-1, tokens[:, None], -torch.inf).logsumexp(dim=-1)
        return functional.logsigmoid(-others.double())

    rows = max(1, most // (len(head.weight) * wide.itemsize))
    chunks = [*zip(hidden.split(rows), labels.split(rows), strict=True)]
    again = len(chunks) > 1 and torch.is_grad_enabled()
    run = partial(checkpoint, some, use_reentrant=False) if again else some
    return torch.cat([run(*one) for one in chunks])


class SpanLikelihoods:
    """Binary KL of both models' likelihoods of each span (see `alignment`) whose tokens are all scored, summed over spans.

    A span's likelihood is the product of its tokens'; with the same tokenizer on both sides spans are single tokens.

    Unit: tokens (the student's), in nats. Zero point: 0 where the likelihoods agree.
    Source: Minixhofer, Vulić and Ponti 2025, *Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching*, NeurIPS,
        arXiv 2503.20083 (the binarised f-divergence of aligned chunks; here KL, at temperature 1, over all chunks).

    Raises:
        UnsupportedError: A head is more than a linear layer, a scale and a cap.
    """

    name = "spans"
    unit: Unit = "tokens"
    needs = Needs(last_hidden_state=True, second=Needs(last_hidden_state=True))

    def __init__(self, weight: Schedule, models: Iterable[nn.Module], shared: Alignment) -> None:
        for model in models:
            check_head(model)
        self.weight, self.alignment = weight, shared
        self.settings: Mapping[str, Any] = {**weight.settings, **shared.settings}

    def sums(self, seen: Seen) -> Tensor:
        """Over spans, float64."""
        rows, own, other = self.alignment.spans(seen.batch)
        with torch.no_grad():
            theirs = self.alignment.batch(seen.batch)["input_ids"]
            teacher = _likelihoods(seen.second, theirs, rows, other)
        student = _likelihoods(seen, seen.batch["input_ids"], rows, own)
        return binary_kl(teacher, student).sum()


def _likelihoods(seen: Seen, ids: Tensor, rows: Tensor, ends: Tensor) -> Tensor:
    """The log-likelihood of each span, [N] float64: its tokens come after the first of its ends, up to the second."""
    sizes = ends[:, 1] - ends[:, 0]
    span = torch.arange(len(ends), device=ends.device).repeat_interleave(sizes)
    begins = ends[:, 0] - (sizes.cumsum(dim=0) - sizes)
    at = torch.arange(len(span), device=ends.device) + begins[span]
    states, tokens = seen.last_hidden_state[rows[span], at], ids[rows[span], at + 1]
    logs = token_logs(states, Head.of(seen.model), tokens)
    return logs.new_zeros(len(ends)).index_add(0, span, logs)
