"""Where a run happened: versions, hardware, and the state of the user's own repository."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = (
    "crosstune",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "numpy",
    "scipy",
)


def describe_environment() -> dict[str, Any]:
    """The facts that decide whether two runs may be compared bit for bit; None where not installed or not known.

    What torch knows (accelerators, the processor's capability, the library of linear algebra, threads) is named only where it is
    loaded already: asking would load it.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        **_of_torch(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _git(),
    }


def arithmetic(environment: Mapping[str, Any]) -> str:
    """What decides the last bits of what is computed, in one line; empty where torch was not loaded."""
    if environment.get("capability") is None:
        return ""
    devices = environment["accelerators"] or [
        f"{environment['processor']} {environment['capability']}"
    ]
    threads, torch = environment["threads"], environment["packages"]["torch"]
    return f"{', '.join(devices)}, {environment['blas']}, threads: {threads}, torch {torch}"


def _processor() -> str:
    """The processor's name; Python itself knows it only on some systems."""
    known = Path("/proc/cpuinfo")
    text = known.read_text(encoding="utf-8") if known.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _of_torch() -> dict[str, Any]:
    """What torch knows of devices and arithmetic, where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        return dict.fromkeys(("accelerators", "capability", "blas", "threads"))
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    asked = os.environ.get("MKL_CBWR")  # the reproducibility that MKL was asked for
    return {
        "accelerators": [torch.cuda.get_device_name(index) for index in devices],
        "capability": str(torch.backends.cpu.get_cpu_capability()),  # ATEN_CPU_CAPABILITY sets it
        "blas": (blas[1] if blas else "unknown") + (f" MKL_CBWR={asked}" if asked else ""),
        "threads": int(torch.get_num_threads()),
    }


def _git() -> dict[str, Any] | None:
    """Commit and cleanliness of the folder the user works in, if it is a repository."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        changed = bool(_ask_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed": changed}


def _ask_git(*words: str) -> str:
    answer = subprocess.run(["git", *words], capture_output=True, text=True, check=True, timeout=10)
    return answer.stdout.strip()
