"""The endpoint checkpoints of a repair, between which the weights may lie, and the model that holds a point.

`open_endpoints` checks that they belong together and compares them tensor by tensor: of a pair of folders, one whole
model is in memory, the one that is worked on; the checkpoints' tensors are read from their files when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.settings.options import one_of
from crosstune.merging.checkpoints.adapters import (
    Adapter,
    adapter_of,
    fill,
    is_adapter_folder,
    plain_name,
    read_adapter,
    wrap,
)
from crosstune.merging.checkpoints.compatibility import check_dtypes
from crosstune.merging.checkpoints.joint_lora import Base, has_lora_layers, join, open_base
from crosstune.merging.checkpoints.live import snapshot
from crosstune.merging.checkpoints.opening import Checkpoint, Opening, compare, source_of
from crosstune.merging.checkpoints.weights import Weights, all_names, fingerprint_of, in_memory


@dataclass(frozen=True)
class Parent:
    """Where weights of a repaired model come from; the fingerprint is the same in memory and on disk."""

    role: str
    source: str
    fingerprint: str


@dataclass(frozen=True)
class Endpoints:
    """The checkpoints that span the interpolation space of a repair.

    Args:
        model: The work model, whose weights are moved; in eval mode, at `after` at first.
        kind: ``full``, or ``lora`` where one factor of each adapted module moves: B, but where `by_input` says A.
        names: The parameters of `model` that differ between any two checkpoints, in the model's order.
        weights: For each checkpoint, `before` first and `after` last, its tensors under the model's names.
        stored: The dtype in which `after` keeps each parameter of `model`.
        tokenizer: The checkpoints' tokenizer.
        parents: Where they come from.
        notes: What should be known about how they were read.
    """

    model: Any
    kind: str
    names: tuple[str, ...]
    weights: tuple[Weights, ...]
    stored: Mapping[str, torch.dtype]
    tokenizer: Any
    parents: tuple[Parent, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def in_place(cls, model: Any, before: Mapping[str, Tensor], tokenizer: Any) -> Endpoints:
        """The endpoints of a stage of training, with the live model itself to work on.

        Of an adapter, A stays where it is and B moves; so B must have been zero at the start, or A not trained.

        Args:
            model: The model at the end of the stage, unwrapped; its trainable parameters are copied to the CPU.
            before: What its trainable parameters were at the start.
            tokenizer: Its tokenizer.

        Returns:
            The endpoints; nothing of the model was changed.

        Raises:
            CheckpointError: `before` does not have the model's trainable parameters.
            ModelError: Weights are not finite.
            UnsupportedError: The model is sharded or quantised, or an adapter was not fresh at the start.
        """
        names, weights = snapshot(model, before)
        sources = ("parameters at the start of the stage", source_of(model))
        parents = [
            Parent(role, source, fingerprint_of((n, one.read()) for n, one in end.items()))
            for role, source, end in zip(("before", "after"), sources, weights, strict=True)
        ]
        return cls(
            model=model,
            kind="lora" if isinstance(model, PeftModel) else "full",
            names=names,
            weights=weights,
            stored={name: value.dtype for name, value in model.named_parameters()},
            tokenizer=tokenizer,
            parents=tuple(parents),
        )

    @property
    def count(self) -> int:
        """The number of checkpoints after `before`: 1 for a pair, more for a soup."""
        return len(self.weights) - 1

    def tensor(self, at: int, name: str) -> Tensor:
        """A checkpoint's tensor on the CPU, as stored; it may share storage with a model, so do not write to it."""
        return self.weights[at][name].read()

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which `after` keeps a parameter of `model`."""
        return self.stored[name]


def open_endpoints(
    before: Checkpoint,
    after: Checkpoint,
    *,
    between: Sequence[Checkpoint] = (),
    tokenizer: Any = None,
    device: str = "cpu",
    precision: str = "float32",
    trust_remote_code: bool = False,
) -> Endpoints:
    """The endpoints, checked to belong together, with a work model of their own at `after`.

    Models in memory are never touched. Half-precision weights are worked on in float32 unless precision is
    ``model``; float64 stays float64. Where `after` is a LoRA adapter, `before` may be one too, or the base model;
    the work model then carries their joint adapter.

    Args:
        before: A model, a PEFT model, the folder of either, or a model's hub id.
        after: Likewise.
        between: Checkpoints of the same training between the two, for a soup.
        tokenizer: Their tokenizer; by default the one in the folder of `after`.
        device: Where the work model goes.
        precision: ``float32`` or ``model``.
        trust_remote_code: Whether code that comes with a model may run.

    Returns:
        The endpoints.

    Raises:
        CheckpointError: Architecture, tokenizer, names, shapes, dtypes or bases differ; the difference is shown.
        ModelError: Weights are not finite, or there is no tokenizer.
        SettingsError: `precision` is unknown.
        StorageError: A folder or file is missing or not whole.
        UnsupportedError: Weights are quantised or sharded, or an adapter is not a plain LoRA adapter.
    """
    remedy = "Use 'float32'; half-precision losses move by more than a coefficient does."
    one_of("precision", precision, ("float32", "model"), remedy)
    opening = Opening(device, precision, trust_remote_code)
    middle = {f"between[{index}]": end for index, end in enumerate(between)}
    ends = {"before": before, **middle, "after": after}
    adapted = {role: _is_adapter(end) for role, end in ends.items()}
    if adapted["after"]:
        return _lora(ends, tokenizer, opening)
    for role, end in ends.items():
        if adapted[role] or has_lora_layers(end):
            raise UnsupportedError(
                role,
                law="must be a full model, as `after` is",
                found="an adapter" if adapted[role] else "LoRA layers outside a PEFT model",
                remedy="Give adapters as PEFT models or folders on both sides, or merge them into their base.",
            )
    return _full(ends, tokenizer, opening)


def _is_adapter(end: Checkpoint) -> bool:
    return isinstance(end, PeftModel) or is_adapter_folder(end)


def _full(ends: Mapping[str, Checkpoint], tokenizer: Any, opening: Opening) -> Endpoints:
    opening.check_configs(ends)
    tokenizer = opening.tokenizer(ends, tokenizer)
    model = opening.work_model(ends["after"], "after")
    read = {role: opening.weights(end, model, role) for role, end in ends.items()}
    weights = {role: found for role, (found, _) in read.items()}
    names, fingerprints = compare(weights, model)
    parameters = dict(model.named_parameters())
    for name in names:
        parameters[name].requires_grad_(True)
    return Endpoints(
        model=model,
        kind="full",
        names=names,
        weights=tuple(weights.values()),
        stored={name: _dtype(weights["after"], name) for name in parameters},
        tokenizer=tokenizer,
        parents=tuple(Parent(r, source_of(end), fingerprints[r]) for r, end in ends.items()),
        notes=tuple(note for _, note in read.values() if note),
    )


def _lora(ends: Mapping[str, Checkpoint], tokenizer: Any, opening: Opening) -> Endpoints:
    base = open_base(ends, opening)
    tokenizer = opening.tokenizer({"base": base.source, **ends}, tokenizer)
    adapters = {role: _adapter(end, base, role) for role, end in ends.items()}
    factors = {role: in_memory(dict(a.tensors())) for role, a in adapters.items() if a}
    for role, own in factors.items():
        shared = [name for name in own if name in factors["after"]]
        check_dtypes({role: own, "after": factors["after"]}, shared)
    joint = join(tuple(adapters.values()), base.model)
    model = wrap(base.model, joint.config, "after")
    last = joint.ends[-1]
    fill(model, last)
    model.to(opening.device)
    names = {n for n in last if any(not torch.equal(end[n], last[n]) for end in joint.ends)}
    stored = {name: tensor.dtype for name, tensor in last.items()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
        if name not in stored:
            stored[name] = _dtype(base.weights, plain_name(name))
    return Endpoints(
        model=model,
        kind="lora",
        names=tuple(name for name in all_names(model) if name in names),
        weights=tuple(in_memory(tensors) for tensors in joint.ends),
        stored=stored,
        tokenizer=tokenizer,
        parents=_lora_parents(ends, adapters, base),
        notes=base.notes,
    )


def _adapter(end: Checkpoint, base: Base, role: str) -> Adapter | None:
    """The adapter of a checkpoint; None for the base itself."""
    if isinstance(end, PeftModel):
        return adapter_of(end, role)
    return read_adapter(base.model, end, role) if is_adapter_folder(end) else None  # type: ignore[arg-type]


def _lora_parents(
    ends: Mapping[str, Checkpoint], adapters: Mapping[str, Adapter | None], base: Base
) -> tuple[Parent, ...]:
    parents = [Parent("base", source_of(base.source), base.fingerprint)]
    for role, adapter in adapters.items():
        digest = base.fingerprint if adapter is None else fingerprint_of(adapter.tensors())
        parents.append(Parent(role, source_of(ends[role]), digest))
    return tuple(parents)


def _dtype(weights: Weights, name: str) -> torch.dtype:
    """A dtype that was checked to be a plain float."""
    dtype = weights[name].dtype
    assert dtype is not None
    return dtype
