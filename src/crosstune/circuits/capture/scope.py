"""What a capture covers: the projections and the modules that make them; the rows that can be captured, and in which batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from torch import nn

from crosstune.circuits.settings import BLOCKS, CircuitSettings
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.errors import DataError
from crosstune.foundation.models import HeadMap

_WRAPPED = ".base_layer"  # PEFT's name for what an adapter stands beside


@dataclass(frozen=True)
class Scope:
    """Layers and blocks of a model's attention, in order."""

    heads: HeadMap
    layers: tuple[int, ...]
    blocks: tuple[str, ...]

    @classmethod
    def of(cls, heads: HeadMap, settings: CircuitSettings) -> Scope:
        """What the settings ask for."""
        settings.check_places(heads.num_layers, heads.num_heads)
        layers = range(heads.num_layers) if settings.layers is None else settings.layers
        blocks = tuple(block for block in BLOCKS if block in settings.blocks)
        return cls(heads, tuple(sorted(layers)), blocks)

    @cached_property
    def modules(self) -> dict[int, dict[str, str]]:
        """Layer → the blocks that one module makes (``"q"``, or ``"qkv"`` where it is fused) → that module's weight."""
        found: dict[int, dict[str, str]] = {}
        for layer in self.layers:
            sharing: dict[str, str] = {}
            for block in self.blocks:
                weight = self.heads.projection(layer, block).weight
                sharing[weight] = sharing.get(weight, "") + block
            found[layer] = {blocks: weight for weight, blocks in sharing.items()}
        return found

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights, each once."""
        return tuple(weight for layer in self.modules.values() for weight in layer.values())

    @cached_property
    def around(self) -> dict[str, str]:
        """The adapters that change a weight: weight → the wrapper's name. The gradient at a wrapper's output is that of the effective weight."""
        owners = {weight: weight.rpartition(".")[0] for weight in self.weights}
        return {
            weight: owner.removesuffix(_WRAPPED)
            for weight, owner in owners.items()
            if owner.endswith(_WRAPPED)
        }

    def features(self, model: nn.Module) -> int:
        """How many numbers are stored of a token: one x for q, k and v, one z for o, and δ of every module."""
        total = 0
        for layer, modules in self.modules.items():
            for blocks, weight in modules.items():
                shape = model.get_parameter(weight).shape
                # The side that heads divide is known; the rest of the weight is the other side.
                headed = self.heads.projection(layer, blocks[0]).cut.features
                total += headed + (prod(shape) // headed if blocks == "o" else 0)
            reading_x = [blocks for blocks in modules if blocks != "o"]
            if reading_x:
                weight = modules[reading_x[0]]
                headed = self.heads.projection(layer, reading_x[0][0]).cut.features
                total += prod(model.get_parameter(weight).shape) // headed
        return total


_NAMED = 3  # rows that an error names


def check_tokens(model: nn.Module, rows: Sequence[Encoded]) -> None:
    """Raise unless the model knows every token."""
    config: Any = model.config
    known = range(config.vocab_size)
    wrong = [
        row for row in rows if not (min(row.input_ids) in known and max(row.input_ids) in known)
    ]
    if wrong:
        raise DataError(
            f"row {', '.join(repr(row.row_id) for row in wrong[:_NAMED])}",
            law=f"must hold tokens of the model's vocabulary, 0 to {config.vocab_size - 1}",
            found=f"another token (rows like this: {len(wrong)})",
            remedy="Encode rows with the model's own tokenizer.",
        )


def trimmed(row: Encoded) -> Encoded:
    """The row up to its last scored token: what follows cannot change its loss."""
    size = max(at for at, label in enumerate(row.labels) if label != UNSCORED) + 1
    return replace(
        row, input_ids=row.input_ids[:size], labels=row.labels[:size], ends=row.ends[:size]
    )


def plan_batches(rows: Sequence[Encoded], batch_tokens: int) -> tuple[tuple[int, ...], ...]:
    """The places of each batch's rows: rows of like length, longest first, of at most so many padded tokens; a longer row is alone.

    What the rows say decides, not their order, so that the same rows in another order are in the same batches.
    """
    order = sorted(
        range(len(rows)), key=lambda at: (-len(rows[at].input_ids), rows[at].input_ids, at)
    )
    batches: list[list[int]] = []
    for at in order:
        # The first row of a batch is its longest, so it says how wide the padding makes the batch.
        width = len(rows[batches[-1][0]].input_ids) if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= batch_tokens:
            batches[-1].append(at)
        else:
            batches.append([at])
    return tuple(map(tuple, batches))
