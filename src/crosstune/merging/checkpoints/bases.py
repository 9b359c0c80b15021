"""The base model under adapters: which it is, and that every adapter of a repair is one of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from crosstune.foundation.errors import CheckpointError, StorageError, UnsupportedError
from crosstune.merging.checkpoints.adapters import (
    base_weights,
    is_adapter_folder,
    unwrap,
)
from crosstune.merging.checkpoints.compatibility import check_same_config, fit, listed
from crosstune.merging.checkpoints.opening import End, Opening, compare
from crosstune.merging.checkpoints.plain_lora import active_adapter, read_config
from crosstune.merging.checkpoints.weights import HeldWeights, Weights


@dataclass(frozen=True)
class Base:
    """The one base model of all adapters.

    Args:
        source: Where it comes from: a folder, a hub id, a model or a PEFT model in memory.
    """

    model: Any
    source: End
    weights: Weights
    fingerprint: str
    notes: tuple[str, ...]


def has_lora_layers(end: object) -> bool:
    """Whether a module holds LoRA layers."""
    return isinstance(end, nn.Module) and any(isinstance(m, LoraLayer) for m in end.modules())


def open_base(ends: Mapping[str, End], opening: Opening) -> Base:
    """The base: under `after` if that is in memory, else `before` if that is a plain model, else named by `after`."""
    source = _source(ends)
    for role, end in ends.items():
        _check_kind(role, end, ends["after"])
    opening.config(source, "base")
    if isinstance(source, PeftModel):
        model = unwrap(opening.work_model(source, "after"))
        weights, note = fit(HeldWeights(dict(base_weights(source))), model, "base"), ""
    else:
        model = opening.work_model(source, "base")
        weights, note = opening.weights(source, model, "base")
    model.requires_grad_(False)
    _, fingerprints = compare({"base": weights}, model)
    base = Base(model, source, weights, fingerprints["base"], ())
    notes = [note, *(_difference(role, ends, base, opening) for role in ends)]
    return Base(model, source, weights, base.fingerprint, tuple(note for note in notes if note))


def _source(ends: Mapping[str, End]) -> End:
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


def _check_kind(role: str, end: End, after: End) -> None:
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


def _difference(role: str, ends: Mapping[str, End], base: Base, opening: Opening) -> str:
    """What should be said about an end's base; raises if it is known to be another one."""
    end, before = ends[role], ends["before"]
    if end is base.source or (has_lora_layers(end) and not isinstance(end, PeftModel)):
        return ""
    if is_adapter_folder(end):
        given = isinstance(base.source, nn.Module) or base.source is before
        return _named_difference(role, str(end), base, given=given)
    check_same_config(opening.config(end, role), base.model.config, role)
    if isinstance(end, PeftModel):
        weights, note = fit(HeldWeights(dict(base_weights(end))), base.model, role), ""
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
    if _one_place(named, source):
        return ""
    if not given:
        raise CheckpointError(
            role,
            law="must be an adapter of the base of `after`",
            found=f"an adapter of {named}, where `after` is one of {source}",
            remedy="Give two adapters of one base, or merge each into its base and give full models.",
        )
    return f"`{role}` is an adapter of {named}; it was put on {source}."


def _one_place(one: str, other: str) -> bool:
    return one == other or Path(one).resolve() == Path(other).resolve()
