"""Cross entropy and divergence of scored tokens from one projection: G = ce · (softmax z − y) + kd · ∂D/∂z, then ∂h = G W and ∂W = Gᵀ h.

The gradients are computed with the sums, in the forward pass, so that no logits are kept or made again: of four projections (the
student's, the teacher's and two gradients) none is made twice. Rows go through in chunks whose logits fit a budget of bytes.

    Source: Hsu et al. 2024, *Liger Kernel*, arXiv 2410.10989, §3.2: a fused linear loss with chunked gradients in its forward pass. Ours
    gives two terms of one projection, adds gradients of weights up in float32, and takes chunks by bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from crosstune.distillation.divergences import Divergence, Likeliest, value_and_gradient
from crosstune.foundation.errors import ModelError, UnsupportedError, hold
from crosstune.foundation.models import measuring, model_inputs
from crosstune.foundation.models.streams import looking

CHUNK_BYTES = 2**28
"""Logits of both models that are held at once; the fewer rows, the more often each product reads a whole weight."""
_CPU_NUMBERS, _ACCELERATOR_NUMBERS = 2**18, 2**26


class Head(NamedTuple):
    """What makes logits of states: c · tanh(s · (W h + b) / c), where the model has a scale s or a cap c."""

    weight: Tensor
    """[V, H]."""
    bias: Tensor | None = None
    """[V]."""
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> Head:
        """A causal language model's, with or without PEFT; `check_head` says whether it is the whole of it.

        Raises:
            ModelError: It has none.
            UnsupportedError: It is more than a linear layer.
        """
        layer, config = _linear(model), model.config.get_text_config()
        factor, divisor = (
            getattr(config, n, None) or 1.0 for n in ("logit_scale", "logits_scaling")
        )
        softcap = getattr(config, "final_logit_softcapping", None)
        return cls(layer.weight, layer.bias, factor / divisor, softcap)

    def project(self, hidden: Tensor, out: Tensor) -> Tensor:
        """W h + b of states [n, H], in the precision of `out` [n, V]."""
        for part, piece in _pieces(self.weight, out.dtype, whole=out.device.type != "cpu"):
            torch.mm(hidden.to(out.dtype), piece.T, out=out[:, part])
        return out if self.bias is None else out.add_(self.bias)

    def finish(self, projected: Tensor) -> Tensor:
        """The logits of what `project` gives; the same tensor where there is neither scale nor cap."""
        logits = projected if self.scale == 1.0 else projected * self.scale
        return logits if self.softcap is None else (logits / self.softcap).tanh_() * self.softcap

    def slope(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """A gradient by the logits turned into one by what `project` gives, in place."""
        if self.softcap is not None:
            gradient.mul_(1.0 - (logits / self.softcap).square_())
        return gradient if self.scale == 1.0 else gradient.mul_(self.scale)


class Side(NamedTuple):
    """What one model brings: states of the scored tokens, [N, H], and its head."""

    hidden: Tensor
    head: Head


def _linear(model: Any) -> nn.Linear:
    """The head as a layer; of one that PEFT trains whole, the copy that is active."""
    found: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    words = "must have a language-model head", type(model).__name__, "Give a causal language model."
    hold(found is not None, ModelError, "model", words)
    if hasattr(found, "modules_to_save") and not found.disable_adapters:
        found = found.modules_to_save[found.active_adapters[0]]
    layer: Any = getattr(found, "original_module", found)
    remedy = "Leave the head out of LoRA's targets, or train it whole with modules_to_save."
    found = f"{type(layer).__module__}.{type(layer).__name__}"
    words = "must have a head that is a plain linear layer", found, remedy
    hold(type(layer) is nn.Linear, UnsupportedError, "model", words)
    return layer  # type: ignore[no-any-return]


def check_head(model: nn.Module) -> None:
    """Refuse a model whose own logits are others than `Head.of` gives from the same states, as of four tokens it reads here.

    Raises:
        UnsupportedError: They differ.
    """
    head, states = Head.of(model), list[Tensor]()
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    device = head.weight.device
    ids = torch.arange(4, device=device)[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with measuring(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        with looking(layer, states.append):
            theirs = model(**model_inputs(batch)).logits[0]
        wide = torch.promote_types(theirs.dtype, torch.float32)
        ours = head.finish(head.project(states[0][0], torch.empty_like(theirs, dtype=wide)))
    gap, size = (theirs - ours).abs().max().item(), ours.abs().max().item()
    words = (
        "must make its logits by a linear head, a scale and a cap that its configuration names",
        f"logits of {type(model).__name__} that are off by {gap:.2g} of {size:.2g}",
        "Choose a model whose head this is; a scale of a family not known here is one line in head.py.",
    )
    close = gap <= size * (1e-4 if theirs.dtype == wide else 0.05)
    hold(close, UnsupportedError, "model", words)


@dataclass(frozen=True)
class _Fused:
    """All that the sums need beside what is differentiated."""

    labels: Tensor
    factors: Mapping[str, float]
    head: Head
    teacher: Side | Likeliest | None
    divergence: Divergence
    temperature: float
    chunk_bytes: int

    def run(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The sums of ce and kd, [2] in float64, and the wanted gradients of Σ factor · sum."""
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head = self.head._replace(weight=weight, bias=bias)
        sides = [(hidden, head), *([self.teacher] if isinstance(self.teacher, Side) else [])]
        kept = self.teacher if isinstance(self.teacher, Likeliest) else ()
        inputs = (hidden, weight, bias)
        make = torch.empty_like if len(hidden) else torch.zeros_like
        grads = [
            make(x, dtype=wide) if x is not None and wants else None
            for x, wants in zip(inputs, wanted, strict=True)
        ]
        sums = hidden.new_zeros(2, dtype=torch.float64)
        sizes = [len(side.weight) for _, side in sides]
        most = max(1, self.chunk_bytes // (sum(sizes) * wide.itemsize))
        rows = ceil(len(hidden) / max(1, ceil(len(hidden) / most)))
        buffers = [hidden.new_empty(rows, size, dtype=wide) for size in sizes]
        for start in range(0, len(hidden), max(1, rows)):
            chunk = slice(start, start + rows)
            states = [values[chunk] for values, _ in sides]
            projected = [
                side.project(own, buffer[: len(own)])
                for own, (_, side), buffer in zip(states, sides, buffers, strict=True)
            ]
            for block in _blocks(projected[0]):
                one, *other = (x[block] for x in (*projected, *(value[chunk] for value in kept)))
                sums += self._block(head, one, other, self.labels[chunk][block], any(wanted))
            if any(wanted):
                _add_products(grads, chunk, projected[0], states[0], weight)
        return sums, grads

    def _block(
        self, head: Head, projected: Tensor, teacher: list[Tensor], labels: Tensor, wants: bool
    ) -> Tensor:
        """The sums of some rows, whose projection is overwritten by the gradient that it gets."""
        logits, known = head.finish(projected), None
        sums = logits.new_zeros(2, dtype=torch.float64)
        if "ce" in self.factors:
            logs = logits.log_softmax(dim=-1)
            known = logs, logs.exp()
            sums[0] = -logs.gather(-1, labels[:, None]).sum(dtype=torch.float64)
        if self.teacher is not None:
            live = self.teacher if isinstance(self.teacher, Side) else None
            other = live.head.finish(*teacher) if live else Likeliest(*teacher)
            values, slopes = value_and_gradient(
                logits, other, self.divergence, self.temperature, known
            )
            sums[1] = values.sum(dtype=torch.float64)
        if not wants:
            return sums
        if known is not None:
            factor = self.factors["ce"]
            whole = known[1].mul_(factor)
            whole.scatter_add_(-1, labels[:, None], whole.new_full((len(labels), 1), -factor))
        else:
            whole = logits.new_zeros(logits.shape)
        if self.teacher is not None:
            whole[:, : slopes.shape[-1]].add_(slopes, alpha=self.factors["kd"])
        projected.copy_(head.slope(whole, logits))
        return sums


class _Sums(torch.autograd.Function):
    """Σ factor · sum, and the sums."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Fused, learns: bool
    ) -> tuple[Tensor, Tensor]:
        """A scalar, and [2] without gradient, in float64."""
        wanted = tuple(learns and needs for needs in ctx.needs_input_grad[:3])
        sums, ctx.grads = work.run(hidden, weight, bias, wanted)
        ctx.save_for_backward(hidden, weight, bias)
        ctx.work, ctx.wanted = work, wanted
        ctx.mark_non_differentiable(sums)
        factors = [work.factors.get(name, 0.0) for name in ("ce", "kd")]
        return (sums * sums.new_tensor(factors)).sum(), sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, handed out once without a copy; asked for again (a kept graph), they are computed again."""
        inputs = ctx.saved_tensors
        grads, ctx.grads = ctx.grads or ctx.work.run(*inputs, ctx.wanted)[1], None
        found = []
        for value, own in zip(inputs, grads, strict=True):
            if own is not None and (grad.is_cuda or grad != 1.0):
                own.mul_(grad)
            found.append(own if own is None else own.to(value.dtype))
        return (*found, None, None)


def head_sums(
    student: Side,
    labels: Tensor,
    factors: Mapping[str, float],
    teacher: Side | Likeliest | None = None,
    divergence: Divergence | None = None,
    *,
    temperature: float = 1.0,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The differentiable Σ factor · sum over scored tokens, and the detached sums, of the terms that have a factor.

    Memory beyond parameters and their gradients is that of one chunk, whatever the vocabulary: `chunk_bytes` of logits and a few
    blocks of its rows. A second backward pass over a kept graph computes again what the first has handed out.

    Shapes: ``student`` [N, H] and [V, H], ``teacher`` [N, H'] and [V', H'], ``labels`` [N]; results scalars, float64.
    Unit: nats.

    Args:
        student: States and head; what of it asks for a gradient gets one.
        labels: The token after each state.
        factors: Of ``ce`` (cross entropy) and ``kd`` (divergence), or of one of them.
        teacher: The same of the teacher, or its likeliest tokens, for ``kd``; it gets no gradient.
        divergence: What ``kd`` sums; None: forward KL over the whole vocabulary.
        temperature: Of ``kd``.
        chunk_bytes: The budget; where all rows fit it there is one chunk.

    Returns:
        The weighted sum, and the sums by name.
    """
    hidden, head = student
    other = teacher if "kd" in factors else None
    work = _Fused(
        labels, factors, head, other, divergence or Divergence(), temperature, chunk_bytes
    )
    share, sums = _Sums.apply(hidden, head.weight, head.bias, work, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return share, {name: sums[("ce", "kd").index(name)] for name in factors}


def _blocks(matrix: Tensor) -> Iterator[slice]:
    """Its rows, some at a time: on a CPU as many as stay in its cache."""
    numbers = _CPU_NUMBERS if matrix.device.type == "cpu" else _ACCELERATOR_NUMBERS
    rows = max(1, numbers // matrix.shape[1])
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))


def _pieces(
    weight: Tensor, dtype: torch.dtype, *, whole: bool = True
) -> Iterator[tuple[slice, Tensor]]:
    """A weight in this precision; by rows where it must be upcast, so that no copy of all is made, or where that is faster."""
    together = whole and weight.dtype == dtype
    for part in [slice(0, len(weight))] if together else _blocks(weight):
        yield part, weight[part].to(dtype)


def _add_products(
    grads: list[Tensor | None], chunk: slice, gradient: Tensor, states: Tensor, weight: Tensor
) -> None:
    """What one chunk adds to the gradients of states, weight and bias, as far as they are wanted."""
    by_states, by_weight, by_bias = grads
    begun = float(chunk.start > 0)  # what the first product meets is ignored: memory without values
    for part, piece in _pieces(weight, gradient.dtype):
        own = gradient[:, part]
        if by_states is not None:
            by_states[chunk].addmm_(own, piece, beta=float(part.start > 0))
        if by_weight is not None:
            by_weight[part].addmm_(own.T, states.to(gradient.dtype), beta=begun)
    if by_bias is not None:
        total = gradient.sum(dim=0)
        by_bias.copy_(by_bias + total if begun else total)
