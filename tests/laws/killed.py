"""Runs a small study in children of its own, each of which dies by SIGKILL at another place; what both laws of kills share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_children(places: Iterable[str], run: Callable[[str], object]) -> None:
    """Run each place in a child of this process and say how it ended; torch is imported once and has computed nothing."""
    for place in places:
        child = os.fork()
        if not child:
            run(place)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else "by itself"
        sys.stdout.write(f"{place}: {ended}\n")


def everywhere(module: ModuleType, folder: Path) -> None:
    """Run a module's `PLACES` in a process that has computed nothing, and see that each died where it should."""
    child = subprocess.run(
        [sys.executable, "-m", module.__name__, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    expected = [f"{where}: {int(signal.SIGKILL)}" for where in module.PLACES]
    assert child.stdout.splitlines() == expected, child.stderr
