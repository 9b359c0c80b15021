"""A mixture on disk: every expert an ordinary PEFT adapter, the router beside them, and a manifest that says what fits."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from crosstune.experts.bank.log import Bank, Event, Expert
from crosstune.experts.gated import factors
from crosstune.foundation.errors import CheckpointError, StorageError, TrainingError, hold
from crosstune.foundation.models.loading import tensors_fingerprint
from crosstune.foundation.storage import atomic_folder, fingerprint_file, read_json, write_json

SCHEMA = 2
MANIFEST, ROUTER = "mixture.json", "router.safetensors"
WEIGHTS = "adapter_model.safetensors"


class StoredMixture(NamedTuple):
    """What a folder holds, verified: also PEFT's tensors of each adapter, and what else was kept, by part and name."""

    settings: dict[str, Any]
    events: tuple[Event, ...]
    weights: dict[str, dict[str, Tensor]]
    kept: dict[str, dict[str, Tensor]]


def base_fingerprint(model: nn.Module) -> str:
    """A hash of the frozen model's weights, the same with and without experts in its layers."""
    return tensors_fingerprint(
        (name.removeprefix("base_model.model.").replace(".base_layer.", "."), value)
        for name, value in model.named_parameters()
        if ".lora_" not in name
    )


def write_mixture(
    folder: Path | str,
    model: Any,
    bank: Bank,
    kept: Mapping[str, Mapping[str, Tensor]],
    settings: Mapping[str, Any],
) -> Path:
    """Write all of a mixture, whole or not at all; an expert of which PEFT leaves a tensor out is an error."""
    place, base = Path(folder), base_fingerprint(model)
    check_free(place, MANIFEST, "a saved mixture")
    departed = _departed(place, bank, base)
    with atomic_folder(place, replace=True) as fresh:
        hashes = {}
        for expert in bank.experts.values():
            model.save_pretrained(fresh / "experts", selected_adapters=[expert.adapter])
            weights = fresh / "experts" / expert.adapter / WEIGHTS
            written, own = len(load_file(weights)), len(factors(model, expert.adapter))
            law, remedy = "must be written with every tensor", "Spawn it under another name."
            words = law, f"{written} of {own}", remedy
            hold(written == own, TrainingError, f"experts[{expert.name!r}]", words)
            hashes[expert.adapter] = fingerprint_file(weights)
        for adapter in departed:
            shutil.copytree(place / "experts" / adapter, fresh / "experts" / adapter)
        tensors = {f"{part}.{name}": v for part, some in kept.items() for name, v in some.items()}
        save_file({name: value.contiguous() for name, value in tensors.items()}, fresh / ROUTER)
        manifest = {
            "schema": SCHEMA,
            "base": base,
            "settings": dict(settings),
            "events": [asdict(event) for event in bank.events],
            "experts": hashes,
            "departed": departed,
            "router": fingerprint_file(fresh / ROUTER),
        }
        write_json(fresh / MANIFEST, manifest)
    return place


def check_free(place: Path, own: str, what: str) -> None:
    """Refuse a folder that holds something, unless it is what is written anew, which the file `own` shows."""
    free = not place.exists() or (place / own).is_file() or not any(place.iterdir())
    words = f"must be free, empty or hold {what}", f"other content at {place}", "Choose another."
    hold(free, StorageError, "folder", words)


def _departed(place: Path, bank: Bank, base: str) -> dict[str, str]:
    """The hashes of experts that have left, where the folder holds an earlier state of this mixture: they stay there."""
    if not (place / MANIFEST).is_file():
        return {}
    before = read_json(place / MANIFEST)
    events = [_event(record) for record in before["events"]]
    if before["base"] != base or events != bank.events[: len(events)]:
        return {}
    gone = bank.adapters.keys() - {expert.adapter for expert in bank.experts.values()}
    hashes = {**before["experts"], **before.get("departed", {})}
    return {name: hashes[name] for name in sorted(gone & hashes.keys())}


def read_mixture(folder: Path | str, model: nn.Module) -> StoredMixture:
    """What was written, if it is whole and comes from this base model; else an error that shows the difference."""
    place = Path(folder)
    manifest = read_json(place / MANIFEST)
    files = {
        name: (place / "experts" / name / WEIGHTS, told)
        for name, told in manifest["experts"].items()
    }
    found, base = manifest["base"], base_fingerprint(model)
    different = [] if found == base else [f"base model: {found} saved, {base} now"]
    if manifest["schema"] > SCHEMA:
        different.append(f"schema {manifest['schema']}: a newer Crosstune wrote it")
    for file, told in (*files.values(), (place / ROUTER, manifest["router"])):
        if not file.is_file():
            different.append(f"{file.relative_to(place)} is missing")
        elif fingerprint_file(file) != told:
            different.append(f"{file.relative_to(place)} is not what was written")
    remedy = "Load the base model that it was trained on, or save the mixture again."
    words = "must be whole, and come from this base model", "; ".join(different), remedy
    hold(not different, CheckpointError, place.name, words)
    weights = {name: load_file(file) for name, (file, _) in files.items()}
    events = tuple(_event(record) for record in manifest["events"])
    kept: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in load_file(place / ROUTER).items():
        part, _, name = key.partition(".")
        kept[part][name] = value
    return StoredMixture(manifest["settings"], events, weights, kept)


def _event(record: dict[str, Any]) -> Event:
    born = record["expert"]
    expert = born and Expert(**{**born, "targets": tuple(born["targets"])})
    return Event(**{**record, "expert": expert, "others": tuple(record.get("others", ()))})
