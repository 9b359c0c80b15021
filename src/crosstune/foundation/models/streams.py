"""The residual stream of a decoder: site l is the input of block l, site L the input of the final norm; read, watch and write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError
from crosstune.foundation.models.layout import family_of
from crosstune.foundation.models.measuring import measuring


class _AllRead(Exception):
    """Every site that was asked for has been seen: the rest of the model need not run."""


def positions(mask: Tensor) -> Tensor:
    """The place of each token counted from its row's first real one, 0 on padding before it; [B, T] as the mask."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


def model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of one forward pass over a batch: packed rows bring their positions, and attention is cut where these begin anew."""
    mask = batch["attention_mask"]
    packed = batch.get("position_ids")
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": mask if packed is None else None,
        "position_ids": positions(mask) if packed is None else packed,
        "use_cache": False,
    }


@dataclass(frozen=True)
class Stream:
    """The residual stream of one decoder, by site: 0 to L − 1 go into the blocks, L goes into the final norm.

    Args:
        model: A causal language model of a known family, with or without PEFT.
        entries: The module that each site goes into.
        width: Features of the stream.
    """

    model: nn.Module
    entries: tuple[nn.Module, ...]
    width: int

    @classmethod
    def of(cls, model: nn.Module) -> Stream:
        """Return the stream of a causal language model.

        Raises:
            ModelError: The model is not a decoder with a language-model head.
            UnknownFamilyError: Its family is not in the table.
        """
        family, config, base = family_of(model)
        norms = [path for path, holds in family.outside.items() if holds.components == ("norm",)]
        blocks = cast(nn.ModuleList, base.get_submodule(family.blocks))
        entries = (*blocks, base.get_submodule(norms[0]))
        return cls(model, entries, config.hidden_size)

    @property
    def num_layers(self) -> int:
        """The number of blocks L, which is also the last site."""
        return len(self.entries) - 1

    @contextmanager
    def watch(self, sites: Sequence[int]) -> Iterator[dict[int, Tensor]]:
        """What the first forward pass inside brings to each site, [B, T, H], part of its graph.

        Args:
            sites: 0 to L.

        Yields:
            A dictionary that the forward pass fills.

        Raises:
            ModelError: A site is out of range.
        """
        seen: dict[int, Tensor] = {}

        def note(site: int) -> Callable[[Tensor], Tensor]:
            return lambda states: (seen.setdefault(site, states), states)[1]

        with ExitStack() as stack:
            for site in sites:
                stack.enter_context(self._at(site, note(site)))
            yield seen

    def read(self, batch: Mapping[str, Tensor], sites: Sequence[int]) -> dict[int, Tensor]:
        """The states of a batch at some sites, without gradient; blocks above the highest do not run.

        Shapes: ``input_ids``, ``attention_mask`` [B, T]; each result [B, T, H].

        Args:
            batch: What ``data.collate`` returns.
            sites: 0 to L.

        Returns:
            States by site; the model and the random states are as they were.

        Raises:
            ModelError: A site is out of range.
        """

        def end(states: Tensor) -> Tensor:
            raise _AllRead

        with measuring(self.model), torch.no_grad(), self.watch(sites) as seen:
            try:
                with self._at(max(sites), end):
                    self.model(**model_inputs(batch))
            except _AllRead:
                pass
        return seen

    @contextmanager
    def write(self, site: int, values: Tensor, where: Tensor | None = None) -> Iterator[None]:
        """Every forward pass inside goes on from these states at one site; gradients flow into them and past them.

        Args:
            site: 0 to L.
            values: [B, T, H], or what broadcasts to it.
            where: [B, T]; true where states are replaced, or the share of `values` in a blend; everywhere without it.

        Yields:
            Nothing.

        Raises:
            ModelError: The site is out of range, or the values are of another width.
        """
        if values.shape[-1] != self.width:
            raise ModelError(
                "values",
                law=f"must have the stream's width of {self.width}",
                found=f"shape {tuple(values.shape)}",
                remedy="Map the states to this model's width first.",
            )

        def edit(states: Tensor) -> Tensor:
            new = values.to(states)
            if where is None:
                return new.expand_as(states)
            if where.dtype == torch.bool:
                return torch.where(where[..., None], new, states)
            return torch.lerp(states, new.expand_as(states), where[..., None].to(states))

        with self._at(site, edit):
            yield

    @contextmanager
    def _at(self, site: int, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """What goes into a site's module is edited first."""
        if not 0 <= site <= self.num_layers:
            raise ModelError(
                "site",
                law=f"must be 0 to {self.num_layers}: the input of a block, or of the final norm",
                found=site,
                remedy="Count blocks from 0.",
            )

        def before(module: nn.Module, args: Any, keywords: Any) -> Any:
            if args:
                return (edit(args[0]), *args[1:]), keywords
            return args, {**keywords, "hidden_states": edit(keywords["hidden_states"])}

        handle = self.entries[site].register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
