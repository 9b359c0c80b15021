"""Comparison: whose gradients are compared, on how many and which blocks, at which sites; fixed for a whole training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from crosstune.foundation.data import Row, Task, as_rows
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.gradients.blocks import Block, make_blocks
from crosstune.foundation.gradients.effective import names_of
from crosstune.foundation.gradients.gradients import evaluating
from crosstune.foundation.models import Anatomy, Site, check_supported
from crosstune.foundation.models.measuring import ask_gradients_of
from crosstune.interference.conflict.collect import (
    CurrentGradients,
    FrozenGradients,
    Pair,
    at_sites,
    collect_sums,
    fits,
    stale_name,
)
from crosstune.interference.conflict.cosine import (
    MIN_BLOCKS_FOR_INTERVALS,
    PairSums,
    agreement,
)
from crosstune.interference.conflict.settings import AgreementSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tasks = Mapping[str, Any] | Sequence[Task]


def read_comparable(tasks: Tasks) -> dict[str, tuple[Row, ...]]:
    """The rows of at least two tasks with unique names, in any form that `as_rows` takes; of a `Task`, its train rows."""
    listed = [] if isinstance(tasks, Mapping) else list(tasks)
    strange = [item for item in listed if not isinstance(item, Task)]
    if strange:
        raise DataError(
            "tasks",
            law="must be a mapping of names to rows, or Tasks",
            found=f"a sequence with {type(strange[0]).__name__}",
            remedy="Name the tasks: {'en': english_rows, 'bn': bengali_rows}.",
        )
    named = list(tasks.items()) if isinstance(tasks, Mapping) else [(t.name, t) for t in listed]
    names = [name for name, _ in named]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise DataError(
            "tasks",
            law="must have unique names",
            found=f"{twice[0]!r} {names.count(twice[0])} times",
            remedy="Rename one of them.",
        )
    if len(named) < 2:
        raise DataError(
            "tasks",
            law="must be at least two, for agreement is a matter of pairs",
            found=f"{len(named)} ({', '.join(map(str, names)) or 'none'})",
            remedy="Add the task you train on, or another reference.",
        )
    return {str(name): as_rows(rows, f"tasks[{name!r}]") for name, rows in named}


@dataclass(frozen=True)
class Comparison:
    """Tasks made comparable: their blocks, the sites that are compared, and the parameters these need."""

    blocks: Mapping[str, tuple[Block, ...]]  # by task
    anatomy: Anatomy  # of every parameter that a gradient is taken of
    chosen: tuple[int, ...]  # indices in `anatomy.sites` of the sites that are compared
    settings: AgreementSettings

    @classmethod
    def prepare(
        cls,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Mapping[str, Sequence[Row]],
        settings: AgreementSettings,
        blocks: int,
    ) -> Comparison:
        """The comparison of these tasks on a model, with this many blocks each, at any state of its weights."""
        check_supported(model)
        anatomy = Anatomy.of(model).only(names_of(model, settings.weights))
        sites = [site for site in anatomy.sites if _is_wanted(site, settings)]
        _check_selection(anatomy, sites, settings)
        needed = {part.parameter for part in anatomy.parts if part.site in set(sites)}
        anatomy = anatomy.only(needed)
        wanted = tuple(place for place, site in enumerate(anatomy.sites) if site in set(sites))
        made = {
            task: make_blocks(task, rows, tokenizer, settings.block_settings(blocks))
            for task, rows in tasks.items()
        }
        return cls(made, anatomy, wanted, settings)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every pair of tasks, in the order the tasks were given."""
        return tuple(combinations(self.blocks, 2))

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites that are compared."""
        return tuple(self.anatomy.sites[place] for place in self.chosen)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters a gradient is taken of."""
        return tuple(dict.fromkeys(part.parameter for part in self.anatomy.parts))

    @property
    def keeps(self) -> bool:
        """Whether all block gradients of one state fit into memory and are computed once."""
        total = sum(len(blocks) for blocks in self.blocks.values())
        return fits(total, self.anatomy, self.settings.keep_gib)

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """A context in which the gradients of the compared parameters can be computed."""
        with evaluating(model, self.settings.gradient_settings()):
            ask_gradients_of(model, self.parameters)
            yield

    def sums(
        self, model: nn.Module, frozen: Mapping[str, FrozenGradients] | None = None
    ) -> dict[str, dict[Pair, PairSums]]:
        """The sums of every pair at the state the model is in, by reference: ``"current"`` and, if given, ``"frozen"``."""
        with self.evaluating(model):
            sources = self._sources(model)
            result = {"current": collect_sums(list(sources.values()), self.pairs, self.anatomy)}
            if frozen:
                result["frozen"] = self._stale(sources, frozen)
        return {
            reference: {pair: at_sites(value, self.chosen) for pair, value in sums.items()}
            for reference, sums in result.items()
        }

    def snapshot(self, model: nn.Module) -> dict[str, FrozenGradients]:
        """The gradients, at this state, of every task that is the first of a pair."""
        firsts = list(dict.fromkeys(a for a, _ in self.pairs))
        with self.evaluating(model):
            sources = self._sources(model)
            return {task: FrozenGradients.of(sources[task]) for task in firsts}

    def _sources(self, model: nn.Module) -> dict[str, CurrentGradients]:
        settings = self.settings.gradient_settings()
        return {
            task: CurrentGradients(model, blocks, self.parameters, settings, self.keeps)
            for task, blocks in self.blocks.items()
        }

    def _stale(
        self, sources: Mapping[str, CurrentGradients], frozen: Mapping[str, FrozenGradients]
    ) -> dict[Pair, PairSums]:
        stale = {(a, b): (stale_name(a), b) for a, b in self.pairs}
        seconds = [source for task, source in sources.items() if task in {b for _, b in stale}]
        sums = collect_sums([*frozen.values(), *seconds], list(stale.values()), self.anatomy)
        return {pair: sums[name] for pair, name in stale.items()}


def _is_wanted(site: Site, settings: AgreementSettings) -> bool:
    layer_fits = settings.layers is None or site.layer in settings.layers
    return layer_fits and (settings.components is None or site.component in settings.components)


def _check_selection(anatomy: Anatomy, chosen: Sequence[Site], settings: AgreementSettings) -> None:
    known: dict[str, list[Any]] = {
        "layers": sorted({site.layer for site in anatomy.sites if site.layer is not None}),
        "components": list(dict.fromkeys(site.component for site in anatomy.sites)),
    }
    for argument, names in known.items():
        unknown = [name for name in getattr(settings, argument) or () if name not in names]
        if unknown:
            raise SettingsError(
                argument,
                law="must be trainable places of this model",
                found=repr(unknown[0]),
                remedy=f"Choose among {', '.join(map(str, names))}.",
            )
    if not chosen:
        raise SettingsError(
            "layers, components",
            law="must leave at least one site",
            found=f"layers {settings.layers} and components {settings.components}",
            remedy="Leave one of them out.",
        )


def choose_blocks(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Mapping[str, Sequence[Row]],
    settings: AgreementSettings,
) -> int:
    """The number of blocks per task: the given one, or what a pilot run of 8 blocks says, as far as rows and budget allow.

    The pilot's median interval width over the resolved sites of all pairs is taken to shrink as 1/√K, the slowest it can;
    where no site is resolved the whole budget is used.
    """
    if settings.blocks != "auto":
        return settings.blocks
    pilot = MIN_BLOCKS_FOR_INTERVALS
    comparison = Comparison.prepare(model, tokenizer, tasks, settings, pilot)
    found = comparison.sums(model)["current"].values()
    values = [agreement(sums, settings.level) for sums in found]
    widths = torch.cat([(v.cosine.high - v.cosine.low)[v.resolved] for v in values])
    budget = min(settings.max_blocks, *(_fillable(rows, settings) for rows in tasks.values()))
    if widths.numel() == 0:
        return max(pilot, budget)
    enough = math.ceil(pilot * (float(widths.median()) / settings.interval_width) ** 2)
    return max(pilot, min(budget, enough))


def _fillable(rows: Sequence[Row], settings: AgreementSettings) -> int:
    """Blocks that can surely be filled: every unit gives at least one row."""
    return len({row.unit for row in rows}) // settings.rows_per_block
