"""Slabs: how each parameter of a model is cut into sites, by the table of its family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, UnknownFamilyError
from crosstune.foundation.models.families import FAMILIES, Family, Holds
from crosstune.foundation.models.names import ParameterName, read_name
from crosstune.foundation.models.site import Cut, Part, Site


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

    def features(self, component: str) -> int:
        """Return the number of output features of ``attn.q``, ``attn.k`` or ``attn.v``."""
        return self.head_dim * (self.num_heads if component == "attn.q" else self.num_kv_heads)


@dataclass(frozen=True)
class Slab:
    """One component's elements of one parameter; a stack of experts stays together, so it is summed at once.

    Args:
        parameter: Name in ``named_parameters()``.
        shape: How the parameter is looked at (see `Part`).
        cut: What is kept of it, or None for all.
        sites: The site, or one site per expert.
        expert_axis: The axis that counts experts, if one does.
    """

    parameter: str
    shape: tuple[int, ...]
    cut: Cut | None
    sites: tuple[Site, ...]
    expert_axis: int | None = None

    def parts(self) -> tuple[Part, ...]:
        """Return one part per site."""
        cuts = () if self.cut is None else (self.cut,)
        axis = self.expert_axis
        if axis is None:
            return (Part(self.sites[0], self.parameter, self.shape, cuts),)
        return tuple(
            Part(site, self.parameter, self.shape, (*cuts, Cut(axis, expert, expert + 1)))
            for expert, site in enumerate(self.sites)
        )

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ⟨a, b⟩ per site, float64, on the tensors' device."""
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        product = self._view(a).to(dtype) * self._view(b).to(dtype)
        kept = [] if self.expert_axis is None else [self.expert_axis]
        axes = [axis for axis in range(product.dim()) if axis not in kept]
        return product.sum(dim=axes, dtype=torch.float64).reshape(-1)

    def _view(self, tensor: Tensor) -> Tensor:
        view = tensor.detach().view(self.shape)
        cut = self.cut
        return view if cut is None else view.narrow(cut.axis, cut.start, cut.stop - cut.start)


def slabs_of_model(model: nn.Module) -> tuple[str, Any, tuple[Slab, ...]]:
    """Return family name, configuration and slabs of a causal language model."""
    config = _decoder_config(model)
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnknownFamilyError(
            "model",
            law="must be of a family whose anatomy is known",
            found=f"model_type {config.model_type!r} ({type(model).__name__})",
            remedy=f"Known families: {', '.join(FAMILIES)}. A new one is one entry in families.py.",
        )
    reader = _Reader(config.model_type, family, HeadGeometry.of(config))
    names = _all_names(model)
    slabs: list[Slab] = []
    for name, parameter in model.named_parameters():
        tied = [reader.slabs(other, parameter) for other in names[id(parameter)]]
        slabs += _with_name(_untangle(tied), name)
    return config.model_type, config, tuple(slabs)


def _decoder_config(model: nn.Module) -> Any:
    inner: Any = model
    if hasattr(model, "get_base_model"):
        inner = inner.get_base_model()
    config = getattr(inner, "config", None)
    decoder = (
        config is not None
        and not getattr(config, "is_encoder_decoder", False)
        and hasattr(inner, "can_generate")
        and inner.can_generate()
    )
    if not decoder:
        raise ModelError(
            "model",
            law="must be a Hugging Face decoder with a language-model head",
            found=type(inner).__name__,
            remedy="Load it with load_model or AutoModelForCausalLM; unwrap DDP with model.module.",
        )
    return config


def _all_names(model: nn.Module) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names


def _untangle(readings: list[tuple[Slab, ...]]) -> tuple[Slab, ...]:
    """Return the one reading of a parameter that may have several names (a tied head)."""
    components = {site.component for slabs in readings for slab in slabs for site in slab.sites}
    if components == {"embed", "head"}:
        (slab,) = readings[0]
        return (replace(slab, sites=(replace(slab.sites[0], component="embed+head"),)),)
    if any(
        [slab.sites for slab in slabs] != [slab.sites for slab in readings[0]] for slabs in readings
    ):
        raise UnknownFamilyError(
            "model",
            law="may share parameters only between embedding and head",
            found=f"one parameter used as {', '.join(sorted(components))}",
            remedy="Untie these parameters before measuring.",
        )
    return readings[0]


def _with_name(slabs: tuple[Slab, ...], name: str) -> list[Slab]:
    return [replace(slab, parameter=name) for slab in slabs]


@dataclass(frozen=True)
class _Reader:
    """Reads one parameter of a known family."""

    model_type: str
    family: Family
    heads: HeadGeometry

    def slabs(self, name: str, parameter: Tensor) -> tuple[Slab, ...]:
        read = read_name(name)
        layer, holds = self._find(name, read)
        shape = tuple(parameter.shape)
        if read.factor == "A" and holds.joint is not None:
            # LoRA's A is shared by all components of a fused projection, so it is a site of its own.
            holds = Holds((holds.joint,))
        make = _Cutter(name, read, layer, self.heads)
        return make.experts(holds, shape) if holds.experts else make.slabs(holds, shape)

    def _find(self, name: str, read: ParameterName) -> tuple[int | None, Holds]:
        below = re.fullmatch(rf"{re.escape(self.family.blocks)}\.(\d+)\.(.+)", read.module)
        layer = int(below[1]) if below else None
        path = below[2] if below else read.module
        table: Mapping[str, Holds] = self.family.inside if below else self.family.outside
        if path not in table:
            raise UnknownFamilyError(
                f"model.{name}",
                law=f"must be a known parameter of the family {self.model_type!r}",
                found=f"module path {path!r}",
                remedy=f"Known {'in a block' if below else 'outside blocks'}: {', '.join(table)}.",
            )
        return layer, table[path]


@dataclass(frozen=True)
class _Cutter:
    """Cuts one parameter along its output features."""

    name: str
    read: ParameterName
    layer: int | None
    heads: HeadGeometry

    def slabs(self, holds: Holds, shape: tuple[int, ...]) -> tuple[Slab, ...]:
        if len(holds.components) == 1:
            return (Slab(self.name, shape, None, (self._site(holds.components[0]),)),)
        plain_weight = self.read.factor is None and self.read.role == "weight"
        axis = 1 if holds.transposed and plain_weight else 0
        if holds.per_head:
            return self._per_head(holds, shape)
        return tuple(
            Slab(self.name, shape, cut, (self._site(component),))
            for component, cut in self._blocks(holds, shape, axis)
        )

    def experts(self, holds: Holds, shape: tuple[int, ...]) -> tuple[Slab, ...]:
        return tuple(
            Slab(
                self.name,
                shape,
                cut if len(holds.components) > 1 else None,
                tuple(self._site(component, expert) for expert in range(shape[0])),
                expert_axis=0,
            )
            for component, cut in self._blocks(holds, shape, axis=1)
        )

    def _site(self, component: str, expert: int | None = None) -> Site:
        return Site(self.layer, component, expert=expert, factor=self.read.factor)

    def _blocks(self, holds: Holds, shape: tuple[int, ...], axis: int) -> list[tuple[str, Cut]]:
        """Components that lie one after the other: q, k, v by their heads, others in equal shares."""
        if holds.joint == "attn.qkv":
            sizes = [self.heads.features(component) for component in holds.components]
        else:
            sizes = [shape[axis] // len(holds.components)] * len(holds.components)
        self._check(sum(sizes), shape, axis)
        stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        cuts = [Cut(axis, stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        return list(zip(holds.components, cuts, strict=True))

    def _per_head(self, holds: Holds, shape: tuple[int, ...]) -> tuple[Slab, ...]:
        """Components that alternate inside each head: output features are [heads, components, head_dim]."""
        kinds = len(holds.components)
        self._check(self.heads.num_heads * kinds * self.heads.head_dim, shape, axis=0)
        view = (self.heads.num_heads, kinds, self.heads.head_dim, *shape[1:])
        return tuple(
            Slab(self.name, view, Cut(1, i, i + 1), (self._site(component),))
            for i, component in enumerate(holds.components)
        )

    def _check(self, expected: int, shape: tuple[int, ...], axis: int) -> None:
        if shape[axis] != expected:
            raise ModelError(
                f"model.{self.name}",
                law=f"must have {expected} output features by the model's configuration",
                found=f"{shape[axis]} (shape {shape})",
                remedy="Check that configuration and weights belong together.",
            )
