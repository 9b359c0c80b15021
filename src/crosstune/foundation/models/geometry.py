"""Geometry of attention: how many heads there are, and where along an axis of features each of them lies."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import Tensor

from crosstune.foundation.models.site import Cut


@dataclass(frozen=True)
class HeadGeometry:
    """Number and size of the attention heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, config: Any) -> HeadGeometry:
        """Return the geometry a transformers configuration describes."""
        heads = config.num_attention_heads
        return cls(
            num_heads=heads,
            num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )

    def count(self, component: str) -> int:
        """Return the number of heads of ``attn.q`` or ``attn.o``, of key-value heads of ``attn.k`` or ``attn.v``."""
        return self.num_kv_heads if component in ("attn.k", "attn.v") else self.num_heads

    def features(self, component: str) -> int:
        """Return the number of features that the heads of a component have together."""
        return self.head_dim * self.count(component)


@dataclass(frozen=True)
class HeadCut:
    """Where the heads of one component lie along one axis of a parameter.

    Args:
        sizes: That axis, split: ``(heads, head_dim)``, or ``(heads, kinds, head_dim)`` where queries,
            keys and values alternate inside each head.
        kept: What of these sizes is the component's: some heads of axis 0, or one kind of axis 1; None for all.
    """

    axis: int
    sizes: tuple[int, ...]
    kept: Cut | None = None

    @property
    def features(self) -> int:
        """The length of the axis before it is split."""
        return prod(self.sizes)

    @property
    def heads(self) -> int:
        """The component's own heads."""
        kept = self.kept
        return self.sizes[0] if kept is None or kept.axis != 0 else kept.stop - kept.start

    @property
    def layout(self) -> str:
        """``split``: the axis holds nothing else; ``fused``: components one after the other; ``interleaved``: inside each head."""
        if len(self.sizes) == 3:
            return "interleaved"
        return "split" if self.kept is None else "fused"

    def take(self, features: Tensor) -> Tensor:
        """Return the view of features ``[..., F]`` that is the component's, by head: ``[..., heads, head_dim]``."""
        view: Tensor = features.unflatten(-1, self.sizes)
        kept = self.kept
        if kept is not None:
            first = features.dim() - 1
            view = view.narrow(first + kept.axis, kept.start, kept.stop - kept.start)
        return view.squeeze(-2) if len(self.sizes) == 3 else view
