"""Importing does nothing: no heavy library at the door, and no trace in files, environment or state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.house import sources

HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "datasets",
    "altair",
    "peft",
)

# Doors that open without a heavy library: help is instant, and a mistyped setting is told at once.
LIGHT = [
    "crosstune",
    "crosstune.cli",
    "crosstune.cli.main",
    "crosstune.studies.catalogue",
    "crosstune.foundation.errors",
    "crosstune.foundation.seeds",
    "crosstune.foundation.storage",
    "crosstune.foundation.settings",
]

# What importing may not do, as Python's own audit events; a write of bytecode is switched off by -B.
# Third-party libraries come first: what they do when imported is not what is watched here.
PRELOAD = """
import accelerate, altair, datasets, jsonargparse, peft, psutil, pyarrow.parquet, safetensors.torch
import rich.progress, rich.table, scipy.stats, tokenizers, torch.func, torch.utils.data, transformers.integrations, vl_convert
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, Trainer
"""
WATCH = """
import json, logging, os, random, sys, warnings
import numpy, torch, torch.distributed

def state():
    root = logging.getLogger()
    return {
        "environment": sorted(os.environ.items()),
        "folder": os.getcwd(),
        "arguments": list(sys.argv),
        "log handlers": [repr(handler) for handler in root.handlers],
        "log level": root.level,
        "warning filters": len(warnings.filters),
        "python random": hash(random.getstate()),
        "numpy random": hash(numpy.random.get_state()[1].tobytes()),
        "torch random": hash(torch.get_rng_state().numpy().tobytes()),
        "threads": torch.get_num_threads(),
        "default dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "CUDA": torch.cuda.is_initialized(),
        "process group": torch.distributed.is_initialized(),
    }

seen, watched = [], {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.putenv", "os.unsetenv", "os.chdir",
    "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.fork", "os.system",
}

def watch(event, values):
    if event in watched or (event == "open" and isinstance(values[1], str) and set(values[1]) & set("wax+")):
        seen.append(f"{event} {values[0]!r}")

before = state()
sys.addaudithook(watch)
changed = {}
for name in json.loads(sys.argv[1]):
    seen.clear()
    __import__(name)
    after = state()
    touched = [key for key in after if after[key] != before[key]] + seen
    if touched:
        changed[name] = touched
    before = after
print(json.dumps(changed))
"""


def run(program: str, *arguments: str) -> str:
    command = [sys.executable, "-B", "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def touched_by(*names: str, preload: str = "") -> dict[str, list[str]]:
    """What importing each of the modules in a fresh process touched, where it touched anything."""
    return json.loads(run(preload + WATCH, json.dumps(names)).splitlines()[-1])


def module_name(path: Path) -> str:
    parts = path.relative_to(sources.PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def settings_modules() -> list[str]:
    return [module_name(path) for path in sources.modules() if path.name == "settings.py"]


@pytest.mark.parametrize("name", [*LIGHT, *settings_modules()])
def test_the_door_is_light(name: str) -> None:
    program = f"import sys, {name}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    assert run(program).split() == []


def test_importing_touches_nothing() -> None:
    names = [module_name(path) for path in sources.modules() if path.name != "__main__.py"]
    assert touched_by(*names, preload=PRELOAD) == {}


PLANTED = {
    "environment": "import os; os.environ['X'] = '1'",
    "os.mkdir": "import pathlib; pathlib.Path('made').mkdir()",
    "open": "open('written', 'w').close()",
    "log handlers": "import logging; logging.basicConfig()",
    "torch random": "import torch; torch.manual_seed(1)",
    "socket.connect": "import socket; socket.socket().connect_ex(('127.0.0.1', 9))",
    "nothing": "x = 1",
}


def test_a_planted_side_effect_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {trace: f"planted_{number}" for number, trace in enumerate(PLANTED)}
    for trace, name in names.items():
        (tmp_path / f"{name}.py").write_text(PLANTED[trace] + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = touched_by(*names.values())
    for trace in PLANTED.keys() - {"nothing"}:
        assert any(trace in entry for entry in found[names[trace]]), trace
    assert names["nothing"] not in found
