"""Kronfluence with its diagonal strategy: signed scores of whole modules, g_iᵀ (F_A + c)⁻¹ g_j, no heads and no magnitudes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from kronfluence import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn

from peers.linear import as_linear
from peers.scene import Scene, summed_nats

Modules = dict[str, Tensor]  # weight → [nA, nB]
DAMPING = 0.1  # of the mean entry: kronfluence's own heuristic


class _NextToken(Task):
    """The summed loss, of the projections alone."""

    def __init__(self, modules: list[str]) -> None:
        self.modules = modules

    def compute_train_loss(
        self, batch: Mapping[str, Tensor], model: nn.Module, sample: bool = False
    ) -> Tensor:
        """Summed nats of the rows' own labels; the empirical Fisher samples none."""
        del sample
        return summed_nats(model, batch)

    def compute_measurement(self, batch: Mapping[str, Tensor], model: nn.Module) -> Tensor:
        """Likewise."""
        return summed_nats(model, batch)

    def get_influence_tracked_modules(self) -> list[str]:
        """The projections."""
        return self.modules


def kronfluence(scene: Scene) -> Callable[[], Modules]:
    """Fit the diagonal on A's rows, then score A's rows as queries against B's."""
    model = scene.copied()
    names = as_linear(model, scene)
    modules = {name.removesuffix(".weight"): ours for ours, name in names.items()}
    task = _NextToken(list(modules))
    model = prepare_model(model, task)
    rows = {name: _Dataset(scene.batches(name)) for name in ("a", "b")}
    size = max(len(batch["input_ids"]) for batch in scene.batches("a"))

    def run() -> Modules:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names in torch that it uses and that have moved
            analyzer = Analyzer(
                *("circuits", model, task),
                cpu=scene.batches("a")[0]["input_ids"].device.type == "cpu",
                output_dir=str(Path(folder)),
                disable_tqdm=True,
            )
            analyzer.fit_all_factors(
                "diagonal",
                rows["a"],
                per_device_batch_size=size,
                factor_args=FactorArguments(strategy="diagonal", use_empirical_fisher=True),
            )
            analyzer.compute_pairwise_scores(
                *("pairs", "diagonal", rows["a"], rows["b"]),
                per_device_query_batch_size=size,
                per_device_train_batch_size=size,
                score_args=ScoreArguments(damping_factor=None, compute_per_module_scores=True),
            )
            found = analyzer.load_pairwise_scores("pairs")
        return {modules[name]: scores for name, scores in found.items()}

    return run


class _Dataset(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Rows one by one, as kronfluence loads them."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.columns = {
            name: torch.cat([b[name] for b in batches]) for name in ("input_ids", "labels")
        }

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, at: int) -> dict[str, Tensor]:
        return {name: value[at] for name, value in self.columns.items()}


def expected(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Modules:
    """What it says it computes, from per-sample gradients."""
    found: dict[str, Any] = {}
    for name, g_a in a.items():
        fisher = g_a.square().mean(0)
        scaled = g_a / (fisher + DAMPING * fisher.mean())
        found[name] = scaled.flatten(1) @ b[name].flatten(1).T
    return found
