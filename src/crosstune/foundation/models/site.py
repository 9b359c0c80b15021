"""Site and Part: a place in a decoder, and the elements of a parameter that belong to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Factor = Literal["A", "B"]

#: Every component in the order in which a token meets it; joint ones carry only LoRA's shared A factors.
COMPONENTS: tuple[str, ...] = (
    "embed",
    "embed+head",
    "embed.position",
    "attn.qkv",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.o",
    "router",
    "mlp.experts.gate_up",
    "mlp.experts.gate",
    "mlp.experts.up",
    "mlp.experts.down",
    "mlp.shared.gate",
    "mlp.shared.up",
    "mlp.shared.down",
    "mlp.gate_up",
    "mlp.gate",
    "mlp.up",
    "mlp.down",
    "norm",
    "head",
)

_OUTSIDE_BEFORE = ("embed", "embed+head", "embed.position")


@dataclass(frozen=True)
class Site:
    """One place in a decoder: a component of a layer, down to a head, an expert or a factor of one LoRA adapter.

    Args:
        layer: Index of the block, or None outside the blocks (embeddings, final norm, head).
        component: One of ``COMPONENTS``; an expert's component is stored without its number
            (``mlp.experts.up``), the number stands in ``expert``.
        head: Index of a query head, where the site is that fine.
        kv_head: Index of a key-value head, where the site is that fine.
        expert: Index of the expert inside its layer.
        factor: ``"A"`` or ``"B"`` for the two factors of a LoRA adapter.
        adapter: Name of the LoRA adapter; None outside adapters, and for PEFT's own name ``default``.
    """

    layer: int | None
    component: str
    head: int | None = None
    kv_head: int | None = None
    expert: int | None = None
    factor: Factor | None = None
    adapter: str | None = None

    def __str__(self) -> str:
        words = [] if self.layer is None else [f"L{self.layer}"]
        words.append(
            self.component
            if self.expert is None
            else self.component.replace("experts", f"experts[{self.expert}]", 1)
        )
        if self.head is not None:
            words.append(f"head {self.head}")
        if self.kv_head is not None:
            words.append(f"kv-head {self.kv_head}")
        if self.adapter or self.factor:
            words.append(f"({' '.join(word for word in (self.adapter, self.factor) if word)})")
        return " ".join(words)

    def of_head(self, head: int) -> Site:
        """Return the site of one head of this component: a key-value head of ``attn.k`` and ``attn.v``, else a query head."""
        by_kv_head = self.component in ("attn.k", "attn.v")
        return replace(self, kv_head=head) if by_kv_head else replace(self, head=head)

    @property
    def whole(self) -> Site:
        """The component's own site, of which this may be one head."""
        return replace(self, head=None, kv_head=None)

    @property
    def depth_order(self) -> tuple[int, int, int, int, int, str, int]:
        """A key that sorts sites as a token meets them: embeddings, blocks, final norm, head; adapters by name."""
        outside = -1 if self.component in _OUTSIDE_BEFORE else 1 << 30
        numbers = (self.expert, self.kv_head, self.head)
        expert, kv_head, head = (-1 if number is None else number for number in numbers)
        return (
            outside if self.layer is None else self.layer,
            COMPONENTS.index(self.component),
            *(expert, kv_head, head),
            self.adapter or "",
            " AB".index(self.factor or " "),
        )


@dataclass(frozen=True)
class Cut:
    """The elements ``start:stop`` of one axis."""

    axis: int
    start: int
    stop: int


@dataclass(frozen=True)
class Part:
    """The elements of one parameter that belong to one site.

    Args:
        site: Where they belong.
        parameter: The parameter's name in ``model.named_parameters()``.
        shape: How the parameter is looked at; only ever splits axes, so it is a view of any strides.
        cuts: What is kept of that view.
    """

    site: Site
    parameter: str
    shape: tuple[int, ...]
    cuts: tuple[Cut, ...] = ()

    def take(self, tensor: Tensor) -> Tensor:
        """Return the view of a parameter-shaped tensor that belongs to the site (shares its storage)."""
        view = tensor.view(self.shape)
        for cut in self.cuts:
            view = view.narrow(cut.axis, cut.start, cut.stop - cut.start)
        return view

    @property
    def count(self) -> int:
        """The number of elements."""
        sizes = list(self.shape)
        for cut in self.cuts:
            sizes[cut.axis] = cut.stop - cut.start
        total = 1
        for size in sizes:
            total *= size
        return total
