"""Writing a repaired model: an ordinary checkpoint or adapter, whole or not at all, that says where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from crosstune.foundation.errors import SettingsError, StorageError
from crosstune.foundation.models import save_model
from crosstune.foundation.storage import canonical, write_json, write_text
from crosstune.merging.checkpoints.adapters import (
    active_adapter,
    adapter_of,
    file_key,
    layers_of,
    parameter_name,
    plain_name,
)
from crosstune.merging.checkpoints.endpoints import Endpoints, Parent
from crosstune.merging.checkpoints.joint_lora import join

_START, _END = "<!-- crosstune repair -->", "<!-- end of crosstune repair -->"


def card_of(parents: Sequence[Parent], text: str, *, kind: str) -> str:
    """The model card: that of ``after`` with a section on the repair in place of an earlier one, or a new one.

    The kind is ``full``, ``lora``, or ``merged``: no adapter any more, so the adapter's card is not its card.
    """
    after = next(parent for parent in parents if parent.role == "after")
    file = Path(after.source) / "README.md"
    if kind != "merged" and file.is_file():
        card = file.read_text(encoding="utf-8")
    else:
        library = "peft" if kind == "lora" else "transformers"
        card = (
            f"---\nlibrary_name: {library}\npipeline_tag: text-generation\n"
            "tags:\n- crosstune\n- repair\n---\n\n# Repaired language model"
        )
    if _START in card and _END in card:
        card = card.partition(_START)[0] + card.partition(_END)[2]
    return f"{card.rstrip()}\n\n{_section(parents, text)}\n"


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is, also inside a table's cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _section(parents: Sequence[Parent], text: str) -> str:
    rows = [
        f"| {escape(parent.role)} | {escape(parent.source)} | `{parent.fingerprint}` |"
        for parent in parents
    ]
    shown = text.replace("<", "&lt;").strip()
    lines = [
        _START,
        "## Repair",
        "",
        "These weights lie between those of the models below, without further training. The coefficients and "
        "what was measured are in `repair.json`.",
        "",
        "| part | model | fingerprint of the weights |",
        "| --- | --- | --- |",
        *rows,
        *(["", shown] if shown else []),
        _END,
    ]
    return "\n".join(lines)


def save_repaired(
    ends: Endpoints,
    folder: str | Path,
    *,
    manifest: Mapping[str, object],
    card: str,
    merge: bool = False,
) -> Path:
    """The folder holds what the work model holds now, in the dtypes of `after`, with its tokenizer.

    A full model becomes an ordinary Hugging Face checkpoint. An adapter becomes an ordinary PEFT adapter with one
    rank and one scale for all modules, or a full model it is merged into. Beside it lie ``repair.json`` (the
    manifest and the parents) and ``README.md`` (the model card, in which raw HTML is shown and not obeyed). A
    model in the folder is replaced, but none that this one comes from.
    """
    if merge and ends.kind == "full":
        raise SettingsError(
            "merge",
            law="must be False for a full model",
            found="True",
            remedy="Leave it out; there is no adapter to merge.",
        )
    for parent in ends.parents:
        source = Path(parent.source)
        if source.exists() and source.resolve() == Path(folder).resolve():
            raise StorageError(
                "folder",
                law="must not be a folder that the repair reads",
                found=f"{folder}, which is `{parent.role}`",
                remedy="Choose another folder.",
            )
    return save_model(_Repaired(ends, manifest, card, merge), ends.tokenizer, folder)


@dataclass(frozen=True)
class _Repaired:
    """What `save_model` is to write."""

    ends: Endpoints
    manifest: Mapping[str, object]
    card: str
    merge: bool

    def save_pretrained(self, folder: Path) -> None:
        ends = self.ends
        if ends.kind == "full":
            with _as_stored(ends):
                ends.model.save_pretrained(folder)
        elif self.merge:
            with _merged(ends) as model:
                model.save_pretrained(folder)
        else:
            _save_adapter(ends, folder)
        kind = "merged" if self.merge else ends.kind
        about = {"kind": kind, "parents": ends.parents, "notes": ends.notes}
        write_json(folder / "repair.json", canonical({**self.manifest, **about}))
        write_text(folder / "README.md", card_of(ends.parents, self.card, kind=kind))


@contextmanager
def _as_stored(ends: Endpoints) -> Iterator[None]:
    """Let every parameter have the dtype in which `after` keeps it; afterwards every bit is as it was."""
    kept = [(p, p.data) for _, p in ends.model.named_parameters()]
    try:
        for name, parameter in ends.model.named_parameters():
            parameter.data = parameter.data.to(ends.dtype(name))
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _save_adapter(ends: Endpoints, folder: Path) -> None:
    """Write the adapter's own two files; PEFT's saver would look names up on the hub and guess by adapter names."""
    model: PeftModel = ends.model
    adapter = adapter_of(model, "model")
    # Joined alone it is itself, but for ranks and scales that differ between modules.
    joint = join((adapter,), model.get_base_model())
    name = active_adapter(model, "model")
    tensors = {}
    for path in adapter.factors:
        for factor in "AB":
            kept = ends.dtype(parameter_name(path, factor, name))
            tensor = joint.ends[0][parameter_name(path, factor)]
            tensors[file_key(path, factor)] = tensor.to(kept).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    entries = {
        field.name: getattr(joint.config, field.name) for field in fields(LoraConfig) if field.init
    }
    named = joint.config.base_model_name_or_path or adapter.config.base_model_name_or_path
    ours = {"inference_mode": True, "init_lora_weights": True, "base_model_name_or_path": named}
    LoraConfig(**entries | ours).save_pretrained(str(folder))


@contextmanager
def _merged(ends: Endpoints) -> Iterator[Any]:
    """The base model with the adapter added to its weights, in the base's dtypes; afterwards all is as it was."""
    model: Any = ends.model
    name = active_adapter(model, "model")
    base = model.get_base_model()
    layers = layers_of(model, name, "model")
    with torch.no_grad():
        deltas = {
            f"{plain_name(path)}.{getattr(layer, 'parameter_name', 'weight')}": layer.get_delta_weight(
                name
            )
            for path, layer in layers.items()
        }
    kept = [(p, p.data) for _, p in model.named_parameters()]
    stored = {plain_name(full): ends.dtype(full) for full, _ in model.named_parameters()}
    places = [
        (base.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2], layer)
        for path, layer in layers.items()
    ]
    description = vars(base).pop("peft_config", None)
    try:
        for owner, word, layer in places:
            setattr(owner, word, layer.get_base_layer())
        for full, parameter in base.named_parameters():
            value = parameter.data
            if full in deltas:
                value = value + deltas[full].to(value.dtype)
            parameter.data = value.to(stored[full])
        yield base
    finally:
        for owner, word, layer in places:
            setattr(owner, word, layer)
        for parameter, data in kept:
            parameter.data = data
        if description is not None:
            base.peft_config = description
