"""The ends of a repair: the checkpoints between which the weights may lie, and the model that holds a point.

`open_ends` checks that they belong together and compares them tensor by tensor: of a pair of folders, one whole
model is in memory, the one that is worked on; tensors of the ends are read from their files when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, SettingsError, StorageError
from crosstune.foundation.models import (
    check_supported,
    load_model,
    load_tokenizer,
    read_config,
)
from crosstune.interference.repair.copies import bare_copy, widen
from crosstune.interference.repair.fitting import (
    about,
    check_dtypes,
    check_names,
    check_same_config,
    check_same_tokenizer,
    check_tensor,
    fitted,
    refuse_quantised,
)
from crosstune.interference.repair.weights import (
    Digest,
    HeldWeights,
    StoredWeights,
    Weights,
    all_names,
)

End = nn.Module | str | Path
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Parent:
    """Where weights of a repaired model come from.

    Args:
        role: ``before``, ``between[0]``, ``after`` or ``base``.
        source: The folder or hub id, or what kind of model in memory it was.
        fingerprint: Sixteen hexadecimal digits of its weights; the same in memory and on disk.
    """

    role: str
    source: str
    fingerprint: str


@dataclass(frozen=True)
class Ends:
    """The checkpoints that span the box of a repair.

    Args:
        model: The work model, whose weights are moved between the ends; in eval mode, at `after` at first.
        kind: ``full``, or ``lora`` where only factors B of an adapter move.
        names: The parameters of `model` that differ between any two ends, in the model's order.
        weights: For each end, `before` first and `after` last, its tensors under the model's names.
        tokenizer: The ends' tokenizer.
        parents: Where the ends come from.
        notes: What was done that costs memory or time beyond the usual, and why.
    """

    model: Any
    kind: str
    names: tuple[str, ...]
    weights: tuple[Weights, ...]
    tokenizer: Any
    parents: tuple[Parent, ...]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of ends after `before`: 1 for a pair, more for a soup."""
        return len(self.weights) - 1

    def tensor(self, at: int, name: str) -> Tensor:
        """The tensor of one end, on the CPU, as stored; it may share storage with a model, so do not write to it.

        Args:
            at: 0 for `before`, up to `count` for `after`.
            name: A parameter of `model`.

        Returns:
            The tensor.
        """
        return self.weights[at].tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype in which `after` keeps a parameter of `model`."""
        return self.weights[-1].dtype(name) or self.weights[-1].tensor(name).dtype


def open_ends(
    before: End,
    after: End,
    *,
    between: Sequence[End] = (),
    tokenizer: Any = None,
    device: str = "cpu",
    precision: str = "float32",
    trust_remote_code: bool = False,
) -> Ends:
    """The ends, checked to belong together, with a work model of their own at `after`.

    Models in memory are never touched. Half-precision weights are worked on in float32 unless precision is
    ``model``; float64 stays float64.

    Args:
        before: A model, or the folder or hub id of one.
        after: Likewise.
        between: Checkpoints of the same training between the two, for a soup.
        tokenizer: Their tokenizer; by default the one in the folder of `after`.
        device: Where the work model goes.
        precision: ``float32`` or ``model``.
        trust_remote_code: Whether code that comes with a model may run.

    Returns:
        The ends.

    Raises:
        CheckpointError: Architecture, tokenizer, names, shapes or dtypes differ; the difference is shown.
        ModelError: Weights are not finite, or there is no tokenizer.
        SettingsError: `precision` is unknown.
        StorageError: A folder or file is missing or not whole.
        UnsupportedError: Weights are quantised or sharded.
    """
    if precision not in ("float32", "model"):
        raise SettingsError(
            "precision",
            law="must be 'float32' or 'model'",
            found=repr(precision),
            remedy="Use 'float32'; half-precision losses move by more than a coefficient does.",
        )
    opening = _Opening(device, precision, trust_remote_code)
    middle = {f"between[{index}]": end for index, end in enumerate(between)}
    return _full({"before": before, **middle, "after": after}, tokenizer, opening)


@dataclass(frozen=True)
class _Opening:
    """How models are read."""

    device: str
    precision: str
    trust_remote_code: bool

    def config(self, end: End) -> Any:
        if isinstance(end, nn.Module):
            return getattr(end, "config", None)
        return read_config(end, trust_remote_code=self.trust_remote_code)

    def work_model(self, end: End, wide: bool) -> Any:
        """A model of its own, at this end's weights."""
        if isinstance(end, nn.Module):
            model = bare_copy(end)
            if self.precision != "model":
                widen(model)
            return model.to(self.device)
        dtype = "auto" if self.precision == "model" else "float64" if wide else "float32"
        return load_model(
            end, dtype=dtype, device=self.device, trust_remote_code=self.trust_remote_code
        )

    def held(self, end: str | Path) -> HeldWeights:
        return HeldWeights.of(load_model(end, trust_remote_code=self.trust_remote_code))


def _full(ends: Mapping[str, End], tokenizer: Any, opening: _Opening) -> Ends:
    _check_configs(ends, opening)
    tokenizer = _tokenizer(ends, tokenizer, opening)
    stored = {role: _stored(end, role) for role, end in ends.items()}
    with about("after"):
        model = opening.work_model(ends["after"], _is_wide(stored["after"]))
    notes: list[str] = []
    weights: dict[str, Weights] = {}
    for role, end in ends.items():
        weights[role], note = _weights(end, stored[role], model, role, opening)
        notes += [note] if note else []
    names, fingerprints = _compare(weights, model)
    parents = [
        Parent(role, _source(end), digest)
        for (role, end), digest in zip(ends.items(), fingerprints, strict=True)
    ]
    return Ends(
        model=model,
        kind="full",
        names=names,
        weights=tuple(weights.values()),
        tokenizer=tokenizer,
        parents=tuple(parents),
        notes=tuple(notes),
    )


def _check_configs(ends: Mapping[str, End], opening: _Opening) -> None:
    configs = {}
    for role, end in ends.items():
        with about(role):
            configs[role] = opening.config(end)
            if isinstance(end, nn.Module):
                check_supported(end)
        refuse_quantised(configs[role], role)
    for role, config in configs.items():
        check_same_config(config, configs["after"], role)


def _tokenizer(ends: Mapping[str, End], given: Any, opening: _Opening) -> Any:
    """The tokenizer of the ends, once those that any folder has were found to be the same."""
    found = {} if given is None else {"tokenizer": given}
    for role in reversed(list(ends)):
        end = ends[role]
        if not isinstance(end, nn.Module) and _has_tokenizer(end):
            with about(role):
                found[role] = load_tokenizer(end, trust_remote_code=opening.trust_remote_code)
    if not found:
        raise ModelError(
            "tokenizer",
            law="must be given where no end's folder has one",
            found="none",
            remedy="Pass tokenizer=....",
        )
    reference = found.get("after", next(iter(found.values())))
    for role, tokenizer in found.items():
        check_same_tokenizer(tokenizer, reference, role)
    return found.get("tokenizer", reference)


def _has_tokenizer(end: str | Path) -> bool:
    folder = Path(end)
    return not folder.is_dir() or any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _stored(end: End, role: str) -> StoredWeights | None:
    if isinstance(end, nn.Module) or not Path(end).is_dir():
        return None
    with about(role):
        return StoredWeights.of(Path(end))


def _is_wide(stored: StoredWeights | None) -> bool:
    return stored is not None and any(
        stored.dtype(name) == torch.float64 for name in stored.names()
    )


def _weights(
    end: End, stored: StoredWeights | None, model: nn.Module, role: str, opening: _Opening
) -> tuple[Weights, str]:
    """One end's weights under the model's names, and a note where they had to be read into memory."""
    if isinstance(end, nn.Module):
        held = HeldWeights.of(end)
        check_names(held, model, role)
        return fitted(held, model) or held, ""
    if stored is not None:
        streamed = fitted(stored, model)
        if streamed is not None and (role != "after" or _is_at(model, streamed)):
            return streamed, ""
    try:
        with about(role):
            held = opening.held(end)
    except StorageError:
        if stored is not None:
            check_names(stored, model, role)
        raise
    check_names(held, model, role)
    return fitted(held, model) or held, f"{role} was read into memory."


def _is_at(model: nn.Module, weights: Weights) -> bool:
    """Whether the files hold what transformers made of them; it converts some layouts while loading."""
    return all(
        torch.equal(parameter.detach().cpu(), weights.tensor(name).to(parameter.dtype))
        for name, parameter in model.named_parameters()
    )


def _compare(weights: Mapping[str, Weights], model: nn.Module) -> tuple[tuple[str, ...], list[str]]:
    """The names of what differs between any two ends, and each end's fingerprint; one tensor is held at a time."""
    known = tuple(all_names(model))
    check_dtypes(weights, known)
    digests = {role: Digest() for role in weights}
    names = []
    for name in known:
        first: Tensor | None = None
        differs = False
        for role, end in weights.items():
            tensor = end.tensor(name)
            check_tensor(tensor, role, name)
            digests[role].add(name, tensor)
            first = tensor if first is None else first
            differs = differs or not torch.equal(tensor, first)
        names += [name] if differs else []
    return tuple(names), [str(digest) for digest in digests.values()]


def _source(end: End) -> str:
    return f"{type(end).__name__} in memory" if isinstance(end, nn.Module) else str(end)
