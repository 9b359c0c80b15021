"""Forecast: the gigabytes and seconds of a circuit measurement before it runs, and a refusal of what cannot fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from crosstune.circuits.capture.capture import MEMORY_SHARE
from crosstune.circuits.capture.scope import Scope
from crosstune.circuits.scoring.engine import score_layer
from crosstune.circuits.settings import CircuitSettings
from crosstune.circuits.storage import free_bytes
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.gradients.gradients import batch_of, evaluating
from crosstune.foundation.models import HeadMap
from crosstune.foundation.settings.options import at_least

SAMPLES = 128  # of each task at most; what more of them cost is extrapolated
FEWEST = 8  # of each task; with fewer there is no Fisher of a half
_TILE = 1 << 22  # numbers in the tiles of a trial at most
_FACTORS = 1 << 25  # numbers in its factors
_SEED = 0


def seconds_per_element(
    counts: tuple[int, int],
    length: int,
    slice_shape: tuple[int, int],
    settings: CircuitSettings,
    device: torch.device,
) -> float:
    """How long the engine takes for each element of a weight that it scores: part of one head's slice is scored from random factors.

    Samples of a task are from `FEWEST` to `SAMPLES`. Of the slice's columns only so many are tried as keep the trial short: time is
    proportional to them.
    """
    size, width = slice_shape
    columns = max(1, min(width, _TILE // (sum(counts) * size), _FACTORS // (sum(counts) * length)))
    a, b = (_random_factors(count, length, (size, columns), device) for count in counts)
    one = replace(settings, blocks=("q",), heads=(0,), layers=None, min_samples=2)

    def work() -> None:
        score_layer(a, b, one, true=a, heads=_OneHead())

    work()
    return median_seconds(work, device) / (size * columns)


def median_seconds(work: Callable[[], Any], device: torch.device, times: int = 5) -> float:
    """The median time of a piece of work, seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[times // 2]


class _OneHead:
    def heads_of(self, block: str) -> int:
        """One head."""
        del block
        return 1

    def kv_head(self, head: int) -> int:
        """Itself."""
        return head


@dataclass(frozen=True)
class _RandomFactors:
    """Random factors of one head: those of a layer, and of its only batch."""

    places: Tensor
    by_head: Tensor
    other: Tensor
    layer: int = 0

    @property
    def batches(self) -> tuple[_RandomFactors]:
        """All samples."""
        return (self,)

    @property
    def units(self) -> tuple[str, ...]:
        """Each sample by itself."""
        return tuple(map(str, range(len(self.places))))

    def headed(self, block: str) -> Tensor:
        """[n, tokens, 1, head_dim]."""
        del block
        return self.by_head

    def shared(self, block: str) -> Tensor:
        """[n, tokens, columns]."""
        del block
        return self.other


def _random_factors(
    count: int, length: int, shape: tuple[int, int], device: torch.device
) -> _RandomFactors:
    generator = torch.Generator().manual_seed(_SEED)
    by_head, other = (
        torch.randn(count, length, size, generator=generator).to(device) for size in shape
    )
    return _RandomFactors(torch.arange(count), by_head[:, :, None], other)


_GIB = 2**30
_FLOAT = 4
_ROWS = 4  # that are timed; more would be a measurement, not an estimate
_BACKWARD = 1.2  # a backward pass that forms no gradient of a weight, in forward passes
_MATRIX = (512, 512, 256)  # of the timed product: the shape of a small tile


@dataclass(frozen=True)
class Estimate:
    """What a measurement will take.

    Attributes:
        factor_gib: The factors of both tasks.
        on_disk: Whether they are spilled because they exceed the budget.
        score_gib: The pair scores.
        tile_gib: The most that tiles take; never above the budget.
        pass_gib: Activations and logits of one captured batch, about.
        capture_seconds: Forward and backward over all samples; NaN where nothing was timed.
        score_seconds: Tiles and scores; likewise.
        budget_gib: What `settings.budget_gib` allows.
        available_gib: Free memory where the model is.
        disk_gib: Free space where what exceeds the budget goes.
    """

    factor_gib: float
    on_disk: bool
    score_gib: float
    tile_gib: float
    pass_gib: float
    capture_seconds: float
    score_seconds: float
    budget_gib: float
    available_gib: float
    disk_gib: float

    @property
    def memory_gib(self) -> float:
        """The peak beside the model: factors or tiles with them, and the pass that captures."""
        factors = 0.0 if self.on_disk else self.factor_gib
        scores = 0.0 if self._spills_scores else self.score_gib
        return max(factors + self.pass_gib, factors + self.tile_gib + scores)

    @property
    def spilled_gib(self) -> float:
        """What goes to disk: factors and scores that exceed the budget."""
        return self.factor_gib * self.on_disk + self.score_gib * self._spills_scores

    @property
    def _spills_scores(self) -> bool:
        return self.score_gib > self.budget_gib

    @property
    def seconds(self) -> float:
        """The whole measurement."""
        return self.capture_seconds + self.score_seconds

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises:
            MeasurementError: More memory or disk would be needed than there is; the message says what would fit.
        """
        if self.spilled_gib > self.disk_gib:
            raise MeasurementError(
                "rows, length",
                law=f"must leave no more on disk than the {self.disk_gib:.1f} GiB that are free",
                found=f"{self.spilled_gib:.1f} GiB: {self._parts()}",
                remedy="Take fewer rows (scores grow with their product), fewer layers or variants, "
                "or a folder on another disk.",
            )
        if self.memory_gib <= self.available_gib:
            return
        raise MeasurementError(
            "rows, length",
            law=f"must fit into {self.available_gib:.1f} GiB of free memory",
            found=f"{self.memory_gib:.1f} GiB: {self._parts()}",
            remedy=self._remedy(),
        )

    def _parts(self) -> str:
        where = "on disk" if self.on_disk else "in memory"
        return (
            f"factors {self.factor_gib:.2f} ({where}), tiles {self.tile_gib:.2f}, "
            f"scores {self.score_gib:.2f}, one pass {self.pass_gib:.2f}"
        )

    def _remedy(self) -> str:
        if self.pass_gib > self.available_gib:
            share = self.available_gib / self.pass_gib
            return f"Lower batch_tokens to {share:.0%} of what it is, or shorten the rows."
        return f"Lower budget_gib to {self.available_gib / 2:.1f}: what does not fit is spilled to disk."

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s (capture {self.capture_seconds:.0f}); {self.memory_gib:.2f} GiB ({self._parts()})"


def estimate(
    model: Any,
    n_a: int,
    n_b: int,
    length: int,
    settings: CircuitSettings | None = None,
    *,
    timed: bool = True,
    folder: Path | None = None,
) -> Estimate:
    """The memory and time of measuring `n_a` samples against `n_b`, all of `length` tokens.

    Time comes from a forward pass over a few rows of the real model and from scoring one slice of random factors; memory from shapes alone.

    Args:
        model: A decoder in memory; it is left as it was.
        n_a: Samples of task A.
        n_b: Samples of task B.
        length: Tokens of a sample.
        settings: How it is measured; the default is `CircuitSettings()`.
        timed: Whether anything is run; without, the seconds are NaN.
        folder: Where factors and scores are stored; None for a temporary folder.

    Returns:
        The estimate.

    Raises:
        ModelError: The attention cannot be mapped to heads.
        SettingsError: The model has no such layer, or a size is below 0.
        UnsupportedError: The model is sharded or quantised.
    """
    for argument, value, least in (("n_a", n_a, 0), ("n_b", n_b, 0), ("length", length, 2)):
        at_least(argument, value, least)
    settings = settings or CircuitSettings()
    scope = Scope.of(HeadMap.of(model), settings)
    # Task A is captured a second time, at drawn labels, for the true Fisher.
    tokens = (n_a * (2 if "true" in settings.fishers else 1) + n_b) * (length - 1)
    width = _FLOAT if settings.precision == "float32" else next(model.parameters()).element_size()
    token_gib = scope.features(model) * width / _GIB
    most = MEMORY_SHARE * settings.budget_gib
    forms = len(settings.forms)
    heads = sum(scope.heads.heads_of(block) for block in scope.blocks) * len(scope.layers)
    largest = max(_slices(model, scope))
    tile = (n_a + n_b) * largest * _FLOAT * 4 / _GIB
    device = next(model.parameters()).device
    return Estimate(
        factor_gib=tokens * token_gib,
        on_disk=max(n_a, n_b) * (length - 1) * token_gib > most,
        score_gib=forms * n_a * n_b * heads * _FLOAT / _GIB,
        tile_gib=min(tile, settings.budget_gib),
        pass_gib=_pass_bytes(model, settings, length) / _GIB,
        capture_seconds=_capture_seconds(model, tokens, length, settings) if timed else torch.nan,
        score_seconds=_score_seconds(model, scope, (n_a, n_b), length, settings)
        if timed
        else torch.nan,
        budget_gib=settings.budget_gib,
        available_gib=_available(device) / _GIB,
        disk_gib=free_bytes(folder) / _GIB,
    )


def _slices(model: Any, scope: Scope) -> Iterator[int]:
    """Elements of the part of each block's weight that belongs to heads, block by block."""
    for layer in scope.layers:
        for block in scope.blocks:
            projection = scope.heads.projection(layer, block)
            weight = model.get_parameter(projection.weight)
            yield projection.tile(weight).numel()


def _pass_bytes(model: Any, settings: CircuitSettings, length: int) -> float:
    """About what one batch keeps for its backward pass: thirty vectors a token and layer, and its logits twice."""
    tokens = max(length, settings.batch_tokens)
    config = model.config
    layers = 30 * config.hidden_size * config.num_hidden_layers
    return float(tokens * (layers + 2 * config.vocab_size) * _FLOAT)


def _capture_seconds(model: Any, tokens: int, length: int, settings: CircuitSettings) -> float:
    rows = [
        Encoded(
            str(at), [0] * length, [-100, *[0] * (length - 1)], length - 1, 0, False, unit=str(at)
        )
        for at in range(_ROWS)
    ]
    batch = batch_of(rows, 0, next(model.parameters()).device)
    with evaluating(model, settings.gradient_settings()), torch.no_grad():
        ids = batch["input_ids"]
        taken = median_seconds(lambda: model(input_ids=ids, use_cache=False), ids.device)
    return tokens / (_ROWS * (length - 1)) * taken * (1 + _BACKWARD)


def _score_seconds(
    model: Any, scope: Scope, counts: tuple[int, int], length: int, settings: CircuitSettings
) -> float:
    """A slice is scored; more samples than are tried cost what they cost alone, and their pairs what a product does."""
    if not all(counts):
        return 0.0
    elements, device = sum(_slices(model, scope)), next(model.parameters()).device
    n_a, n_b = tried = (
        max(FEWEST, min(counts[0], SAMPLES)),
        max(FEWEST, min(counts[1], SAMPLES)),
    )
    shape = scope.heads.head_dim, model.config.hidden_size
    seconds = elements * seconds_per_element(tried, length - 1, shape, settings, device)
    if max(counts) <= SAMPLES:
        return seconds
    alone = max(1.0, sum(counts) / sum(tried))
    pairs = counts[0] * counts[1] - alone * n_a * n_b
    return seconds * alone + 2 * len(settings.forms) * pairs * elements / _rate(device)


def _rate(device: torch.device) -> float:
    """Floating-point operations a second of a matrix product."""
    rows, columns, inner = _MATRIX
    left = torch.ones(rows, inner, device=device)
    right = torch.ones(inner, columns, device=device)
    return 2 * rows * columns * inner / median_seconds(lambda: left @ right, device)


def _available(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(psutil.virtual_memory().available)
