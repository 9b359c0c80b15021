"""Capture: the factors of every sample at every attention projection, from one forward and backward pass over them.

Every parameter is frozen, so that no gradient of a weight is formed; the summed loss is differentiated, so that nothing of a sample
depends on the others; the backward pass ends at the lowest layer that was asked for. Activations are not checkpointed meanwhile: what
goes into the projections is kept in any case, and frozen weights need little else.

Some attention kernels make a row's factors depend on the other rows of its batch. That is tested first, and rows are captured in the
fastest of these ways in which they do not: any kernel; the plain products; one row at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from crosstune.circuits.capture.factors import FactorRow, Factors
from crosstune.circuits.capture.hooks import Pass
from crosstune.circuits.capture.labels import Labels
from crosstune.circuits.capture.scope import Scope, check_tokens, plan_batches, trimmed
from crosstune.circuits.capture.shards import Shard, Shards, ShardsInMemory, ShardsOnDisk
from crosstune.circuits.settings import CircuitSettings
from crosstune.circuits.storage import Tensors
from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.gradients.gradients import evaluating, float32_products
from crosstune.foundation.models import HeadMap, weights_fingerprint
from crosstune.foundation.ranks.collectives import by_each, by_first
from crosstune.foundation.storage import fingerprint

KERNELS = ("default", "math")
"""The attention kernels that are tried, in this order."""

ALONE = "alone"
"""In place of a kernel's name: every row goes through the model by itself."""

MEMORY_SHARE = 0.5
"""What the factors of one of the two tasks may take of the memory budget before they go to disk."""

_TF32_EPSILON = 2.0**-10


def attention_kernel(name: str) -> AbstractContextManager[None]:
    """Inside, scaled dot-product attention runs by this kernel: whichever torch chooses, or the plain products."""
    return sdpa_kernel(SDPBackend.MATH) if name == "math" else nullcontext()


def difference(among: Shard, index: int, other: Shard, place: int = 0) -> float:
    """How far a row's factors in one batch are from the same row's in another, of which it is the longest or which is as long.

    The norm of the difference over the norm (the largest of inputs, and of gradients, of a layer), where that is largest.
    """
    return max(
        _distance(tensors, index, {name: v[place] for name, v in other.layers[layer].items()})
        for layer, tensors in among.layers.items()
    )


def _distance(among: Tensors, index: int, alone: Tensors) -> float:
    """The largest distance of a layer's factors over the largest size of their kind: a gradient that is 0 by itself is noise."""
    found = 0.0
    for kinds in (("x", "z"), tuple(name for name in alone if name.startswith("delta"))):
        names = [name for name in kinds if name in alone]
        sizes = [alone[name].norm(dtype=torch.float64).item() for name in names]
        for name in names:
            value = alone[name]
            distance = (among[name][index][: len(value)].double() - value.double()).norm().item()
            if distance:
                found = max(found, distance / max(sizes) if max(sizes) else math.inf)
    return found


def rounding(shard: Shard, *, tf32: bool) -> float:
    """The difference that rounding may make: the square root of the coarsest step of the arithmetic."""
    # Sums in another order differ by a step times the condition of what is summed; the root leaves room for a condition of
    # 2,900 in float32. Norms, rotations, softmax and losses are float32 at best, whatever the weights are kept in.
    return math.sqrt(_step(shard, tf32=tf32))


def same_shape_rounding(shard: Shard, *, tf32: bool) -> float:
    """The difference that rounding may make where nothing is summed in another order, but by experts that sort tokens."""
    return max(4 * _step(shard, tf32=tf32), math.sqrt(torch.finfo(torch.float32).eps))


def _step(shard: Shard, *, tf32: bool) -> float:
    """The coarsest step of the arithmetic that the factors came from."""
    kinds = {value.dtype for tensors in shard.layers.values() for value in tensors.values()}
    steps = [torch.finfo(kind).eps for kind in {*kinds, torch.float32}]
    return float(max(*steps, _TF32_EPSILON if tf32 else 0.0))


def capture_factors(
    model: nn.Module,
    rows: Sequence[Encoded],
    heads: HeadMap,
    *,
    pad_id: int,
    settings: CircuitSettings,
    labels: Labels = "text",
    folder: Path | None = None,
) -> Factors:
    """The factors of every row at every asked layer; they do not depend on batches, order, padding or processes, beyond rounding.

    The model is left exactly as it was found. Under LoRA the gradients are those of the effective weights. In a folder the same
    capture is found again, whole or in part; without one factors are in memory, or in a temporary folder where they need more than
    `MEMORY_SHARE` of the budget. Labels are `text`, or `sampled` from the model's own predictions (for the true Fisher).

    Raises:
        DataError: A row holds a token that the model does not know.
        SettingsError: The model has no such layer.
        MeasurementError: A gradient is not finite, or a row's factors change with what other rows of its batch say.
        UnsupportedError: The model is sharded or quantised, or does not use each projection once.
        StorageError: The folder, or its disk, cannot be used.
    """
    check_tokens(model, rows)
    scope = Scope.of(heads, settings)
    used = [trimmed(row) for row in rows]
    batches = plan_batches(used, settings.batch_tokens)
    with evaluating(model, settings.gradient_settings()), _plain(model, settings):
        run = Pass(model, scope, pad_id, settings.seed if labels == "sampled" else None)
        job = _Job(run, used, batches, settings.tf32 and next(model.parameters()).is_cuda)
        shards = _shards(job, folder, factor_bytes(model, used, heads, settings), settings)
        kernel, seen = job.run_all(shards)
    return Factors(
        rows=_with_losses(rows, batches, shards),
        heads=heads,
        layers=scope.layers,
        blocks=scope.blocks,
        labels=labels,
        kernel=kernel,
        difference=seen,
        batches=tuple(torch.tensor(batch) for batch in batches),
        shards=shards,
    )


def factor_bytes(
    model: nn.Module, rows: Sequence[Encoded], heads: HeadMap, settings: CircuitSettings
) -> int:
    """How much memory or disk the factors of these rows need, from shapes alone."""
    batches = plan_batches(rows, settings.batch_tokens)
    places = sum(len(batch) * (len(rows[batch[0]].input_ids) - 1) for batch in batches)
    kind = next(model.parameters()).dtype
    if settings.precision == "float32":
        kind = torch.promote_types(kind, torch.float32)
    return places * Scope.of(heads, settings).features(model) * kind.itemsize


@contextmanager
def _plain(model: nn.Module, settings: CircuitSettings) -> Iterator[None]:
    """No module is in training mode, so none checkpoints; `evaluating` puts the flags back."""
    for module in model.modules():
        module.training = False
    with float32_products(tf32=settings.tf32):
        yield


def _shards(job: _Job, folder: Path | None, expected: int, settings: CircuitSettings) -> Shards:
    """Where the factors go: another capture lies beside this one, in a folder of its own."""
    if folder is None and expected <= settings.budget_gib * 2**30 * MEMORY_SHARE:
        return ShardsInMemory()

    def begun() -> ShardsOnDisk:
        about = {} if folder is None else _identity(job, settings)
        place = None if folder is None else folder / fingerprint(about)
        store = ShardsOnDisk.create(
            place, "factors", "batch", count=len(job.batches), expected=expected
        )
        if store.manifest.exists():
            store.about()
        else:
            store.describe(about)
        return store

    store = by_first(begun)
    if ranks.is_first():
        store.remove_in_the_end()
    return store


@dataclass(frozen=True)
class _Job:
    """All passes of a capture; `tf32` is whether products are rounded so."""

    run: Pass
    rows: Sequence[Encoded]
    batches: tuple[tuple[int, ...], ...]
    tf32: bool

    def run_all(self, shards: Shards) -> tuple[str, float]:
        """Capture what is missing, shared out among the processes; the kernel, and the difference that was seen."""
        kernel, seen = by_first(lambda: shards.kernel or self._settle(shards))
        missing = by_first(
            lambda: [index for index in range(len(self.batches)) if not shards.holds(index)]
        )

        def mine() -> None:
            for index in missing[ranks.rank() :: ranks.world_size()]:
                shards.write(index, self._capture(index, alone=kernel == ALONE))

        with attention_kernel(kernel):
            by_each(mine)
        device = next(self.run.model.parameters()).device
        by_each(lambda: shards.share(device))
        return kernel, seen

    def _capture(self, index: int, *, alone: bool = False) -> Shard:
        rows = [self.rows[place] for place in self.batches[index]]
        return Shard.joined([self.run([row]) for row in rows]) if alone else self.run(rows)

    def _settle(self, shards: Shards) -> tuple[str, float]:
        """How rows are captured so that none depends on the others of its batch; what is captured on the way is stored."""
        several = [index for index, batch in enumerate(self.batches) if len(batch) > 1]
        if not several:
            shards.settle(KERNELS[0], math.nan)
            return KERNELS[0], math.nan
        # Attention takes other kernels for batches with padding and without.
        tried = {max(several, key=self._padding), min(several, key=self._padding)}
        seen = math.nan  # with the first kernel
        for kernel in KERNELS:
            with attention_kernel(kernel):
                captured = {index: self._capture(index) for index in tried}
                found = {index: self._company(index, among) for index, among in captured.items()}
            apart, leak, limit, fine = map(max, zip(*found.values(), strict=True))
            seen = apart if kernel == KERNELS[0] else seen
            if apart <= limit and leak <= fine:
                shards.settle(kernel, seen)
                for index, among in captured.items():
                    shards.write(index, among)
                return kernel, seen
        # A row may depend on the shape of its batch and not on what is in it: positions that stretch with the longest row, or
        # the rounding of half precision. Then, or where others leak into it no more than rounding does, it goes alone.
        if leak <= limit:
            shards.settle(ALONE, seen)
            return ALONE, seen
        worst = max(found, key=lambda index: found[index][1])
        row = self.rows[self.batches[worst][-1]]
        raise MeasurementError(
            f"row {row.row_id!r}",
            law="must have gradients that do not change with what other rows of its batch say",
            found=f"a change by {leak:.1e} of their size, whatever the kernel of attention",
            remedy="Set batch_tokens=1, so that each row goes alone.",
        )

    def _company(self, index: int, among: Shard) -> tuple[float, float, float, float]:
        """How far rows of a batch are from themselves alone, and from themselves beside other tokens; and what rounding may make of both."""
        limit, fine = (f(among, tf32=self.tf32) for f in (rounding, same_shape_rounding))
        first, *_, last = (self.rows[place] for place in self.batches[index])
        apart = [difference(among, at, self.run([row])) for at, row in ((0, first), (-1, last))]
        # The same shapes round alike: what coarse rounding may hide shows there.
        leak = difference(among, -1, self._beside_others(index), -1) if max(apart) > fine else 0.0
        return max(apart), leak, limit, fine

    def _padding(self, index: int) -> int:
        """The tokens that fill up a batch's last row, which is its shortest."""
        first, *_, last = self.batches[index]
        return len(self.rows[first].input_ids) - len(self.rows[last].input_ids)

    def _beside_others(self, index: int) -> Shard:
        """A batch in the same shapes, and so with the same rounding, in which all but the last row, and the padding, hold other tokens."""
        config: Any = self.run.model.config

        def other(token: int) -> int:
            return (token + 1) % int(config.vocab_size)

        *others, last = (self.rows[place] for place in self.batches[index])
        changed = [replace(row, input_ids=[*map(other, row.input_ids)]) for row in others]
        return replace(self.run, pad_id=other(self.run.pad_id))([*changed, last])


def _identity(job: _Job, settings: CircuitSettings) -> dict[str, object]:
    """All that decides what the factors are."""
    model: Any = job.run.model
    config = model.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version"):
        config.pop(name, None)
    return {
        "weights": weights_fingerprint(model),
        "config": fingerprint(json.dumps(config, sort_keys=True, default=str)),
        "adapters": fingerprint(_adapters(model)),
        "rows": fingerprint([[row.input_ids, row.labels] for row in job.rows]),
        "labels": "text" if job.run.seed is None else f"sampled, seed {job.run.seed}",
        "layers": list(job.run.scope.layers),
        "blocks": list(job.run.scope.blocks),
        "precision": settings.precision,
        "tf32": job.tf32,
        "batch_tokens": settings.batch_tokens,
    }


def _adapters(model: nn.Module) -> list[list[str]]:
    """Which adapters are in effect, and how strongly: weights alone do not say."""
    words = ("active_adapters", "disable_adapters", "merged", "scaling")
    return [
        [name, *(str(getattr(module, word, None)) for word in words)]
        for name, module in model.named_modules()
        if hasattr(module, "base_layer")
    ]


def _with_losses(
    rows: Sequence[Encoded], batches: Sequence[Sequence[int]], shards: Shards
) -> tuple[FactorRow, ...]:
    losses = {
        place: loss
        for index, batch in enumerate(batches)
        for place, loss in zip(batch, shards.nats(index).tolist(), strict=True)
    }
    return tuple(
        FactorRow(row.row_id, row.group, row.unit, row.scored_tokens, "", losses[place])
        for place, row in enumerate(rows)
    )
