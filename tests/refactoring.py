"""The law of refactoring: every table and page of a small run of every study stays what it was, to the bit, timings aside.

    python -m tests.refactoring record FOLDER      # runs them with the code on PYTHONPATH
    python -m tests.refactoring compare OLD NEW    # names what differs, and fails where anything does

Both are run on one machine in one setting. Texts are listed apart: a changed sentence is no changed figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

TOYS = [
    {"name": "en", "source": "toy:latin-svo", "rows": 80},
    {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 80},
]
TRAINING = {"learning_rate": 3e-3, "steps": 6, "batch_rows": 4, "length": 16}
BLOCKS = {"blocks": 2, "rows_per_block": 1}
REPAIR = {
    "granularity": ["component", "kv_head"],
    "baselines": ["global"],
    "rows": 8,
    "reported_rows": 8,
    "length": 16,
    "folds": 2,
    "penalties": [0.0, 0.1],
    "exchange_rates": [0.5, 1.0],
    "budgets": [0.1],
    "evaluations": 2,
    "replay": True,
    "replay_rates": [1e-3],
}
SMALL: dict[str, dict[str, Any]] = {
    "conflict": {
        "tasks": TOYS,
        "seeds": [0, 1],
        "evaluation_rows": 4,
        "training": {**TRAINING, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2},
        "blocks": BLOCKS,
        "ledger": {"every": 2},
        "probe": {"every": 1, "burst": 1, "window": 2, **BLOCKS},
        "rollback": "layer",
    },
    "repair": {
        "before": "embedded",
        "tasks": TOYS,
        "seeds": [0, 1],
        "test_share": 0.6,
        "training": TRAINING,
        "repair": REPAIR,
        "blocks": BLOCKS,
        "ledger": {"every": 2},
    },
    "circuits": {
        "tasks": TOYS,
        "checkpoints": ["{folder}/repair/cells/seed-0/checkpoints/after"],
        "pairs": ["en:bn", "bn:en"],
        "measurement": {
            "rows": 12,
            "length": 16,
            "variants": ["directional", "signed", "symmetric", "ewc", "kfac"],
            "min_samples": 5,
            "averages": "true",
        },
        "ablate": True,
        "top_pairs": 3,
    },
    "foretell": {
        "tasks": TOYS,
        "test_share": 0.4,
        "seeds": [0, 1],
        "training": {**TRAINING, "steps": 4, "checkpoint_every": 2},
        "measurement": {"rows": 12},
        "states": 2,
        "blocks": {"blocks": 2, "rows_per_block": 4},
        "ledger": {"every": 2},
        "permutations": 199,
    },
}
SMALL["repair-lora"] = {
    **SMALL["repair"],
    "seeds": [0],
    "training": {**TRAINING, "lora": {"rank": 2}},
}
SMALL["repair-checkpoints"] = {
    **{key: SMALL["repair"][key] for key in ("tasks", "test_share", "blocks")},
    "before": "{world}",
    "after": "{folder}/repair/cells/seed-0/checkpoints/after",
    "repair": REPAIR,
}
TIMINGS = ("seconds", "memory", "bytes", "overhead", "share_of_training")
"""Columns and tables whose names hold one of these are not compared."""


def record(folder: Path) -> None:
    """Run every small study into the folder by the command line, which no refactoring changes."""
    from crosstune.foundation.worlds import embedded_world

    folder.mkdir(parents=True)
    names = {"folder": str(folder), "world": str(embedded_world().folder)}
    for name, settings in SMALL.items():
        text = yaml.safe_dump({"output": "{folder}/" + name, **settings}, sort_keys=False)
        for key, value in names.items():
            text = text.replace(f"{{{key}}}", value)
        config = folder / f"{name}.yaml"
        config.write_text(text, encoding="utf-8")
        study = name.split("-")[0]
        outside = Path(f"examples/{study}/study.py")
        words = ["run", str(outside) if outside.is_file() else study, "--config", str(config)]
        subprocess.run([sys.executable, "-m", "crosstune.cli.main", *words], check=True)


def compare(old: Path, new: Path) -> tuple[list[str], list[str]]:
    """Which figures differ, and which texts."""
    from crosstune.foundation.records import Run

    figures, texts = [], []
    for name in SMALL:
        runs = [Run.open(folder / name) for folder in (old, new)]
        found = [dict(_tables(run)) for run in runs]
        for table in sorted(found[0].keys() | found[1].keys()):
            one, other = (tables.get(table) for tables in found)
            if one != other:
                figures.append(f"{name}/{table}: {_first_difference(one, other)}")
        pages = [json.loads((run.folder / "page.json").read_text(encoding="utf-8")) for run in runs]
        if pages[0] != pages[1]:
            texts.append(f"{name}/page.json: {_first_difference(*pages)}")
    return figures, texts


def _tables(run: Any) -> Any:
    for place in (run, *run.cells()):
        where = "" if place is run else f"{place.folder.name}/"
        for name in place.tables():
            if not any(word in name for word in (*TIMINGS, "cost")):
                rows = place.table(name).rows()
                yield f"{where}{name}", [_plain(row) for row in rows]
        # How a figure was made is a sentence.
        measured = [{**vars(one), "how": ""} for one in place.measurements()]
        yield f"{where}measurements", [_plain(one) for one in measured]


def _plain(row: Any) -> dict[str, str]:
    """Exact and comparable: NaN equals NaN, and the folder that a run lies in does not count."""
    return {
        key: repr(value)
        for key, value in row.items()
        if not any(word in key for word in TIMINGS) and "/" not in repr(value)
    }


def _first_difference(one: Any, other: Any, path: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            if one.get(key) != other.get(key):
                return _first_difference(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        at = next(at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        return _first_difference(one[at], other[at], f"{path}[{at}]")
    return f"{path} {str(one)[:300]} -> {str(other)[:300]}"


if __name__ == "__main__":
    command, *places = sys.argv[1:]
    if command == "record":
        record(Path(places[0]).resolve())
    else:
        changed, reworded = compare(*map(Path, places))
        lines = [*reworded, *changed, f"{len(changed)} tables, {len(reworded)} pages differ"]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.exit(1 if changed else 0)
