"""On a Ray cluster of two node processes the tables are those of one machine, also where a node is killed in the middle."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.studies import small_study

from crosstune.foundation.errors import StorageError, UnsupportedError
from crosstune.studies.conflict.study import Conflict
from crosstune.studies.frame import cluster
from crosstune.studies.frame.plan import Progress

ray = pytest.importorskip("ray", reason="the optional engine `ray` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """Both nodes for both tests, of which the second kills one."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:  # else Ray warns of its own future
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        yield from _joined(Cluster)


def _joined(cluster_class: Any) -> Iterator[Any]:
    nodes = cluster_class(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def test_a_folder_that_a_node_does_not_see_is_refused(two_nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"`output` must be a folder that all nodes.*not there on"
    ):
        cluster._check_shared(ray, tmp_path / "nowhere")


@pytest.mark.skipif(
    bool({"CROSSTUNE_ARITHMETIC", "CROSSTUNE_SEEDS"} & os.environ.keys()),
    reason="workers of Ray keep the arithmetic and the seeds of this machine",
)
def test_a_killed_node_changes_no_figure(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crosstune.studies.frame.procedure.report.draw", lambda run: None)
    settings = small_study.settings(tmp_path, seeds=[0, 1], training={"checkpoint_every": 1})
    killed: list[str] = []

    def kill(progress: Progress) -> None:
        """The second node, once a cell there has a checkpoint of its second stage."""
        if not killed and "stage 2-bn, step" in progress.doing:
            killed.append(progress.cell)
            (node,) = two_nodes.worker_nodes
            two_nodes.remove_node(node, allow_graceful=False)

    far = Conflict(replace(settings, engine="ray")).run(kill)
    near = Conflict(replace(settings, output=str(tmp_path / "near"))).run()
    assert killed and far.finished
    assert small_study.differences(small_study.figures(near), small_study.figures(far)) == []
    # The cell that ran on the killed node was gone on with; the other one was not touched.
    attempts = [event["attempt"] for cell in far.cells() for event in cell.all_events()]
    assert set(attempts) == {1, 2}


def test_without_ray_the_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnsupportedError, match=r"crosstune\[ray\]"):
        cluster._ray()
