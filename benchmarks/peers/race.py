"""Timing in turns, and peaks of memory in fresh processes."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from peers import per_sample
from peers.influence import kronfluence
from peers.loop import PAIRED, loop_gradients, pairs
from peers.ours import capture, ours, plain, tiles
from peers.scene import Scene, SceneSettings, build

GIB = 2**30
Run = Callable[[], Any]
CONTENDERS: dict[str, Callable[[Scene], Run]] = {
    "plain": plain,
    "ours": ours,
    "capture": capture,
    "tiles": tiles,
    "opacus": per_sample.opacus,
    "vmap": per_sample.vmap,
    "kronfluence": kronfluence,
    "loop gradients": loop_gradients,
    "loop pairs": pairs,
}


@dataclass(frozen=True)
class Times:
    """Seconds of every round, by contender."""

    cpu: Mapping[str, list[float]]
    wall: Mapping[str, list[float]]

    def median(self, name: str, clock: str = "cpu") -> float:
        """Of the rounds."""
        return statistics.median(getattr(self, clock)[name])

    def ratios(self, name: str, clock: str = "cpu") -> list[float]:
        """Round by round, over the plain pass of the same round."""
        times = getattr(self, clock)
        return [own / one for own, one in zip(times[name], times["plain"], strict=True)]


def race(scene: Scene, names: list[str], rounds: int) -> tuple[Times, dict[str, Any]]:
    """Every contender once in each round, each round beginning with another; a first round warms up and is not counted.

    Args:
        scene: What they are given.
        names: Which of `CONTENDERS`.
        rounds: Rounds that count.

    Returns:
        Their times, and what each found.
    """
    runs = {name: CONTENDERS[name](scene) for name in names}
    found = {}
    for name, run in runs.items():
        _give_back()
        found[name] = run()
    cpu: dict[str, list[float]] = {name: [] for name in names}
    wall: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            _give_back()
            _wait()
            began = time.process_time(), time.perf_counter()
            runs[name]()
            _wait()
            cpu[name].append(time.process_time() - began[0])
            wall[name].append(time.perf_counter() - began[1])
    runs.clear()
    _give_back()
    return _with_loop(Times(cpu, wall), scene), found


def _with_loop(times: Times, scene: Scene) -> Times:
    """The whole loop: its gradients, and the pairs that were looped over times how many there are."""
    if "loop pairs" not in times.cpu:
        return times
    n_a, n_b = scene.counts
    share = n_a * n_b / (min(PAIRED, n_a) * min(PAIRED, n_b))
    whole = [
        {
            **clock,
            "loop": [
                one + share * some
                for one, some in zip(clock["loop gradients"], clock["loop pairs"], strict=True)
            ],
        }
        for clock in (times.cpu, times.wall)
    ]
    return Times(*whole)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib(settings: SceneSettings, name: str) -> float:
    """The most memory a contender takes beyond the loaded model and its own preparation, in a process of its own.

    The whole loop takes what its gradients do.
    """
    script = Path(__file__).parents[1] / "circuits_cost.py"
    request = json.dumps(
        {"scene": asdict(settings), "contender": "loop gradients" if name == "loop" else name}
    )
    done = subprocess.run(
        [sys.executable, str(script), "--peak", request], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1])


def measure_peak(request: str) -> float:
    """What `peak_gib` asks of this process; the tiles' factors count as theirs.

    Reads resident memory where Linux says it and CUDA's own count on a GPU.
    """
    wanted = json.loads(request)
    settings, name = SceneSettings(**wanted["scene"]), wanted["contender"]
    scene = build(settings)
    before = _memory(settings.device)
    run = CONTENDERS[name](scene)
    if name != "tiles":
        before = _memory(settings.device)
    _forget_peak(settings.device)
    run()
    return (_peak(settings.device) - before) / GIB


def _give_back() -> None:
    """Let go of memory that nobody uses, so that no contender lives on what the one before had asked for."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _memory(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else _status("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")


def _forget_peak(device: str) -> None:
    """Count the peak from here on."""
    _give_back()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
