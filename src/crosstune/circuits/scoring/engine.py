"""Engine: the scores of all pairs of samples in one layer, from captured factors; see `scoring.variants` for the formulas.

A block is scored some heads at a time, as many as fit the budget; each tile is built once wherever a head fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from crosstune.circuits.scoring.accumulate import Accumulator, TilePart
from crosstune.circuits.scoring.fisher import (
    FisherFacts,
    Squares,
    facts_of,
    medians,
    require_samples,
)
from crosstune.circuits.scoring.independent import IndependentMeans
from crosstune.circuits.scoring.kfac import KroneckerFactors, check_budget, precondition, tokens_of
from crosstune.circuits.scoring.memory import Cuts, TaskFactors, Workspace, within
from crosstune.circuits.scoring.tiles import BlockFactors, Layer
from crosstune.circuits.scoring.variants import Normaliser
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.errors import MeasurementError, SettingsError
from crosstune.foundation.gradients.gradients import float32_products


class Heads(Protocol):
    """What the engine asks of a head map."""

    def heads_of(self, block: str) -> int:
        """Heads of a block."""

    def kv_head(self, head: int) -> int:
        """The key-value head that serves a query head."""


@dataclass(frozen=True)
class BlockScores:
    """The scores of one block of one layer, on the CPU.

    h runs over `heads`: query heads for q and o, key-value heads for k and v. Halves are the even and the odd samples. Units are those
    of `scoring.variants`.

    Attributes:
        pairs: Scores by form, [nA, nB, h]; of `ewc`, which is of j alone, [1, nB, h].
        columns: Means over each half of A by form of the averages, [2, nB, h].
        rows: Means over each half of B by form of the averages, [2, nA, h].
        independent: Each sample's mean score with independent samples, by form of the averages that measures them.
        l1_b: ‖g_j‖₁, [nB, h]; nats per unit of weight.
        norm_a: ‖g_i‖₂, [nA, h].
        norm_b: ‖g_j‖₂, [nB, h].
        fishers: Facts of every Fisher used, by kind, [h] each.
    """

    heads: tuple[int, ...]
    pairs: dict[Form, Tensor]
    columns: dict[Form, Tensor]
    rows: dict[Form, Tensor]
    independent: dict[Form, IndependentMeans]
    l1_b: Tensor
    norm_a: Tensor
    norm_b: Tensor
    fishers: dict[str, FisherFacts]


def score_layer(
    a: Layer,
    b: Layer,
    settings: CircuitSettings,
    *,
    true: Layer | None = None,
    heads: Heads,
    forms: Sequence[Form] | None = None,
) -> dict[str, BlockScores]:
    """The scores of every pair of samples, in every chosen block and head of one layer, by block.

    Diagonal Fisher, directional (M_ij ≠ M_ji), magnitude-weighted, normalised by task A unless the form says otherwise. Each sample's
    gradient is built once, for all forms. Figures depend on the samples, not on how they are batched or cut. `true` are the factors of
    A's rows at labels that the model drew, for forms under the true Fisher; `forms` are scored instead of the settings'.

    Raises:
        DataError: Task A has too few samples for a Fisher.
        MeasurementError: A gradient is not finite, or not even a part of a head fits the budget.
        SettingsError: A device is asked for that is not there.
    """
    pair_forms = tuple(settings.forms if forms is None else forms)
    work = _Work(pair_forms, settings.average_forms, settings, Workspace())
    drawn = true if "true" in work.fishers else None
    for kind in work.fishers:
        of_a = drawn if kind == "true" and drawn else a
        require_samples(kind, sum(len(batch.places) for batch in of_a.batches), settings)
    return {
        block: _score(block, _chosen(block, settings, heads), (a, b, drawn), work)
        for block in settings.blocks
    }


@dataclass(frozen=True)
class _Work:
    """What is scored of every block, and the workspace that all blocks use."""

    forms: tuple[Form, ...]
    averages: tuple[Form, ...]
    settings: CircuitSettings
    workspace: Workspace

    @property
    def fishers(self) -> list[str]:
        """Every kind of Fisher that a form asks for, once."""
        return list(dict.fromkeys(form.fisher for form in (*self.forms, *self.averages)))

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
    work: _Work,
) -> BlockScores:
    """The scores of one block."""
    settings, name = work.settings, f"block {block} of layer {layers[0].layer}"
    device = _device(settings)
    if work.copies:
        work.workspace.clear()
    a, b, true = (
        None if layer is None else BlockFactors.of(layer, block, list(heads), device)
        for layer in layers
    )
    assert a is not None
    assert b is not None
    with float32_products(tf32=settings.tf32):
        kronecker = None
        if work.kronecker:
            check_budget(a, settings.budget_gib)
            factors = KroneckerFactors.of(a, block, tokens_of(layers[0], block))
            kronecker = precondition(a, factors, settings, name)
        sums, facts = _score_heads(TaskFactors(name, heads, a, b, true, kronecker), work)
    pairs = sums.pairs()
    averages = (sums.columns(pairs), sums.rows(pairs))
    return BlockScores(heads, pairs, *averages, sums.independent.means(), *sums.norms(), facts)


def _score_heads(factors: TaskFactors, work: _Work) -> tuple[Accumulator, dict[str, FisherFacts]]:
    """Every form of every head of a block, and the facts of every kind of Fisher that was used."""
    kinds, settings, workspace = work.fishers, work.settings, work.workspace
    cached = factors.a.device.type == "cpu"
    cuts = Cuts.of(factors.need(kinds), settings.budget_gib, cached=cached)
    workspace.fit(cuts, factors.a, settings.budget_gib)
    sums = Accumulator(work.forms, work.averages, factors.a, factors.b)
    facts: dict[str, list[FisherFacts]] = {kind: [] for kind in kinds}
    for heads in cuts.chunks():
        squares = _squares(factors, heads, workspace, sums, halved="held_out" in kinds)
        normalisers = {}
        for kind in kinds:
            normalisers[kind], found = _normalise(kind, squares, factors.a.halves, settings)
            facts[kind].append(found)
        for stretch in cuts.stretches():
            _add(factors, heads, stretch, workspace, sums, normalisers)
    return sums, {kind: FisherFacts.joined(parts) for kind, parts in facts.items()}


def _normalise(
    kind: str, squares: Squares, halves: Tensor, settings: CircuitSettings
) -> tuple[Normaliser, FisherFacts]:
    """What a Fisher does to gradients, and the facts of that Fisher."""
    fisher = squares.fisher(kind)
    median = medians(fisher)
    scale = settings.damping_share * median
    normaliser = Normaliser.of(kind, fisher, scale, halves, settings)
    return normaliser, facts_of(fisher, median, settings)


def _squares(
    factors: TaskFactors,
    heads: slice,
    workspace: Workspace,
    sums: Accumulator,
    *,
    halved: bool,
) -> Squares:
    """The sums of squares of some heads; their tiles stay built where a head is held whole."""
    a, b = factors.a, factors.b
    shape = (heads.stop - heads.start, *a.slice_shape)
    found = Squares(
        a=a.new_zeros(*shape),
        b=a.new_zeros(*shape),
        halves=a.new_zeros(2, *shape) if halved else None,
        true=a.new_zeros(*shape) if factors.true else None,
        counts=(a.count, b.count, factors.drawn),
    )
    chosen = [(a.halves == half).nonzero()[:, 0] for half in (0, 1)]
    for stretch in workspace.cuts.stretches():
        if factors.true and found.true is not None:
            tile = workspace.tile("b", factors.true, heads, stretch)
            for part, squared in workspace.squared(tile, stretch):
                found.true[:, part] = squared.sum(0)
        for part, squared in workspace.squared(workspace.tile("a", a, heads, stretch), stretch):
            sums.add_squares(0, heads, squared)
            found.a[:, part] = squared.sum(0)
            if found.halves is not None:
                for half, positions in enumerate(chosen):
                    found.halves[half, :, part] = squared[positions].sum(0)
        for part, squared in workspace.squared(workspace.tile("b", b, heads, stretch), stretch):
            sums.add_squares(1, heads, squared)
            found.b[:, part] = squared.sum(0)
    _check_finite(found, factors, heads)
    return found


def _add(
    factors: TaskFactors,
    heads: slice,
    stretch: slice,
    workspace: Workspace,
    sums: Accumulator,
    normalisers: Mapping[str, Normaliser],
) -> None:
    """Add a stretch of some heads to the sums."""
    is_built = workspace.cuts.whole
    a = workspace.tile("a", factors.a, heads, stretch, built=is_built)
    b = workspace.tile("b", factors.b, heads, stretch, built=is_built)
    kronecker = None
    if factors.kronecker:
        kronecker = workspace.tile("kronecker", factors.kronecker, heads, stretch)
    for cut in workspace.cuts.parts(stretch):
        tiles = a[:, :, cut], b[:, :, cut]
        part = TilePart(
            heads,
            within(stretch, cut),
            *tiles,
            kronecker=None if kronecker is None else kronecker[:, :, cut],
            work=workspace.work(max(tiles, key=len)),
        )
        sums.add(part, normalisers)


def _check_finite(squares: Squares, factors: TaskFactors, heads: slice) -> None:
    """Raise unless all squares are finite."""
    named = {"task A": squares.a, "task B": squares.b}
    if squares.true is not None:
        named["task A at drawn labels"] = squares.true
    for task, sums in named.items():
        wrong = ~sums.isfinite().all(-1).all(-1)
        if bool(wrong.any()):
            head = factors.heads[heads.start + int(wrong.nonzero()[0])]
            raise MeasurementError(
                f"gradients of {task}, {factors.name}, head {head}",
                law="must be finite, and their squares too",
                found="NaN or infinity",
                remedy="Check the model's weights and loss on these rows; half precision overflows where float32 does not.",
            )


def _chosen(block: str, settings: CircuitSettings, heads: Heads) -> tuple[int, ...]:
    """The heads of a block that are asked for; key-value heads once, however many query heads they serve."""
    if settings.heads is None:
        return tuple(range(heads.heads_of(block)))
    chosen = settings.heads if block in ("q", "o") else map(heads.kv_head, settings.heads)
    return tuple(sorted(set(chosen)))


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
