"""Engine: the scores of all pairs of samples in one layer, from captured factors; see `tiles.variants` for the formulas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from crosstune.circuits.scoring.accumulate import Apart, has_own
from crosstune.circuits.scoring.fisher import FisherFacts, require_samples
from crosstune.circuits.scoring.kfac import (
    KroneckerFactors,
    check_budget,
    precondition,
    tokens_of,
)
from crosstune.circuits.scoring.memory import Room, Sources
from crosstune.circuits.scoring.slices import kinds_of, score_slices
from crosstune.circuits.scoring.tiles import Layer, Source
from crosstune.circuits.scoring.variants import check_forms
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.errors import MeasurementError, SettingsError


class Heads(Protocol):
    """What the engine asks of a head map."""

    def heads_of(self, block: str) -> int:
        """Heads of a block."""

    def kv_head(self, head: int) -> int:
        """The key-value head that serves a query head."""


@dataclass(frozen=True)
class BlockScores:
    """The scores of one block of one layer, on the CPU.

    h runs over `heads`. Halves are the even and the odd samples. Units are those of `tiles.variants`.

    Attributes:
        heads: Which heads: query heads for q and o, key-value heads for k and v.
        pairs: Scores by form, [nA, nB, h]; of `ewc`, which is of j alone, [1, nB, h].
        columns: Means over each half of A by form of the averages, [2, nB, h].
        rows: Means over each half of B by form of the averages, [2, nA, h].
        apart: Each sample's mean score with the samples that were drawn apart from it, by form of the averages that can be so
            measured (see `tiles.own`).
        l1_b: ‖g_j‖₁, [nB, h]; nats per unit of weight.
        norm_a: ‖g_i‖₂, [nA, h].
        norm_b: ‖g_j‖₂, [nB, h].
        fishers: Facts of every Fisher used, by kind, [h] each.
    """

    heads: tuple[int, ...]
    pairs: dict[Form, Tensor]
    columns: dict[Form, Tensor]
    rows: dict[Form, Tensor]
    apart: dict[Form, Apart]
    l1_b: Tensor
    norm_a: Tensor
    norm_b: Tensor
    fishers: dict[str, FisherFacts]


def score_layer(
    a: Layer,
    b: Layer,
    counts: tuple[int, int],
    settings: CircuitSettings,
    *,
    true: Layer | None = None,
    heads: Heads,
    forms: Sequence[Form] | None = None,
) -> dict[str, BlockScores]:
    """The scores of every pair of samples, in every chosen block and head of one layer.

    Diagonal Fisher, directional (M_ij ≠ M_ji), magnitude-weighted, normalised by task A unless the form says otherwise.
    Each sample's gradient is built once, for all forms. Figures depend on the samples, not on how they are batched or cut.

    Args:
        a: Factors of task A.
        b: Factors of task B; the same as `a` is allowed.
        counts: Samples of A and of B.
        settings: Blocks, heads, forms, damping, memory and device.
        true: Factors of A's rows at labels that the model drew, where a form asks for the true Fisher.
        heads: The model's heads.
        forms: Forms of the pair scores; None takes the settings'.

    Returns:
        Scores by block; NaN or empty where a task has no samples.

    Raises:
        DataError: Task A has too few samples for a Fisher.
        MeasurementError: A gradient is not finite, factors do not fit each other, or not even a part of a head fits the budget.
        SettingsError: The true Fisher is asked for without its factors, or a device that is not there.
    """
    asked = tuple(settings.forms if forms is None else forms)
    averages = settings.average_forms
    check_forms((*asked, *averages))
    chosen = {block: _chosen(block, settings, heads) for block in settings.blocks}
    if not all(counts):
        return {block: _unmeasured(chosen[block], counts, asked, averages) for block in chosen}
    kinds = kinds_of(asked, averages)
    drawn = _drawn(true, kinds)
    for kind in kinds:
        require_samples(kind, drawn if kind == "true" else counts[0], settings)
    question = _Question(asked, averages, drawn, settings, Room())
    layers = (a, b, true if "true" in kinds else None)
    return {block: _score(block, chosen[block], layers, counts, question) for block in chosen}


@dataclass(frozen=True)
class _Question:
    forms: tuple[Form, ...]
    averages: tuple[Form, ...]
    drawn: int
    settings: CircuitSettings
    room: Room

    @property
    def kronecker(self) -> bool:
        """Whether a form needs preconditioned gradients."""
        return any(form.variant == "kfac" for form in (*self.forms, *self.averages))

    @property
    def copies(self) -> bool:
        """Whether factors may be copied, for which the last block's tiles must make room."""
        settings = self.settings
        return self.kronecker or settings.heads is not None or settings.computation_device != "auto"


@torch.no_grad()
def _score(
    block: str,
    heads: tuple[int, ...],
    layers: tuple[Layer, Layer, Layer | None],
    counts: tuple[int, int],
    question: _Question,
) -> BlockScores:
    """The scores of one block."""
    settings, name = question.settings, f"block {block} of layer {layers[0].layer}"
    device = _device(settings)
    if question.copies:
        question.room.clear()
    a, b, true = (
        None if layer is None else Source.of(layer, block, count, list(heads), device)
        for layer, count in zip(layers, (*counts, question.drawn), strict=True)
    )
    assert a is not None
    assert b is not None
    _check_alike(name, a, b)
    with _products(a.device, settings.tf32):
        kronecker = None
        if question.kronecker:
            check_budget(a, settings.budget_gib)
            factors = KroneckerFactors.of(a, block, tokens_of(layers[0], block))
            kronecker = precondition(a, factors, settings, name)
        sources = Sources(name, heads, a, b, true, kronecker)
        tally, facts = score_slices(
            sources, question.forms, question.averages, settings, question.room
        )
    pairs = tally.pairs()
    averages = (tally.columns(pairs), tally.rows(pairs))
    return BlockScores(heads, pairs, *averages, tally.own.means(), *tally.norms(), facts)


def _chosen(block: str, settings: CircuitSettings, heads: Heads) -> tuple[int, ...]:
    """The heads of a block that are asked for; key-value heads once, however many query heads they serve."""
    if settings.heads is None:
        return tuple(range(heads.heads_of(block)))
    asked = settings.heads if block in ("q", "o") else map(heads.kv_head, settings.heads)
    return tuple(sorted(set(asked)))


def _drawn(true: Layer | None, kinds: Sequence[str]) -> int:
    """Samples at drawn labels, where a form asks for them."""
    if "true" not in kinds:
        return 0
    if true is None:
        raise SettingsError(
            "fisher",
            law="`true` needs task A's factors at labels drawn from the model",
            found="none",
            remedy='Capture them with labels="sampled" and give them as `true`.',
        )
    return sum(len(batch.places) for batch in true.batches)


def _check_alike(name: str, a: Source, b: Source) -> None:
    if (a.heads, a.slice_shape) != (b.heads, b.slice_shape):
        raise MeasurementError(
            f"factors of {name}",
            law="must have as many heads, head_dim and columns for task B as for task A",
            found=f"({b.heads}, {b.slice_shape}) and ({a.heads}, {a.slice_shape})",
            remedy="Capture both tasks with the same model.",
        )


def _device(settings: CircuitSettings) -> torch.device | None:
    """Where tiles are computed; None for where the factors are."""
    wanted = settings.computation_device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "computation_device",
            law="must be a device that torch sees",
            found="cuda, and torch sees none",
            remedy="Set computation_device to cpu or auto.",
        )
    return None if wanted == "auto" else torch.device(wanted)


@contextmanager
def _products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Multiply float32 matrices on CUDA as the settings say, whatever the process does otherwise."""
    place: Any = torch.backends.cuda.matmul
    # The older switch may not be read once the newer one was used, and the other way round.
    newer = hasattr(place, "fp32_precision")
    switch = "fp32_precision" if newer else "allow_tf32"
    if device.type != "cuda":
        yield
        return
    before = getattr(place, switch)
    setattr(place, switch, ("tf32" if tf32 else "ieee") if newer else tf32)
    try:
        yield
    finally:
        setattr(place, switch, before)


def _unmeasured(
    heads: tuple[int, ...], counts: tuple[int, int], forms: Sequence[Form], averages: Sequence[Form]
) -> BlockScores:
    """What is known without samples of A or of B: shapes."""
    (count_a, count_b), h = counts, len(heads)

    def nothing(*shape: int) -> Tensor:
        return torch.full((*shape, h), torch.nan)

    return BlockScores(
        heads,
        pairs={
            form: nothing(min(1, count_a) if form.variant == "ewc" else count_a, count_b)
            for form in forms
        },
        columns={form: nothing(2, count_b) for form in averages},
        rows={form: nothing(2, count_a) for form in averages},
        apart={form: Apart(*map(nothing, 2 * counts)) for form in averages if has_own(form)},
        l1_b=nothing(count_b),
        norm_a=nothing(count_a),
        norm_b=nothing(count_b),
        fishers={kind: FisherFacts.unmeasured(h) for kind in kinds_of(forms, averages)},
    )
