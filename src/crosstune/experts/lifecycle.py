"""What becomes of experts in a frozen model: they are born, learn again, stop in part, grow, become one, and go."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from crosstune.experts.bank.exports import export, weighed
from crosstune.experts.bank.log import Bank, Event, Expert
from crosstune.experts.bank.replay import Replay
from crosstune.experts.gated import factors, gated, pairs
from crosstune.experts.routing.learned import LearnedRouter
from crosstune.experts.routing.passes import Routing
from crosstune.experts.routing.prefix import PrefixRouter
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.errors import ModelError, SettingsError, hold
from crosstune.foundation.models import Stream
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.settings.options import at_least, one_of

Figures: TypeAlias = Mapping[str, float] | None
"""What was measured when something was decided, for the log; what is not finite was not measured."""
Grown: TypeAlias = Mapping[nn.Parameter, nn.Parameter]
"""Parameters, and those that took their place."""


class Lifecycle(nn.Module):
    """A frozen model and its experts: each change is an event of the bank, and what learns is what the bank says."""

    def __init__(self, model: Any, router: RouterSettings, *, site: int, seed: int) -> None:
        super().__init__()
        law = "must have no adapters: they would be part of what stays as it is"
        remedy = "Load the base model anew, or merge the adapter into it first."
        bare = not any(isinstance(module, BaseTunerLayer) for module in model.modules())
        hold(bare, ModelError, "model", (law, "a model with PEFT layers in it", remedy))
        stream = Stream.of(model)
        words = f"must be from 0 to {stream.num_layers - 1}", site, "Use 0, the embeddings."
        hold(site in range(stream.num_layers), SettingsError, "site", words)
        self.model: Any = model.requires_grad_(False)
        self.site, self.seed = site, seed
        self.bank, self.replay = Bank(), Replay(seed=seed)
        self.tuning: dict[str, Tensor] = {}
        self.library: dict[str, Tensor] = {}
        self.router: PrefixRouter | LearnedRouter | None = None
        self.routing = Routing(self, stream, site, router)
        if router.kind == "learned":
            sites, device = range(site, stream.num_layers), next(model.parameters()).device
            self.router = LearnedRouter(sites, stream.width, router.reads).to(device)
        linear = [
            (path.rpartition(".")[2], sum(module.weight.shape))
            for block in self.routing.blocks.values()
            for path, module in block.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        ]
        self._linear = tuple(sorted({name for name, _ in linear}))
        self._elements = sum(size for _, size in linear)

    def spawn(
        self,
        name: str,
        *,
        rank: int = 16,
        alpha: float | None = None,
        targets: Sequence[str] = (),
        parent: str | None = None,
        figures: Figures = None,
    ) -> Expert:
        """A new expert that adds nothing yet, and learns from now on; all others are frozen.

        With a learned router it shares the gate of its parent, and no output changes.

        Args:
            alpha: The update is scaled by alpha / rank; twice the rank where it is not given.
            targets: Names of the modules it adapts; all linear ones in the blocks from the router's site upward if none.
            parent: The expert that it begins as a copy of, scale and targets included; the model itself where none is given.

        Raises:
            SettingsError: The name is taken or cannot be a folder's, or the rank is below 1 or the parent's.
            TrainingError: Another expert is still learning.
        """
        self.bank.check_idle("spawn")
        adapter = self.bank.adapter_name(name)
        copied = None if parent is None else self.bank.expert(parent)
        at_least("rank", rank, copied.rank if copied else 1)
        words = "must come without alpha and targets: it brings its own", parent, "Leave these out."
        hold(not copied or not (targets or alpha), SettingsError, "parent", words)
        if copied:
            alpha, targets = copied.alpha * rank / copied.rank, copied.targets
        alpha = 2.0 * rank if alpha is None else float(alpha)
        positive = isfinite(alpha) and alpha > 0.0
        hold(positive, SettingsError, "alpha", ("must be positive", alpha, "Leave it out."))
        unknown = sorted(set(targets) - set(self._linear))
        linear = f"Use some of {', '.join(self._linear)}."
        strange = "must be linear modules of the blocks", ", ".join(unknown), linear
        hold(not unknown, SettingsError, "targets", strange)
        expert = Expert(name, adapter, rank, alpha, tuple(targets) or self._linear)
        self._add(expert)
        if copied:
            pair = (factors(self.model, some) for some in (adapter, copied.adapter))
            for mine, own in zip(*pair, strict=True):  # what is left of A is random, of B zero
                mine.data[: own.shape[0], : own.shape[1]] = own
        if isinstance(self.router, LearnedRouter):
            self.router.split(name, adapter, parent)
        self._happened(Event("spawn", name, expert), figures)
        return expert

    def _add(self, expert: Expert) -> None:
        """Put an expert's factors into the layers, frozen."""
        config = gated(
            r=expert.rank,
            lora_alpha=expert.alpha,
            target_modules=list(expert.targets),
            layers_to_transform=list(self.routing.blocks) if self.site else None,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self.model.modules()),
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            # PEFT asks transformers by an old name.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            torch.manual_seed(Seeds(self.seed).derive("expert", expert.name))
            if isinstance(self.model, PeftModel):
                self.model.add_adapter(expert.adapter, config)
            else:
                self.model = get_peft_model(self.model, config, adapter_name=expert.adapter)
        self.routing.follow()
        self.model.requires_grad_(False)

    def parameters_at(self, rank: int) -> int:
        """How many an expert of a rank has that adapts all it may."""
        return rank * self._elements

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """An expert's factors."""
        return factors(self.model, self.bank.expert(name).adapter)

    def unfreeze(self, name: str, figures: Figures = None) -> None:
        """A known skill's expert learns again, as after its birth, until the skill is registered again."""
        self.bank.check_idle("unfreeze")
        if isinstance(self.router, LearnedRouter):
            self.router.remember()
        self._happened(Event("unfreeze", self.bank.expert(name).name), figures)

    def freeze(self, name: str, targets: Sequence[str], figures: Figures = None) -> None:
        """Some projections of the expert that learns, by their names among its targets, stay as they are from now on."""
        own = self.bank.expert(name).targets
        self.bank.check_idle("freeze", but=name)
        for target in targets:
            one_of("targets", target, own)
        self._happened(Event("freeze", name, others=tuple(targets)), figures)

    def grow(self, name: str, rank: int | None = None, figures: Figures = None) -> Grown:
        """The expert that learns gets more rank, twice what it had if none is given, and computes what it did.

        New rows of A are drawn, new columns of B are zero, and alpha / rank stays. Its factors are new parameters, which are
        returned by the old ones: `pad_optimizer` lets an optimizer go on with them.
        """
        old = self.bank.expert(name)
        self.bank.check_idle("grow", but=name)
        rank = 2 * old.rank if rank is None else rank
        at_least("rank", rank, old.rank + 1)
        expert = replace(old, rank=rank, alpha=old.alpha * rank / old.rank)
        draws, grown = Seeds(self.seed).torch("grow", name, rank), {}
        for layer, narrow, wide in pairs(self.model, old.adapter):
            more = 2 * torch.rand(rank - old.rank, narrow.in_features, generator=draws) - 1
            more = (more / sqrt(narrow.in_features)).to(narrow.weight)  # as PEFT draws A
            longer = torch.cat([narrow.weight.detach(), more])
            wider = functional.pad(wide.weight.detach(), (0, len(more)))
            for linear, value in ((narrow, longer), (wide, wider)):
                before, linear.weight = linear.weight, nn.Parameter(value)
                grown[cast(nn.Parameter, before)] = linear.weight
            narrow.out_features = wide.in_features = layer.r[old.adapter] = rank
        config = self.model.peft_config[old.adapter]
        config.r, config.lora_alpha = rank, expert.alpha
        self._happened(Event("grow", name, expert), figures)
        return grown

    def merge(
        self,
        usage: Mapping[str, float],
        into: str,
        rank: int | None = None,
        figures: Figures = None,
    ) -> Expert:
        """Experts of known skills become one, whose update is the mean of theirs by usage; it answers where any of them did.

        The mean is exact, with factors side by side, or where a rank is given the nearest update of that rank.
        """
        self.bank.check_idle("merge")
        experts = [self.bank.expert(name) for name in usage]
        alike = len({frozenset(expert.targets) for expert in experts}) == 1 and len(experts) > 1
        found = {expert.name: (usage[expert.name], expert.targets) for expert in experts}
        law = "must be finite, from 0 up, of two or more experts with the same targets"
        kept = alike and isfinite(sum(usage.values())) and min(usage.values()) >= 0
        hold(kept, SettingsError, "usage", (law, found, "Merge those that adapt the same modules."))
        shares = {self.bank.expert(name): share for name, share in shares_of(usage).items()}
        most = sum(expert.rank for expert in experts) if rank is None else rank
        at_least("rank", most, 1)
        adapter = self.bank.adapter_name(into)
        merged = Expert(into, adapter, most, float(most), experts[0].targets)
        self._add(merged)
        for layer, narrow, wide in pairs(self.model, adapter):
            a, b = weighed(layer, shares)
            if rank is not None:
                a, b = nearest(a, b, rank)
            narrow.weight.data.copy_(a)
            wide.weight.data.copy_(b)
        for gone in experts:
            self._remove(gone.adapter)
        if self.tuning:
            self.tuning[into] = torch.cat([self.tuning.pop(name) for name in usage])
        self.library[into] = torch.cat([self.library.pop(name) for name in usage])
        for part in (self.replay, cast(PrefixRouter | LearnedRouter, self.router)):
            part.merge(tuple(usage), into)
        self._tune()
        self._happened(Event("merge", into, merged, tuple(usage)), figures)
        return merged

    def evict(self, name: str, figures: Figures = None) -> None:
        """An expert goes, one that learns too, and all is as if its skill had never come; what was saved of it stays on disk."""
        adapter = self.bank.expert(name).adapter
        if self.bank.learning != name:
            self.bank.check_idle("evict")
        elif isinstance(self.router, LearnedRouter):
            self.router.undo()
        self._remove(adapter)
        for kept in (self.tuning, self.library, self.replay.rows):
            kept.pop(name, None)
        if self.router is not None and name in self.router.names:
            self.router.forget(name)
        self._tune()
        self._happened(Event("evict", name), figures)

    def export(self, folder: Path | str, weights: str | Mapping[str, float]) -> Path:
        """Write one expert, or the constant mixture Σ weight · update of several, as an adapter that servers take."""
        weights = {weights: 1.0} if isinstance(weights, str) else weights
        shares = {self.bank.expert(name): share for name, share in weights.items()}
        return export(self.model, folder, shares)

    def _happened(self, event: Event, figures: Figures) -> None:
        """Record an event; let learn what the bank says, and leave an optimizer no gradient of anything else."""
        found = {name: float(value) for name, value in (figures or {}).items() if isfinite(value)}
        self.bank.record(replace(event, figures=found))
        self.requires_grad_(False)
        if self.bank.learning is not None:
            if isinstance(self.router, LearnedRouter):
                self.router.requires_grad_(True)
                self.routing.step = 0
            adapter = self.bank.experts[self.bank.learning].adapter
            for factor in factors(self.model, adapter, but=self.bank.frozen):
                factor.requires_grad_(True)
        for parameter in self.parameters():
            if not parameter.requires_grad:
                parameter.grad = None

    def _remove(self, adapter: str) -> None:
        """Take an expert's factors out of the layers, and with the last one PEFT out of the model."""
        others = [name for name in self.model.peft_config if name != adapter]
        if others:
            self.model.set_adapter(others[0])  # PEFT warns where it must choose
            self.model.delete_adapter(adapter)
        else:
            self.model = self.model.unload()

    def _tune(self) -> None:
        """Choose the router's temperature anew; of one skill any will do."""
        if len(self.tuning) > 1:
            cast(PrefixRouter, self.router).tune(self.tuning)


def shares_of(usage: Mapping[str, float]) -> dict[str, float]:
    """Shares by usage that sum to 1, all alike where nobody is used."""
    total = sum(usage.values())
    return {name: share / total if total else 1 / len(usage) for name, share in usage.items()}


def nearest(narrow: Tensor, wide: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank] of the update of that rank that is nearest to B A, from factors alone."""
    left, r_left = torch.linalg.qr(wide.double())
    right, r_right = torch.linalg.qr(narrow.double().T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    root, rest = s[:rank].sqrt(), (0, max(0, rank - len(s)))
    found = functional.pad(right @ v[:rank].T * root, rest).T
    return found.to(narrow), functional.pad(left @ u[:, :rank] * root, rest).to(wide)


def pad_optimizer(optimizer: torch.optim.Optimizer, grown: Grown) -> None:
    """An optimizer goes on with grown parameters; what it keeps of every element, such as Adam's moments, is 0 where they are new."""
    for group in optimizer.param_groups:
        group["params"] = [grown.get(value, value) for value in group["params"]]
    for old in grown.keys() & optimizer.state.keys():
        state = optimizer.state[grown[old]] = optimizer.state.pop(old)
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == old.shape:
                state[name] = torch.zeros_like(grown[old], dtype=value.dtype)
                state[name][tuple(slice(size) for size in old.shape)] = value
