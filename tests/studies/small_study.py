"""The smallest study that has everything: two toy tasks, a random Llama of two layers, three steps a stage."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_mapping, from_yaml
from crosstune.foundation.worlds import random_model
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.study import Conflict
from crosstune.studies.frame import procedure
from crosstune.studies.frame.plan import Listener, silent

# What may differ between two runs that compute the same: time, memory, and which attempt it was.
COST = {"seconds", "evaluations"}
COST_TABLES = {"cost"}

torch.set_num_threads(1)  # tiny matrices are slower on several threads

# Every stage begins with a full garbage collection, which walks all of torch and transformers.
gc.collect()
gc.freeze()


def model(folder: Path) -> str:
    """A random Llama in a folder, made on first use."""
    place = folder / "model"
    return str(place if place.is_dir() else random_model("llama", place))


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    """The settings as plain values; groups in `changes` are merged into those here."""
    small: dict[str, Any] = {
        "output": str(folder / "run"),
        "model": model(folder),
        "tasks": [
            {"name": "en", "source": "toy:latin-svo", "rows": 40},
            {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 40},
        ],
        "seeds": [0],
        "evaluation_rows": 4,
        "training": {
            "learning_rate": 1e-3,
            "steps": 3,
            "batch_rows": 4,
            "length": 16,
            "log_every": 1,
            "evaluate_every": 2,
            "checkpoint_every": 2,
        },
        "blocks": {"blocks": 2, "rows_per_block": 1},
        "ledger": {"every": 2},
        "probe": {"every": 1, "burst": 1, "window": 2, "blocks": 2, "rows_per_block": 1},
        "rollback": "layer",
    }
    for name, change in changes.items():
        old = small.get(name)
        merges = isinstance(change, Mapping) and isinstance(old, Mapping)
        small[name] = {**old, **change} if merges else change
    return small


def settings(folder: Path, **changes: Any) -> ConflictSettings:
    """The same as a value."""
    return from_mapping(ConflictSettings, values(folder, **changes))


def run_cells(chosen: ConflictSettings, listener: Listener = silent) -> Run:
    """The study without its page, which takes longer than everything else here."""
    return undrawn(Conflict(chosen), listener)


def undrawn(study: procedure.Procedure[Any], listener: Listener = silent) -> Run:
    """Any study without its page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procedure.report, "draw", lambda run: None)
        return study.run(listener)


def figures(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Every table of a run and of its cells without what it cost, and the measurements."""
    found = {"measurements": [vars(one) for one in run.measurements()]}
    for place in (run, *run.cells()):
        for name in place.tables():
            if name not in COST_TABLES:
                found[f"{place.folder.name}/{name}"] = [
                    {key: value for key, value in row.items() if key not in COST}
                    for row in place.table(name).rows()
                ]
    top = f"{run.folder.name}/"
    return {
        name.replace(top, "") if name.startswith(top) else name: rows
        for name, rows in found.items()
    }


def weights(run: Run, cells: str = "cells/*/") -> dict[str, Any]:
    """Every final weight of every stage of every cell (or of a cell: ``cells=""``), by file and name."""
    return {
        f"{file.relative_to(run.folder)}:{name}": value
        for file in sorted(run.folder.glob(f"{cells}checkpoints/*/model/*.safetensors"))
        for name, value in load_file(file).items()
    }


def differences(
    one: Mapping[str, list[dict[str, Any]]],
    other: Mapping[str, list[dict[str, Any]]],
    tolerance: float = 0.0,
) -> list[str]:
    """Where two sets of tables differ, in words; none where they are the same."""
    if one.keys() != other.keys():
        return [f"tables {sorted(one.keys() ^ other.keys())} in one only"]
    found = [
        f"{name}: {len(one[name])} and {len(other[name])} rows"
        for name in one
        if len(one[name]) != len(other[name])
    ]
    for name in one:
        for number, (mine, theirs) in enumerate(zip(one[name], other[name], strict=False)):
            found += [
                f"{name}[{number}].{key}: {mine[key]!r} and {theirs.get(key)!r}"
                for key in mine
                if not same(mine[key], theirs.get(key), tolerance)
            ]
    return found


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Equal, NaN with NaN, and numbers within the tolerance (of their size, where that is above 1)."""
    if isinstance(one, float) and isinstance(other, float):
        return (
            one == other
            or (math.isnan(one) and math.isnan(other))
            or abs(one - other) <= tolerance * max(1.0, abs(one))
        )
    return bool(one == other)


def prepared(chosen: ConflictSettings) -> Conflict:
    """The study with its rows read."""
    study = Conflict(chosen)
    study.prepare()
    return study


def read_settings(run: Run) -> ConflictSettings:
    """The settings that a run was made with."""
    return from_yaml(ConflictSettings, run.settings_yaml)


def with_seeds(chosen: ConflictSettings, *seeds: int) -> ConflictSettings:
    """The same study at other seeds."""
    return replace(chosen, seeds=seeds)
