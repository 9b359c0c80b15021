"""Keys and values of every layer before rotation: read from one model, and made a cache from which a model goes on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import Cache, DynamicCache

from crosstune.foundation.errors import ModelError
from crosstune.foundation.models.geometry import HeadGeometry
from crosstune.foundation.models.heads import HeadMap, Projection
from crosstune.foundation.models.layout import family_of
from crosstune.foundation.models.streams import Stream


@dataclass(frozen=True)
class KeyValues:
    """What the tokens of a text are to later ones: keys before rotation (after a norm of theirs) and values, by layer.

    Shapes: each [B, key-value heads, T, head_dim].

    Args:
        keys: One tensor a layer.
        values: Likewise.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def cache(self, model: nn.Module, positions: Tensor) -> Cache:
        """A cache from which the model goes on as if it had read these tokens at these places.

        Gradients flow from it back into keys and values. GPT-2 rotates nothing: its positions are in what was read.
        Go on with an ``attention_mask`` over these tokens and the new ones.

        Shapes: ``positions`` [B, T].

        Args:
            model: The model that goes on; its own rotation is applied.
            positions: The place of each token.

        Returns:
            The cache, for ``past_key_values``; a new one at every call.

        Raises:
            ModelError: Layers, heads or positions are not as many as the model's or the tokens'.
            UnknownFamilyError: The model's family is not in the table.
        """
        family, config, base = family_of(model)
        self._check(config, positions)
        decoder = base.get_submodule(family.blocks.rpartition(".")[0])
        rotary = getattr(decoder, "rotary_emb", None)
        cache = DynamicCache(config=config)
        place = next(base.parameters())
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            if rotary is not None:
                # Gemma 3 turns by one frequency in layers of one type, and by another in the others.
                kind = [config.layer_types[layer]] if hasattr(rotary, "layer_types") else []
                rotate = cast(Any, sys.modules[type(decoder).__module__]).apply_rotary_pos_emb
                _, keys = rotate(keys, keys, *rotary(keys, positions, *kind))
            cache.update(keys.to(place), values.to(place), layer)
        return cache

    def _check(self, config: Any, positions: Tensor) -> None:
        """Raise unless every layer of the model has keys and values of its heads, for every position."""
        heads = HeadGeometry.of(config)
        rows, tokens = positions.shape
        wanted = (rows, heads.num_kv_heads, tokens, heads.head_dim)
        for argument, given in (("keys", self.keys), ("values", self.values)):
            found = [tuple(tensor.shape) for tensor in given]
            if found != [wanted] * config.num_hidden_layers:
                raise ModelError(
                    argument,
                    law=f"must have shape {wanted} in each of {config.num_hidden_layers} layers",
                    found=f"{sorted(set(found))} in {len(found)} layers",
                    remedy="Map keys and values to this model's layers and heads, and give a position for each token.",
                )


def read_projections(model: nn.Module, batch: Mapping[str, Tensor]) -> KeyValues:
    """The keys and values of a batch, without gradient, as the model makes them, adapters included.

    Shapes: ``input_ids``, ``attention_mask`` [B, T].

    Args:
        model: A causal language model of a known family, with or without PEFT.
        batch: What ``data.collate`` returns.

    Returns:
        Keys before rotation, and values; the model and the random states are as they were.

    Raises:
        ModelError: The model is no decoder, or its attention is not what its configuration says.
        UnknownFamilyError: Its family is not in the table.
    """
    heads = HeadMap.of(model)
    found: dict[tuple[int, str], Tensor] = {}
    with ExitStack() as stack:
        for projection in heads.projections:
            if projection.block in ("k", "v"):
                # The module around the base weight, whose output has what an adapter adds.
                path = projection.module.partition(".base_layer")[0]
                attention = model.get_submodule(path.rpartition(".")[0])
                norm = getattr(attention, "k_norm", None) if projection.block == "k" else None
                keep = _keep(found, projection, norm or nn.Identity())
                stack.callback(model.get_submodule(path).register_forward_hook(keep).remove)
        Stream.of(model).read(batch, [heads.num_layers])
    keys, values = (
        tuple(found[layer, block] for layer in range(heads.num_layers)) for block in "kv"
    )
    return KeyValues(keys, values)


def _keep(
    found: dict[tuple[int, str], Tensor], projection: Projection, norm: nn.Module
) -> Callable[[nn.Module, Any, Tensor], None]:
    """A hook that keeps a projection's part of its module's output, [B, heads, T, head_dim]."""

    def after(module: nn.Module, args: Any, output: Tensor) -> None:
        features = norm(projection.take(output))
        found[projection.layer, projection.block] = features.transpose(1, 2)

    return after
