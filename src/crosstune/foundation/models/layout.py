"""How every parameter of a model is cut into sites, by what its name says and the table of its family."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, UnknownFamilyError
from crosstune.foundation.models.families import FAMILIES, Family, Holds
from crosstune.foundation.models.geometry import HeadCut, HeadGeometry
from crosstune.foundation.models.site import Cut, Factor, Part, Site

_CPU_PIECE, _ACCELERATOR_PIECE = 1 << 18, 1 << 26


@dataclass(frozen=True)
class Slab:
    """One component's elements of one parameter; experts and heads stay together, so they are summed at once.

    Args:
        site_axis: The axis that counts sites (experts or heads), if one does.
    """

    parameter: str
    whole: tuple[int, ...]
    shape: tuple[int, ...]
    cut: Cut | None
    sites: tuple[Site, ...]
    site_axis: int | None = None
    heads: HeadCut | None = None

    def by_head(self) -> Slab:
        """Return the slab with one site per head, or itself where its elements belong to no head."""
        heads = self.heads
        if heads is None or self.site_axis is not None:
            return self
        site, axis = self.sites[0], heads.axis
        _check_features(f"model.{self.parameter}", heads.features, self.whole, axis)
        kept = heads.kept
        return replace(
            self,
            shape=(*self.whole[:axis], *heads.sizes, *self.whole[axis + 1 :]),
            cut=None if kept is None else replace(kept, axis=axis + kept.axis),
            sites=tuple(site.of_head(head) for head in range(heads.heads)),
            site_axis=axis,
        )

    def parts(self) -> tuple[Part, ...]:
        """Return one part per site."""
        cuts = () if self.cut is None else (self.cut,)
        axis = self.site_axis
        if axis is None:
            return (Part(self.sites[0], self.parameter, self.shape, cuts),)
        return tuple(
            Part(site, self.parameter, self.shape, (*cuts, Cut(axis, place, place + 1)))
            for place, site in enumerate(self.sites)
        )

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return ⟨a, b⟩ per site, float64, on the tensors' device."""
        x, y = self._view(a), self._view(b)
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        counted = self.site_axis
        summed = [axis for axis in range(x.dim()) if axis != counted]
        # Pieces that stay in the CPU's cache are ten times faster than one product the size of the parameter.
        most = _CPU_PIECE if x.device.type == "cpu" else _ACCELERATOR_PIECE
        rows = max(1, most * x.shape[0] // max(1, x.numel()))
        sums = [
            (xs.to(dtype) * ys.to(dtype)).sum(dim=summed, dtype=torch.float64).reshape(-1)
            for xs, ys in zip(x.split(rows), y.split(rows), strict=True)
        ]
        return torch.cat(sums) if counted == 0 else torch.stack(sums).sum(dim=0)

    def inner_many(self, stack: Tensor, b: Tensor) -> Tensor:
        """Return ⟨stack[k], b⟩ or ⟨stack[k], b[k]⟩ per site, [K, sites], float64, on the tensors' device."""
        x = self._rows_of(stack)
        y = self._rows_of(b if b.dim() == stack.dim() else b[None])
        most = _CPU_PIECE if x.device.type == "cpu" else _ACCELERATOR_PIECE
        width = max(1, most // max(1, x.shape[0] * x.shape[1]))
        sums = [
            torch.linalg.vecdot(xs.double(), ys.double())
            for xs, ys in zip(x.split(width, dim=2), y.split(width, dim=2), strict=True)
        ]
        return torch.stack(sums).sum(dim=0)

    def _rows_of(self, stack: Tensor) -> Tensor:
        """The elements of each site of each of K tensors: [K, sites, elements]."""
        view = self._view(stack, stacked=1)
        if self.site_axis is None:
            return view.flatten(1)[:, None]
        return view.movedim(1 + self.site_axis, 1).flatten(2)

    def _view(self, tensor: Tensor, stacked: int = 0) -> Tensor:
        """The component's elements of a tensor of the parameter's shape, after this many leading axes."""
        view = tensor.detach().view(*tensor.shape[:stacked], *self.shape)
        cut = self.cut
        return (
            view
            if cut is None
            else view.narrow(stacked + cut.axis, cut.start, cut.stop - cut.start)
        )


def family_of(model: nn.Module) -> tuple[Family, Any, nn.Module]:
    """Return family, configuration and the decoder itself, without PEFT around it, of a causal language model."""
    base = _decoder(model)
    config: Any = base.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnknownFamilyError(
            "model",
            law="must be of a family whose anatomy is known",
            found=f"model_type {config.model_type!r} ({type(model).__name__})",
            remedy=f"Known families: {', '.join(FAMILIES)}. A new one is one entry in families.py.",
        )
    return family, config, base


def slabs_of_model(model: nn.Module) -> tuple[str, Any, tuple[Slab, ...]]:
    """Return family name, configuration and slabs of a causal language model."""
    family, config, _ = family_of(model)
    reader = _Reader(config.model_type, family, HeadGeometry.of(config), _targeted(model))
    names = _all_names(model)
    slabs: list[Slab] = []
    for name, parameter in model.named_parameters():
        tied = [reader.slabs(other, parameter) for other in names[id(parameter)]]
        slabs += [replace(slab, parameter=name) for slab in _untangle(tied)]
    return config.model_type, config, tuple(slabs)


def _decoder(model: nn.Module) -> nn.Module:
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
    return cast(nn.Module, inner)


def _targeted(model: nn.Module) -> dict[str, tuple[str, int]]:
    """Where PEFT adapts a bare parameter: path of its wrapper → the parameter's name and number of experts."""
    found: dict[str, tuple[str, int]] = {}
    for path, module in model.named_modules():
        wrapper: Any = module
        if hasattr(wrapper, "parameter_name") and hasattr(wrapper, "num_experts"):
            found[path] = (wrapper.parameter_name, wrapper.num_experts)
    return found


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


@dataclass(frozen=True)
class _Reader:
    """Reads one parameter of a known family."""

    model_type: str
    family: Family
    heads: HeadGeometry
    targeted: Mapping[str, tuple[str, int]]

    def slabs(self, name: str, parameter: Tensor) -> tuple[Slab, ...]:
        read = read_name(name)
        experts = parameter.shape[0]
        if read.factor is not None:
            bare, experts = self.targeted.get(name.rsplit(".lora_", 1)[0], ("weight", 1))
            if bare != "weight":
                read = replace(read, module=f"{read.module}.{bare}")
        layer, holds = self._find(name, read)
        if read.factor == "A" and holds.joint is not None:
            # LoRA's A serves all components of a fused projection at once, so it is one site of its own:
            # `attn.qkv (A)` or `mlp.gate_up (A)`. B has rows of its own for each of them.
            holds = replace(holds, components=(holds.joint,))
        cutter = _Cutter(name, read, layer, self.heads)
        shape = tuple(parameter.shape)
        return cutter.experts(holds, shape, experts) if holds.experts else cutter.one(holds, shape)

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

    def one(self, holds: Holds, shape: tuple[int, ...]) -> tuple[Slab, ...]:
        """Cut a parameter that serves no experts."""
        view = shape
        cuts: list[tuple[str, Cut | None]] = [(component, None) for component in holds.components]
        if holds.per_head and len(cuts) > 1:
            # Components alternate inside each head: output features are [heads, components, head_dim].
            view = (self.heads.num_heads, len(cuts), self.heads.head_dim, *shape[1:])
            _check_features(f"model.{self.name}", prod(view[:3]), shape, axis=0)
            cuts = [(component, Cut(1, i, i + 1)) for i, (component, _) in enumerate(cuts)]
        elif len(cuts) > 1:
            cuts = list(self._blocks(holds, shape, self._output_axis(holds)))
        return tuple(
            Slab(self.name, shape, view, cut, (self._site(name),), heads=self._heads(holds, name))
            for name, cut in cuts
        )

    def _output_axis(self, holds: Holds) -> int:
        plain_weight = self.read.factor is None and self.read.role == "weight"
        return 1 if holds.transposed and plain_weight else 0

    def _heads(self, holds: Holds, component: str) -> HeadCut | None:
        """Where the component's heads lie: along the output features of q, k, v, along the input features of o."""
        count, size = self.heads.count(component), self.heads.head_dim
        factor = self.read.factor
        if component == "attn.o":
            # What counts output features (a bias, a magnitude, LoRA's B) is of the residual stream, not of a head.
            if self.read.role == "features" or factor == "B":
                return None
            return HeadCut(1 - self._output_axis(holds), (count, size))
        if component not in ("attn.q", "attn.k", "attn.v") or factor == "A":
            return None
        axis, own = self._output_axis(holds), holds.components.index(component)
        if holds.per_head:
            return HeadCut(axis, (count, len(holds.components), size), Cut(1, own, own + 1))
        counts = [self.heads.count(other) for other in holds.components]
        first = sum(counts[:own])
        kept = None if len(counts) == 1 else Cut(0, first, first + count)
        return HeadCut(axis, (sum(counts), size), kept)

    def experts(self, holds: Holds, shape: tuple[int, ...], experts: int) -> tuple[Slab, ...]:
        """Cut a parameter that stacks experts."""
        # A weight is [E, out, in]. PEFT stacks the factors of all experts in two matrices:
        # A is [E · rank, in], B is [out, rank · E] with the expert running fastest.
        view, features, site_axis = shape, 1, 0
        if self.read.factor == "A":
            view = (experts, shape[0] // experts, shape[1])
        elif self.read.factor == "B":
            view, features, site_axis = (shape[0], shape[1] // experts, experts), 0, 2
        return tuple(
            Slab(
                self.name,
                shape,
                view,
                cut if len(holds.components) > 1 else None,
                tuple(self._site(component, expert) for expert in range(experts)),
                site_axis,
            )
            for component, cut in self._blocks(holds, view, features)
        )

    def _site(self, component: str, expert: int | None = None) -> Site:
        return Site(
            self.layer,
            component,
            expert=expert,
            factor=self.read.factor,
            adapter=self.read.adapter,
        )

    def _blocks(self, holds: Holds, shape: tuple[int, ...], axis: int) -> list[tuple[str, Cut]]:
        """Components that lie one after the other: q, k, v by their heads, others in equal shares."""
        if holds.joint == "attn.qkv":
            sizes = [self.heads.features(component) for component in holds.components]
        else:
            sizes = [shape[axis] // len(holds.components)] * len(holds.components)
        _check_features(f"model.{self.name}", sum(sizes), shape, axis)
        stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        cuts = [Cut(axis, stop - size, stop) for size, stop in zip(sizes, stops, strict=True)]
        return list(zip(holds.components, cuts, strict=True))


def _check_features(argument: str, expected: int, shape: tuple[int, ...], axis: int) -> None:
    if shape[axis] != expected:
        raise ModelError(
            argument,
            law=f"must have {expected} features on axis {axis} by the model's configuration",
            found=f"{shape[axis]} (shape {shape})",
            remedy="Check that configuration and weights belong together.",
        )


Shape = Literal["weight", "features"]

# `base_layer` and `original_module` wrap the module PEFT found; `modules_to_save.<adapter>` is its trained copy.
_WRAPPERS = re.compile(r"\.(base_layer|original_module|modules_to_save\.[^.]+)(?=\.|$)")
_FACTOR = re.compile(r"\.lora_(?:embedding_)?([AB])\.([^.]+)(\.weight|\.bias)?$")
_MAGNITUDE = re.compile(r"\.lora_magnitude_vector\.([^.]+)(\.weight)?$")
_SAVED = re.compile(r"\.modules_to_save\.([^.]+)(?=\.|$)")


@dataclass(frozen=True)
class ParameterName:
    """One parameter's name, read.

    Args:
        module: Path of the module (or of the bare parameter) in the model without PEFT.
        role: ``"weight"``: a matrix; ``"features"``: one number per output feature (bias, DoRA magnitude).
    """

    module: str
    role: Shape
    factor: Factor | None = None
    adapter: str | None = None


def read_name(name: str) -> ParameterName:
    """Return what a name of ``named_parameters()`` says, with PEFT's and torch.compile's wrapping removed."""
    plain = name.removeprefix("_orig_mod.").removeprefix("base_model.model.")
    factor: Factor | None = None
    adapter: str | None = None
    role: Shape = "features" if plain.endswith(".bias") else "weight"
    if found := _FACTOR.search(plain):
        factor, adapter = "A" if found[1] == "A" else "B", found[2]
        plain = plain[: found.start()]
    elif found := _MAGNITUDE.search(plain):
        role, adapter, plain = "features", found[1], plain[: found.start()]
    elif found := _SAVED.search(plain):
        adapter = found[1]
    module = _WRAPPERS.sub("", plain).removesuffix(".weight").removesuffix(".bias")
    return ParameterName(module, role, factor, None if adapter == "default" else adapter)
