"""The joint adapter: one LoRA adapter that can be each of several, and everything between, by its B alone; and its base.

Checkpoint j computes s_j B_j A_j. Stacked, A = [A_0; A_1; …] is the same for all, and checkpoint j is
B = [0 … s_j / s · B_j … 0]: linear in the coefficients, which the product B A of two moving factors is not.
Checkpoints with the same A share a block of the stack, and an adapter that changes nothing needs none, so that a
fresh adapter before a fine-tune leaves the rank, alpha and every bit of the adapter after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError, StorageError, UnsupportedError
from crosstune.merging.checkpoints.adapters import (
    Adapter,
    LoraFactors,
    active_adapter,
    base_weights,
    is_adapter_folder,
    parameter_name,
    read_config,
    unwrap,
)
from crosstune.merging.checkpoints.compatibility import check_same_config, fit, listed
from crosstune.merging.checkpoints.opening import Checkpoint, Opening, compare
from crosstune.merging.checkpoints.weights import Weights, in_memory


@dataclass(frozen=True)
class Joint:
    """One adapter for several checkpoints: for each of them its parameters by name, of which only B differs."""

    config: LoraConfig
    ends: tuple[Mapping[str, Tensor], ...]


@dataclass(frozen=True)
class _Block:
    """Checkpoints that share their A, padded with zeros where a module's rank is smaller."""

    first: Adapter
    members: tuple[int, ...]

    @property
    def rank(self) -> int:
        return max(factors.rank for factors in self.first.factors.values())


def join(ends: Sequence[Adapter | None], base: nn.Module) -> Joint:
    """The joint adapter of these, `after` last; None stands for the base without one.

    It keeps the rank, alpha and tensors of `after` where that is the only one that changes anything and has
    one rank and one scale throughout. Else its rank is the sum of the ranks, padded with zeros where modules
    differ in rank, and its scale is the common one, or 1 with all scales folded into B.
    """
    after = ends[-1]
    assert after is not None
    blocks = _blocks(ends) or (_Block(after, (len(ends) - 1,)),)
    config = _kept(blocks, after) or _stacked(blocks, after, base)
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    paths: dict[str, LoraFactors] = {}
    for block in blocks:
        paths = {**block.first.factors, **paths}
    made = []
    for number, end in enumerate(ends):
        tensors: dict[str, Tensor] = {}
        for path, example in paths.items():
            a = [_a(block, path, example) for block in blocks]
            b = [_b(block, path, example, end, number, scale) for block in blocks]
            tensors[parameter_name(path, "A")] = torch.cat(a, dim=1).flatten(0, 1)
            tensors[parameter_name(path, "B")] = torch.cat(b, dim=1).flatten(1, 2)
        made.append(tensors)
    return Joint(config, tuple(made))


def _blocks(ends: Sequence[Adapter | None]) -> tuple[_Block, ...]:
    blocks: list[_Block] = []
    for number, end in enumerate(ends):
        if end is None or end.changes_nothing:
            continue
        for place, block in enumerate(blocks):
            if _same_a(block.first, end):
                blocks[place] = replace(block, members=(*block.members, number))
                break
        else:
            blocks.append(_Block(end, (number,)))
    return tuple(blocks)


def _same_a(one: Adapter, other: Adapter) -> bool:
    return one.factors.keys() == other.factors.keys() and all(
        torch.equal(factors.a, other.factors[path].a) for path, factors in one.factors.items()
    )


def _kept(blocks: Sequence[_Block], after: Adapter) -> LoraConfig | None:
    """The configuration of `after`, where the joint adapter is of its shape and that is uniform."""
    config = after.config
    uneven = config.rank_pattern or config.alpha_pattern
    alone = len(blocks) == 1 and _same_a(blocks[0].first, after)
    return None if uneven or not alone else config


def _stacked(blocks: Sequence[_Block], after: Adapter, base: nn.Module) -> LoraConfig:
    rank = sum(block.rank for block in blocks)
    scales = {factors.scale for block in blocks for factors in block.first.factors.values()}
    scale = scales.pop() if len(scales) == 1 else 1.0
    if scale * rank / rank != scale:
        scale = 1.0  # a scale that rounding would change is folded into B instead
    alpha = scale * rank
    configs = [block.first.config for block in blocks]
    bare = {tuple(config.target_parameters or ()) for config in configs}
    if len(bare) > 1:
        raise UnsupportedError(
            "before",
            law="must adapt the same bare parameters as `after`",
            found=" and ".join(repr(names) for names in bare),
            remedy="Merge the adapters into their base and give full models.",
        )
    paths = {
        p for block in blocks for p, factors in block.first.factors.items() if not factors.bare
    }
    return LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]
        target_modules=_targets(paths, base),
        target_parameters=list(bare.pop()) or None,
        lora_dropout=after.config.lora_dropout,
        fan_in_fan_out=after.config.fan_in_fan_out,
        task_type=after.config.task_type,
        base_model_name_or_path=after.config.base_model_name_or_path,
        revision=after.config.revision,
    )


def _targets(paths: set[str], base: nn.Module) -> list[str]:
    """The last words of the modules' names where they mean these modules alone, else whole paths."""
    words = {path.rpartition(".")[2] for path in paths}
    meant = {name for name, _ in base.named_modules() if name.rpartition(".")[2] in words}
    return sorted(words if meant == paths else paths)


def _a(block: _Block, path: str, example: LoraFactors) -> Tensor:
    found = block.first.factors.get(path)
    a = example.a[:, :0] if found is None else found.a
    return torch.cat([a, a.new_zeros(a.shape[0], block.rank - a.shape[1], a.shape[2])], dim=1)


def _b(
    block: _Block, path: str, example: LoraFactors, end: Adapter | None, number: int, scale: float
) -> Tensor:
    found: Any = end.factors.get(path) if end is not None and number in block.members else None
    if found is None:
        return example.b.new_zeros(example.b.shape[0], block.rank, example.b.shape[2])
    b = found.b
    if found.scale != scale:
        wide = torch.promote_types(b.dtype, torch.float32)
        b = b.to(wide) * (found.scale / scale)
    pad = b.new_zeros(b.shape[0], block.rank - b.shape[1], b.shape[2])
    return torch.cat([b, pad], dim=1)


@dataclass(frozen=True)
class Base:
    """The one base model of all adapters."""

    model: Any
    source: Checkpoint
    weights: Weights
    fingerprint: str
    notes: tuple[str, ...]


def has_lora_layers(end: object) -> bool:
    """Whether a module holds LoRA layers."""
    return isinstance(end, nn.Module) and any(isinstance(m, LoraLayer) for m in end.modules())


def open_base(ends: Mapping[str, Checkpoint], opening: Opening) -> Base:
    """The base: under `after` if that is in memory, else `before` if that is a plain model, else named by `after`."""
    source = _source(ends)
    for role, end in ends.items():
        _check_kind(role, end, ends["after"])
    opening.config(source, "base")
    if isinstance(source, PeftModel):
        model = unwrap(opening.work_model(source, "after"))
        weights, note = fit(in_memory(base_weights(source)), model, "base"), ""
    else:
        model = opening.work_model(source, "base")
        weights, note = opening.weights(source, model, "base")
    model.requires_grad_(False)
    _, fingerprints = compare({"base": weights}, model)
    base = Base(model, source, weights, fingerprints["base"], ())
    notes = (note, *(_difference(role, ends, base, opening) for role in ends))
    return replace(base, notes=tuple(filter(None, notes)))


def _source(ends: Mapping[str, Checkpoint]) -> Checkpoint:
    before, after = ends["before"], ends["after"]
    if isinstance(after, PeftModel):
        return after
    if not isinstance(before, PeftModel) and not is_adapter_folder(before):
        return before
    named = read_config(str(after), "after").base_model_name_or_path
    if not named:
        raise StorageError(
            "after",
            law="must say which base model it is an adapter of",
            found="no base_model_name_or_path in its adapter_config.json",
            remedy="Write the base's folder or hub id there.",
        )
    return named


def _check_kind(role: str, end: Checkpoint, after: Checkpoint) -> None:
    if isinstance(end, PeftModel):
        active_adapter(end, role)
        return
    if is_adapter_folder(end):
        return
    if role != "before":
        raise UnsupportedError(
            role,
            law="must be an adapter, as `after` is",
            found=type(end).__name__ if isinstance(end, nn.Module) else f"{end}, a full model",
            remedy="Give the adapters of one training, or full models throughout.",
        )
    under = isinstance(after, PeftModel) and after.get_base_model() is end
    if has_lora_layers(end) and not under:
        raise UnsupportedError(
            role,
            law="must be a PEFT model, or a model without LoRA layers",
            found="LoRA layers outside a PEFT model",
            remedy="Give the PeftModel itself, or the folder of the base.",
        )


def _difference(role: str, ends: Mapping[str, Checkpoint], base: Base, opening: Opening) -> str:
    """What should be said about a checkpoint's base; raises if it is known to be another one."""
    end, before = ends[role], ends["before"]
    if end is base.source or (has_lora_layers(end) and not isinstance(end, PeftModel)):
        return ""
    if is_adapter_folder(end):
        given = isinstance(base.source, nn.Module) or base.source is before
        return _named_difference(role, str(end), base, given=given)
    check_same_config(opening.config(end, role), base.model.config, role)
    if isinstance(end, PeftModel):
        weights, note = fit(in_memory(base_weights(end)), base.model, role), ""
    else:
        weights, note = opening.weights(end, base.model, role)
    names, _ = compare({role: weights, "base": base.weights}, base.model)
    if names:
        raise CheckpointError(
            role,
            law="must be of the base model of `after`",
            found=f"{len(names)} of the base's tensors different: {listed(names)}",
            remedy="Give two adapters of one base, or merge each into its base and give full models.",
        )
    return note


def _named_difference(role: str, folder: str, base: Base, *, given: bool) -> str:
    """What to say of an adapter that names another base than it is put on, if the user chose that base."""
    named = read_config(folder, role).base_model_name_or_path or "no base"
    if isinstance(base.source, nn.Module):
        source = getattr(base.model, "name_or_path", "") or "a model in memory"
    else:
        source = str(base.source)
    if named == source or Path(named).resolve() == Path(source).resolve():
        return ""
    if not given:
        raise CheckpointError(
            role,
            law="must be an adapter of the base of `after`",
            found=f"an adapter of {named}, where `after` is one of {source}",
            remedy="Give two adapters of one base, or merge each into its base and give full models.",
        )
    return f"`{role}` is an adapter of {named}; it was put on {source}."
