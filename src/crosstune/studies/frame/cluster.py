"""Cells on a Ray cluster: each group of cells is a task that is tried again where its worker died, and goes on from its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from crosstune.foundation.errors import MeasurementError, StorageError, UnsupportedError
from crosstune.foundation.settings import to_yaml
from crosstune.studies.frame.costs import GIB
from crosstune.studies.frame.plan import Listener
from crosstune.studies.frame.processes import pass_on, work

_TRIES = 3  # how often a group may lose its worker before the study gives up
_SECONDS = 0.5  # between readings of what the cells report


def run_groups(
    study: Any, groups: Sequence[Sequence[str]], folder: Path, listener: Listener
) -> None:
    """Run groups of cells on the cluster, as many at a time as it has room for; all nodes share the run folder."""
    ray = _ray()
    memory = _peak_gib(study)
    started = not ray.is_initialized()
    if started:
        ray.init(address=study.settings.address, log_to_driver=False, logging_level="ERROR")
    try:
        here = ray.get_runtime_context().get_node_id()
        _check_shared(ray, folder)
        cores = _cores(ray, len(groups))
        gpus = _gpus(ray, study.settings.device)
        # On an accelerator the plan speaks of its memory, which Ray does not count.
        needed = {"CPU": cores, "GPU": gpus, "memory": 0 if gpus else int(memory * GIB)}
        _check_room(ray, needed)
        updates = ray.util.queue.Queue(
            actor_options={"num_cpus": 0, "scheduling_strategy": _on(ray, here)}
        )
        task = ray.remote(work).options(
            num_cpus=cores, num_gpus=gpus, memory=needed["memory"], max_retries=_TRIES
        )
        where = (type(study).where(), to_yaml(study.settings))
        waiting = [
            task.remote(where, list(group), folder.resolve(), updates, cores) for group in groups
        ]
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_SECONDS)
            pass_on(updates, listener)
            try:
                ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise MeasurementError(
                    "engine",
                    law=f"must keep a cell's worker alive, or begin it again at most {_TRIES} times",
                    found=f"{type(error).__name__}: {error}",
                    remedy="Run again: cells go on from their checkpoints. Look at the memory of the nodes.",
                ) from error
    finally:
        if started:
            ray.shutdown()


def _peak_gib(study: Any) -> float:
    """What one cell needs, as the plan of the study says; nothing where it has none."""
    try:
        plan = type(study)(replace(study.settings, workers=1)).plan()
    except UnsupportedError:
        return 0.0
    return float(plan.value("peak memory"))


def _ray() -> Any:
    try:
        ray = import_module("ray")
        for name in ("ray.util.queue", "ray.util.scheduling_strategies"):
            import_module(name)
    except ImportError as error:
        raise UnsupportedError(
            "engine",
            law="`ray` needs the package ray",
            found="no such package here",
            remedy="Install it with `pip install 'crosstune[ray]'`, or set `engine: local`.",
        ) from error
    return ray


def _on(ray: Any, node: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)


def _check_shared(ray: Any, folder: Path) -> None:
    """Every node reads and writes the same run folder."""
    place = folder.resolve()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    sees = ray.remote(num_cpus=0)(_sees)
    seen = ray.get(
        [sees.options(scheduling_strategy=_on(ray, node["NodeID"])).remote(place) for node in nodes]
    )
    blind = [
        node["NodeManagerHostname"]
        for node, is_seen in zip(nodes, seen, strict=True)
        if not is_seen
    ]
    if blind:
        raise StorageError(
            "output",
            law="must be a folder that all nodes of the cluster share",
            found=f"{place}, which is not there on {', '.join(blind)}",
            remedy="Name a folder on a shared disk with `--output`.",
        )


def _sees(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _gpus(ray: Any, device: str) -> int:
    """Accelerators that a cell needs: those of the cluster count, not of the machine that asks."""
    there = ray.cluster_resources().get("GPU", 0) > 0
    return int(device == "cuda" or (device == "auto" and there))


def _check_room(ray: Any, needed: dict[str, int]) -> None:
    """Some node has what a cell needs; otherwise Ray would wait for one without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(k, 0) >= v for k, v in needed.items()) for node in nodes):
        raise MeasurementError(
            "engine",
            law="needs a node with room for a cell",
            found=f"none with {needed['CPU']} cores, {needed['GPU']} GPUs and {needed['memory'] / GIB:.1f} GiB",
            remedy="Join a larger cluster, or make the cell smaller (batch_rows, length).",
        )


def _cores(ray: Any, groups: int) -> int:
    """The share of the cluster's cores that a group gets, at most those of the smallest node."""
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    having = [cores for cores in nodes if cores]
    return max(1, min(min(having, default=1), sum(having) // groups))
