"""Checkpoints that are whole and fit, or are refused with the difference shown."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn
from transformers.utils import logging

from crosstune.foundation.errors import CheckpointError, StorageError
from crosstune.foundation.models import weights_fingerprint
from crosstune.foundation.models.loading import tensors_fingerprint
from crosstune.foundation.ranks import world_size
from crosstune.foundation.storage import (
    canonical,
    fingerprint,
    fingerprint_file,
    read_json,
    safe_name,
    write_json,
)
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.training.stage import StageData
from crosstune.foundation.training.terms import Group, Term, Terms, entries_of

MANIFEST = "crosstune-manifest.json"
STATES = "crosstune"
SCHEMA = 2


@runtime_checkable
class Stateful(Protocol):
    """A callback whose state belongs to a checkpoint, such as a ledger or a probe's history."""

    state_name: str
    """A name that is unique in a run and may be a folder's name."""

    def save_state(self, folder: Path) -> None:
        """Write everything needed to go on into an existing, empty folder.

        Called on the first process only, after all callbacks of the step; without collectives.
        """

    def load_state(self, folder: Path) -> None:
        """Go on from what ``save_state`` wrote.

        Called on every process, before ``on_train_begin``, when weights and optimizer are restored.
        """


def checkpoint_folder(output_folder: Path, step: int) -> Path:
    """Where the checkpoint after optimizer step ``step`` lies (transformers' own name for it)."""
    return output_folder / f"checkpoint-{step}"


def steps_with_checkpoints(output_folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, whole or not, oldest first."""
    names = (path.name for path in output_folder.glob("checkpoint-*") if path.is_dir())
    steps = (name.removeprefix("checkpoint-") for name in names)
    return sorted(int(step) for step in steps if step.isdecimal())


@contextmanager
def quietly() -> Iterator[None]:
    """Write weights without a progress bar of transformers; a checkpoint is not news."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_states(folder: Path, stateful: Iterable[Stateful]) -> None:
    """Write the state of each callback under its own name."""
    for some in stateful:
        place = folder / STATES / some.state_name
        place.mkdir(parents=True)
        some.save_state(place)


def check_names(stateful: Iterable[Stateful]) -> None:
    """Every state has a name of its own that may be a folder's name."""
    names = [safe_name(some.state_name, "state_name") for some in stateful]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckpointError(
            "callbacks",
            law="must each have its own state_name",
            found=", ".join(twice),
            remedy="Give one of them another name.",
        )


def load_states(folder: Path, stateful: Iterable[Stateful]) -> None:
    """Restore each callback from its own name."""
    for some in stateful:
        place = folder / STATES / some.state_name
        if not place.is_dir():
            raise CheckpointError(
                str(folder.name),
                law=f"must hold the state of {some.state_name!r}",
                found=sorted(path.name for path in (folder / STATES).iterdir()),
                remedy="Resume with the same callbacks, or start the stage anew in another folder.",
            )
        some.load_state(place)


def seal(folder: Path, identity: Mapping[str, Any], *, finished: bool) -> None:
    """Write the manifest, last and atomically: a checkpoint without one is not whole."""
    files = {
        path.relative_to(folder).as_posix(): fingerprint_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"schema": SCHEMA, "finished": finished, "identity": dict(identity), "files": files}
    write_json(folder / MANIFEST, manifest)


def fault(folder: Path) -> str | None:
    """Why a checkpoint is not whole, in words; None where it is."""
    if not (folder / MANIFEST).is_file():
        return "it has no manifest: writing it was interrupted"
    try:
        manifest = read_json(folder / MANIFEST)
    except StorageError as error:
        return f"its manifest cannot be read ({error.found})"
    if manifest.get("schema") != SCHEMA:
        return f"its manifest has schema {manifest.get('schema')!r}, this version reads {SCHEMA}"
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if fingerprint_file(folder / name) != expected:
            return f"{name} is not what was written"
    return None


def latest_whole(output_folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and a sentence for each newer one that had to be skipped."""
    skipped: list[str] = []
    for step in reversed(steps_with_checkpoints(output_folder)):
        folder = checkpoint_folder(output_folder, step)
        reason = fault(folder)
        if reason is None:
            return folder, skipped
        skipped.append(f"{folder.name} was skipped: {reason}.")
    return None, skipped


def check_fits(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is the end of its stage; one of another model, other data or settings is an error."""
    manifest = read_json(folder / MANIFEST)
    stored = manifest["identity"]
    different = [
        f"{name}: {stored.get(name)!r} in the checkpoint, {identity.get(name)!r} now"
        for name in sorted({*stored, *identity})
        if stored.get(name) != identity.get(name)
    ]
    if different:
        raise CheckpointError(
            folder.name,
            law="must come from the same model, tokenizer, rows, terms, settings and seed",
            found="; ".join(different),
            remedy="Restore what has changed, or train in another output folder.",
        )
    return bool(manifest["finished"])


def keep_newest(output_folder: Path, count: int) -> None:
    """Remove all but the newest checkpoints; called when a newer one is whole."""
    for step in steps_with_checkpoints(output_folder)[:-count]:
        shutil.rmtree(checkpoint_folder(output_folder, step))


def drop_end(output_folder: Path) -> None:
    """Remove the checkpoint that is the end of its stage, if there is one.

    A stage that goes on from its end takes no step, so its callbacks would see neither its beginning
    nor its end. Without that checkpoint the last steps are taken again, from the one before.

    Args:
        output_folder: The stage's folder.
    """
    folder, _ = latest_whole(output_folder)
    if folder is not None and read_json(folder / MANIFEST)["finished"]:
        shutil.rmtree(folder)


# Where a stage may differ from its checkpoint: these decide what is kept or shown, not what is computed.
_FREE = ("keep_checkpoints", "report_to", "checkpoint_every", "log_every", "evaluation_tokens")


def stage_identity(
    model: nn.Module, data: StageData, settings: TrainingSettings, seed: int, terms: Terms
) -> dict[str, Any]:
    """Everything that must be the same for a resumed stage to equal an uninterrupted one, as JSON values."""
    chosen = {
        f"settings.{field.name}": canonical(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.name not in _FREE
    }
    second, before = terms.second_model, data.optimizer_from
    return {
        **chosen,
        **{key: value for term in terms.members for key, value in _term(term, settings.steps)},
        "second_model": second and f"{_configuration(second)} {weights_fingerprint(second)}",
        "optimizer_from": before and fingerprint(read_json(whole(before) / MANIFEST)["files"]),
        "model": _configuration(model),
        "weights": weights_fingerprint(model),
        "tokenizer": data.tokenizer,
        "rows": fingerprint(
            [[row.row_id, row.input_ids, row.labels, *row.lengths] for row in data.train]
        ),
        "seed": seed,
        "processes": world_size(),
    }


def _configuration(model: nn.Module) -> str:
    """A model's class, and a hash of what its configuration says but for paths and versions."""
    config = getattr(model, "config", None)
    told = {} if config is None else config.to_dict()
    own = {key: told[key] for key in told if key[0] != "_" and key != "transformers_version"}
    return f"{type(model).__name__} {fingerprint(own)}"


def _term(term: Term | Group, steps: int) -> Iterator[tuple[str, Any]]:
    """What a term is, and the weight of each of its entries at every step."""
    frozen = isinstance(term, nn.Module) and tensors_fingerprint(
        (name, value) for name, value in term.named_parameters() if not value.requires_grad
    )
    for entry in entries_of(term):
        weights = [entry.weight(step) for step in range(steps)]
        yield (
            f"terms.{entry.name}",
            canonical(
                {
                    "kind": type(term).__name__,
                    "unit": entry.unit,
                    "settings": term.settings,
                    "frozen": frozen,
                    "weights": weights[0] if len(set(weights)) == 1 else fingerprint(weights),
                }
            ),
        )


def whole(output_folder: Path) -> Path:
    """The newest whole checkpoint of another stage, or an error."""
    folder, skipped = latest_whole(output_folder)
    if folder is None:
        raise CheckpointError(
            "optimizer_from",
            law="must be the folder of a stage with a whole checkpoint",
            found=" ".join(skipped) or f"none in {output_folder.name}",
            remedy="Train that stage with checkpoint_every.",
        )
    return folder
