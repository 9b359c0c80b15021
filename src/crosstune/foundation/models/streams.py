"""The residual stream of a decoder: site l is the input of block l, site L the input of the final norm; read, watch and write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.models.layout import family_of
from crosstune.foundation.models.measuring import measuring


class _AllSeen(Exception):
    """All that was asked for has been seen: the rest of the model need not run."""


@contextmanager
def looking(module: nn.Module, look: Callable[[Tensor], object]) -> Iterator[None]:
    """Look at what goes into a module."""

    def before(_: nn.Module, args: tuple[Any, ...]) -> None:
        look(args[0])

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def ending(module: nn.Module) -> Iterator[None]:
    """A forward pass ends before this module, and with it what stands inside."""

    def end(_: Tensor) -> None:
        raise _AllSeen

    with suppress(_AllSeen), looking(module, end):
        yield


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
            UnsupportedError: It is compiled.
        """
        family, config, base = family_of(model)
        if any(
            hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules()
        ):
            raise UnsupportedError(
                "model",
                law="must not be compiled: what is compiled calls no hook that comes later",
                found=type(model).__name__,
                remedy="Compile it after reading and writing, or not at all.",
            )
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
            A dictionary that the forward pass fills; what is written at a site is what is seen there.

        Raises:
            ModelError: A site is out of range.
        """
        seen: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for site in sites:
                self._check(site)
                stack.enter_context(looking(self.entries[site], partial(seen.setdefault, site)))
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
        with (
            measuring(self.model),
            torch.no_grad(),
            self.watch(sites) as seen,
            ending(self.entries[max(sites)]),
        ):
            self.model(**model_inputs(batch))
        return seen

    @contextmanager
    def write(self, site: int, values: Tensor, where: Tensor | None = None) -> Iterator[None]:
        """Every forward pass inside goes on from these states at one site; gradients flow into them and past them.

        The backward pass may run after the context has ended, under (non-reentrant) gradient checkpointing too. Of two
        writes at one site the outer one stands.

        Args:
            site: 0 to L.
            values: [B, T, H], or what broadcasts to it.
            where: [B, T]; true where states are replaced, or the share of `values` in a blend; everywhere without it.

        Yields:
            Nothing.

        Raises:
            ModelError: The site is out of range, or the values or the mask do not fit the stream.
        """
        self._check(site)
        if values.shape[-1] != self.width:
            raise _unfit("values", f"the stream's width of {self.width}", values)

        def edit(states: Tensor) -> Tensor:
            for argument, given, whole in (
                ("values", values, states.shape),
                ("where", where, states.shape[:-1]),
            ):
                if given is not None and not _broadcasts(given.shape, whole):
                    raise _unfit(argument, f"the shape {tuple(whole)} of this forward pass", given)
            new = values.to(states)
            if where is None:
                return new.expand_as(states)
            share = where[..., None].to(states.device)
            if where.dtype == torch.bool:
                return torch.where(share, new, states)
            return torch.lerp(states, new.expand_as(states), share.to(states))

        # Before transformers' own hooks on a block's output, so that its `hidden_states` say what was written.
        if site == 0:
            handle = self.entries[0].register_forward_pre_hook(
                lambda module, args: (edit(args[0]), *args[1:]), prepend=True
            )
        else:
            handle = self.entries[site - 1].register_forward_hook(
                lambda module, args, states: edit(states), prepend=True
            )
        try:
            yield
        finally:
            handle.remove()

    def _check(self, site: int) -> None:
        if not 0 <= site <= self.num_layers:
            raise ModelError(
                "site",
                law=f"must be 0 to {self.num_layers}: the input of a block, or of the final norm",
                found=site,
                remedy="Count blocks from 0.",
            )


def _broadcasts(shape: Sequence[int], whole: Sequence[int]) -> bool:
    """True where a tensor of one shape spreads over another, as torch spreads it."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(size in (1, full) for size, full in pairs)


def _unfit(argument: str, wanted: str, given: Tensor) -> ModelError:
    return ModelError(
        argument,
        law=f"must have {wanted}, or broadcast to it",
        found=f"shape {tuple(given.shape)}",
        remedy="Map states to this model's width first, and write around the forward pass over these tokens alone.",
    )
