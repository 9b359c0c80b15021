"""Heads: which features of which module are which attention head's, in every layer of a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

from torch import Tensor, nn

from crosstune.foundation.errors import ModelError
from crosstune.foundation.models.anatomy import Anatomy, aligned, ranges
from crosstune.foundation.models.geometry import HeadCut, HeadGeometry
from crosstune.foundation.models.layout import Slab

Block = Literal["q", "k", "v", "o"]
_BLOCKS: tuple[Block, ...] = ("q", "k", "v", "o")


@dataclass(frozen=True)
class Projection:
    """One of the four projections of one layer's attention, and where its heads lie in its features.

    Args:
        layer: Index of the layer.
        block: ``q``, ``k``, ``v`` or ``o``.
        module: Name of the module that owns the base weight; under PEFT the frozen ``base_layer``.
        cut: Where the heads lie along the weight's axis of features.
        transposed: The weight is stored ``[in, out]`` (GPT-2's Conv1D) instead of ``[out, in]``.
    """

    layer: int
    block: Block
    module: str
    cut: HeadCut
    transposed: bool

    @property
    def weight(self) -> str:
        """The weight's name in ``model.named_parameters()``."""
        return f"{self.module}.weight"

    @property
    def side(self) -> Literal["input", "output"]:
        """Which features of the module belong to heads: its output for q, k and v, its input for o."""
        return "input" if self.block == "o" else "output"

    @property
    def heads(self) -> int:
        """Its heads; key-value heads for k and v."""
        return self.cut.heads

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.cut.sizes[-1]

    @property
    def layout(self) -> str:
        """``split``, ``fused`` or ``interleaved``, and whether the weight is transposed."""
        return f"{self.cut.layout}, Conv1D" if self.transposed else self.cut.layout

    def take(self, features: Tensor) -> Tensor:
        """Return the view of the module's features that is this projection's, by head.

        ``[..., F]``, its output for q, k and v, its input for o, becomes ``[..., heads, head_dim]``.
        """
        self._check(features, features.shape[-1])
        return self.cut.take(features)

    def tile(self, weight: Tensor) -> Tensor:
        """Return each head's view of a tensor of the weight's shape, ``[heads, head_dim, d]``.

        Output rows for q, k and v, input columns for o.
        """
        self._check(weight, weight.shape[self.cut.axis])
        return self.cut.take(weight.movedim(self.cut.axis, -1)).movedim(0, -1)

    def _check(self, tensor: Tensor, found: int) -> None:
        if found != self.cut.features:
            raise ModelError(
                f"{self.side} features of {self.module} (layer {self.layer}, block {self.block})",
                law=f"must be {self.cut.features}: {' × '.join(map(str, self.cut.sizes))}",
                found=f"{found} (shape {tuple(tensor.shape)})",
                remedy=f"Give the whole {self.side} of that module, or a gradient of it.",
            )


@dataclass(frozen=True)
class HeadMap:
    """The attention heads of one decoder.

    Args:
        family: The `model_type` of its configuration.
        num_layers: Number of layers.
        geometry: Number and size of the heads.
        projections: q, k, v and o of every layer, in depth order.
    """

    family: str
    num_layers: int
    geometry: HeadGeometry
    projections: tuple[Projection, ...]

    @classmethod
    def of(cls, model: nn.Module) -> HeadMap:
        """Return the head map of a causal language model, with or without PEFT LoRA.

        Raises:
            ModelError: The model is no decoder, or its attention is not what its configuration says.
            UnknownFamilyError: The family, or one of its parameters, is not in the table.
        """
        anatomy = Anatomy.of(model)
        _check_groups(anatomy.heads)
        found = [_projection(slab) for slab in anatomy.slabs if _is_attention_weight(slab)]
        _check_complete(found, anatomy.num_layers)
        found.sort(key=lambda projection: (projection.layer, _BLOCKS.index(projection.block)))
        return cls(anatomy.family, anatomy.num_layers, anatomy.heads, tuple(found))

    @property
    def num_heads(self) -> int:
        """Query heads of a layer."""
        return self.geometry.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Key-value heads of a layer."""
        return self.geometry.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.geometry.head_dim

    def projection(self, layer: int, block: str) -> Projection:
        """Return one projection."""
        if (layer, block) not in self._by_place:
            raise ModelError(
                "projection",
                law=f"must be q, k, v or o of layer 0 to {self.num_layers - 1}",
                found=f"block {block!r} of layer {layer}",
                remedy="See HeadMap.describe().",
            )
        return self._by_place[layer, block]

    def heads_of(self, block: str) -> int:
        """Return how many heads a block has: query heads for q and o, key-value heads for k and v."""
        return self.projection(0, block).heads

    def kv_head(self, head: int) -> int:
        """Return the key-value head that serves a query head."""
        self._check_head("head", head, self.num_heads)
        return head // (self.num_heads // self.num_kv_heads)

    def group(self, kv_head: int) -> range:
        """Return the query heads that a key-value head serves."""
        self._check_head("kv_head", kv_head, self.num_kv_heads)
        size = self.num_heads // self.num_kv_heads
        return range(size * kv_head, size * (kv_head + 1))

    def _check_head(self, argument: str, head: int, count: int) -> None:
        if not 0 <= head < count:
            raise ModelError(
                argument,
                law=f"must be 0 to {count - 1}",
                found=head,
                remedy="See HeadMap.describe().",
            )

    @cached_property
    def _by_place(self) -> dict[tuple[int, str], Projection]:
        return {(found.layer, found.block): found for found in self.projections}

    def describe(self) -> str:
        """Return an aligned text table: where the heads of each block lie."""
        size = self.num_heads // self.num_kv_heads
        sharing = f", {size} query heads each" if size > 1 else ""
        alike: dict[tuple[Block, str, HeadCut, bool], list[Projection]] = {}
        for found in self.projections:
            module = found.module.replace(f".{found.layer}.", ".*.", 1)
            alike.setdefault((found.block, module, found.cut, found.transposed), []).append(found)
        rows = [
            (
                ranges([found.layer for found in group]),
                block,
                module,
                "output rows" if group[0].side == "output" else "input columns",
                group[0].layout,
                str(group[0].heads),
                str(group[0].head_dim),
                str(size) if block in "kv" else "1",
            )
            for (block, module, _, _), group in alike.items()
        ]
        columns = (
            *("layers", "block", "module", "side", "layout"),
            *("heads", "head_dim", "query heads each"),
        )
        title = (
            f"{self.family}: {self.num_layers} layers, {self.num_heads} heads of {self.head_dim}, "
            f"{self.num_kv_heads} key-value heads{sharing}"
        )
        return "\n".join([title, *aligned([columns, *rows], left=5)])


def _is_attention_weight(slab: Slab) -> bool:
    """True for the base weight of a projection: not for a bias, a LoRA factor or a magnitude."""
    return slab.heads is not None and slab.sites[0].factor is None and len(slab.whole) == 2


def _projection(slab: Slab) -> Projection:
    cut, site = slab.by_head().heads, slab.sites[0]  # cutting also checks the number of features
    assert cut is not None
    assert site.layer is not None
    block = cast(Block, site.component.removeprefix("attn."))
    by_output = block != "o"
    transposed = cut.axis == (1 if by_output else 0)
    return Projection(site.layer, block, slab.parameter.removesuffix(".weight"), cut, transposed)


def _check_groups(heads: HeadGeometry) -> None:
    if heads.num_heads % heads.num_kv_heads:
        raise ModelError(
            "model.config",
            law="must have as many query heads for one key-value head as for another",
            found=f"{heads.num_heads} heads, {heads.num_kv_heads} key-value heads",
            remedy="Check num_attention_heads and num_key_value_heads.",
        )


def _check_complete(found: Sequence[Projection], layers: int) -> None:
    """Raise unless every layer has exactly one of each projection."""
    places = [(projection.layer, projection.block) for projection in found]
    missing = [
        f"no {block} in layer {layer}"
        for layer in range(layers)
        for block in _BLOCKS
        if (layer, block) not in places
    ]
    repeated = [
        f"a second {projection.block} in layer {projection.layer}: {projection.module}"
        for at, projection in enumerate(found)
        if places[at] in places[:at]
    ]
    if missing or repeated:
        raise ModelError(
            "model",
            law="must have one q, k, v and o projection in every layer, for its heads to be mapped",
            found="; ".join([*missing, *repeated][:3]),
            remedy="Measure attention by component instead (Anatomy), or merge what wraps it (PEFT's modules_to_save).",
        )
