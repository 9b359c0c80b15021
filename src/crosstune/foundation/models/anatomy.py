"""Anatomy: which elements of a decoder's parameters are which component of which layer.

Every element belongs to exactly one `Site`, so per-site sums over elements add up to sums over the model.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError
from crosstune.foundation.models.geometry import HeadGeometry
from crosstune.foundation.models.layout import Slab, slabs_of_model
from crosstune.foundation.models.site import Part, Site


@dataclass(frozen=True)
class Anatomy:
    """The sites of one decoder and the views of its parameters that belong to them.

    Args:
        family: The `model_type` of its configuration.
        num_layers: Number of blocks.
        hidden_size: Width of the residual stream.
        heads: Number and size of its attention heads.
        slabs: The parameters, cut by component; a slab may run over all experts or heads of a layer.
    """

    family: str
    num_layers: int
    hidden_size: int
    heads: HeadGeometry
    slabs: tuple[Slab, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        """Return the anatomy of a causal language model, with or without PEFT LoRA.

        Raises:
            ModelError: The model is not a decoder with a language-model head.
            UnknownFamilyError: The family, or one of its parameters, is not in the table.
        """
        family, config, slabs = slabs_of_model(model)
        return cls(
            family=family,
            num_layers=config.num_hidden_layers,
            hidden_size=config.hidden_size,
            heads=HeadGeometry.of(config),
            slabs=slabs,
        )

    def only(self, parameters: Iterable[str]) -> Anatomy:
        """Return the anatomy of the named parameters alone; sites with no element left disappear.

        Raises:
            ModelError: A name is not one of this anatomy's parameters.
        """
        kept = set(parameters)
        _check_known("parameters", sorted(kept), {slab.parameter for slab in self.slabs})
        slabs = tuple(slab for slab in self.slabs if slab.parameter in kept)
        return Anatomy(self.family, self.num_layers, self.hidden_size, self.heads, slabs)

    def by_head(self) -> Anatomy:
        """Return the same anatomy with attention cut by head: the sites of a component's heads add up to the component.

        Queries belong to their heads by output rows, keys and values to their key-value heads, the output
        projection to its heads by *input columns*. What belongs to no head keeps the component's site: the
        output projection's bias, LoRA's A of queries, keys and values, and LoRA's B of the output.

        Raises:
            ModelError: A projection has another number of features than the configuration's heads.
        """
        slabs = tuple(slab.by_head() for slab in self.slabs)
        return Anatomy(self.family, self.num_layers, self.hidden_size, self.heads, slabs)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The sites: embeddings, layers in depth order, final norm, head."""
        found = {site for slab in self.slabs for site in slab.sites}
        return tuple(sorted(found, key=lambda site: site.depth_order))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """All parts, parameter by parameter."""
        return tuple(part for slab in self.slabs for part in slab.parts())

    def parts_of(self, parameter: str) -> tuple[Part, ...]:
        """Return the parts into which one parameter is cut."""
        _check_known("parameter", [parameter], self._parts_by_parameter)
        return self._parts_by_parameter[parameter]

    def count(self, site: Site) -> int:
        """Return the number of elements of a site."""
        _check_known("site", [site], self._counts)
        return self._counts[site]

    @cached_property
    def _parts_by_parameter(self) -> dict[str, tuple[Part, ...]]:
        grouped: dict[str, tuple[Part, ...]] = {}
        for slab in self.slabs:
            grouped[slab.parameter] = grouped.get(slab.parameter, ()) + slab.parts()
        return grouped

    @cached_property
    def _counts(self) -> dict[Site, int]:
        counts = dict.fromkeys(self.sites, 0)
        for part in self.parts:
            counts[part.site] += part.count
        return counts

    @cached_property
    def _positions(self) -> Tensor:
        index = {site: i for i, site in enumerate(self.sites)}
        return torch.tensor([index[s] for slab in self.slabs for s in slab.sites], dtype=torch.long)

    def inner(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        """Return ⟨a, b⟩ of each site, summed in float64.

        Products are taken in float32 (in float64 where the inputs are), never in half precision.

        Shapes:
            ``a[name]``, ``b[name]``: as the parameter `name`. Result: ``[S]``, float64, on the CPU.

        Args:
            a: A tensor for every parameter of this anatomy; others are ignored.
            b: Likewise.

        Raises:
            ModelError: A parameter has no tensor in one of them, or one of another shape.
        """
        for argument, tensors in (("a", a), ("b", b)):
            self._check_fit(argument, tensors)
        result = torch.zeros(len(self.sites), dtype=torch.float64)
        if self.slabs:
            values = [slab.inner(a[slab.parameter], b[slab.parameter]) for slab in self.slabs]
            # One transfer for all slabs; the sum over slabs is on the CPU, where its order is fixed.
            gathered = torch.cat([value.to(values[0].device) for value in values])
            result.index_add_(0, self._positions, gathered.cpu())
        return result

    def inner_many(self, stack: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Tensor:
        """Return ⟨a_k, b⟩ of each site for a stack of K tensors a_k, summed in float64.

        Shapes:
            ``stack[name]``: ``[K, *shape]``. ``b[name]``: as the parameter, or ``[K, *shape]`` for
            ⟨a_k, b_k⟩. Result: ``[K, S]``, float64, on the CPU.

        Args:
            stack: A stack for every parameter of this anatomy; others are ignored.
            b: Likewise, a tensor or a stack.

        Raises:
            ModelError: A parameter has no tensor in one of them, or one of another shape.
        """
        count = len(next(iter(stack.values()), torch.empty(0)))
        self._check_fit("stack", stack, ((count,),))
        self._check_fit("b", b, ((), (count,)))
        result = torch.zeros(count, len(self.sites), dtype=torch.float64)
        if self.slabs:
            values = [
                slab.inner_many(stack[slab.parameter], b[slab.parameter]) for slab in self.slabs
            ]
            gathered = torch.cat([value.to(values[0].device) for value in values], dim=1)
            result.index_add_(1, self._positions, gathered.cpu())
        return result

    def _check_fit(
        self,
        argument: str,
        tensors: Mapping[str, Tensor],
        leading: Sequence[tuple[int, ...]] = ((),),
    ) -> None:
        """Raise where a tensor is missing, or its shape is not the parameter's after some leading axes."""
        missing = [slab.parameter for slab in self.slabs if slab.parameter not in tensors]
        if missing:
            raise ModelError(
                argument,
                law="must hold a tensor for every parameter of the anatomy",
                found=f"none for {missing[0]} ({len(missing)} missing)",
                remedy="Use Anatomy.only(names) to see some parameters.",
            )
        for slab in self.slabs:
            shape = tuple(tensors[slab.parameter].shape)
            if shape not in [(*axes, *slab.whole) for axes in leading]:
                raise ModelError(
                    f"{argument}[{slab.parameter!r}]",
                    law=f"must have the parameter's shape {slab.whole}",
                    found=f"shape {shape}",
                    remedy="Give tensors as autograd does for the same model.",
                )

    def describe(self) -> str:
        """Return an aligned text table: the head geometry, and each component's layers and elements."""
        heads = self.heads
        lines = [
            f"{self.family}: {self.num_layers} layers, width {self.hidden_size}; "
            f"{heads.num_heads} heads of {heads.head_dim}, {heads.num_kv_heads} key-value heads; "
            f"{len(self.sites)} sites",
            *aligned([("component", "layers", "per layer", "elements"), *self._rows()], left=2),
        ]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """One row per component, and one more where its size or number of experts changes with depth."""
        places: dict[Site, list[Site]] = {}
        for site in self.sites:
            place = replace(site.whole, expert=None)
            places.setdefault(place, []).append(site)
        rows: dict[tuple[str, int, bool], list[Site]] = {}
        for place, sites in places.items():
            name = f"{replace(place, layer=None)}{_fineness(sites)}"
            count = sum(self.count(site) for site in sites)
            rows.setdefault((name, count, place.layer is None), []).append(place)
        table = []
        for (name, count, outside), held in rows.items():
            layers = [place.layer for place in held if place.layer is not None]
            each = "" if outside else f"{count:,}"
            table.append((name, ranges(layers), each, f"{count * len(held):,}"))
        return [*table, ("total", "", "", f"{sum(self._counts.values()):,}")]


def _fineness(sites: Sequence[Site]) -> str:
    """Say into how many experts or heads a component is cut."""
    cuts = {
        "experts": sum(site.expert is not None for site in sites),
        "heads": sum(site.head is not None for site in sites),
        "kv-heads": sum(site.kv_head is not None for site in sites),
    }
    return "".join(f" ({count} {name})" for name, count in cuts.items() if count)


def _check_known(argument: str, wanted: Iterable[object], known: Container[object]) -> None:
    unknown = [str(name) for name in wanted if name not in known]
    if unknown:
        raise ModelError(
            argument,
            law="must belong to this anatomy",
            found=", ".join(unknown[:3]),
            remedy="See Anatomy.sites for its sites and model.named_parameters() for its parameters.",
        )


def gradient_sites(model: nn.Module) -> Anatomy:
    """Return the anatomy of the parameters that require gradients."""
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    return Anatomy.of(model).only(trainable)


def ranges(layers: Sequence[int]) -> str:
    """Return layers as ranges: ``0–2, 5``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def aligned(rows: Sequence[tuple[str, ...]], left: int) -> list[str]:
    """Return rows as lines of equal length; the first `left` columns begin, the others end, below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
