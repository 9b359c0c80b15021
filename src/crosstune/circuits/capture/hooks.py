"""One forward and backward pass over some rows, and the factors that hooks at the projections record of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crosstune.circuits.capture.labels import draws, sampled
from crosstune.circuits.capture.scope import Scope
from crosstune.circuits.capture.shards import Shard
from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.errors import MeasurementError, UnsupportedError
from crosstune.foundation.evaluation import logits_nats, token_logits
from crosstune.foundation.gradients.gradients import batch_of
from crosstune.foundation.models import Capture, Tap, capture


@dataclass(frozen=True)
class Pass:
    """A pass through one model; call it inside `evaluating`, with no module in training mode.

    Labels are those of the text, or with a `seed` drawn from the model's predictions. `pad_id` fills short rows.
    """

    model: nn.Module
    scope: Scope
    pad_id: int
    seed: int | None = None

    def __call__(self, rows: Sequence[Encoded]) -> Shard:
        """The factors of some rows, on the model's device, as long as the longest row less one token."""
        device = next(self.model.parameters()).device
        batch = batch_of(rows, self.pad_id, device)
        targets = batch["labels"][:, 1:]
        # The last token predicts nothing, and nothing that is scored attends to it.
        read = {name: value[:, :-1] for name, value in batch.items()}

        def forward() -> Tensor:
            logits = token_logits(self.model, read)
            if self.seed is None:
                return logits_nats(logits, targets)
            at = draws(rows, self.seed, targets.shape[1])
            return logits_nats(logits, sampled(logits, targets, at))

        found = capture(self.model, self.scope.weights, forward, around=self.scope.around)
        taps = self._taps(found, targets.shape)
        layers = {layer: self._factors(layer, taps) for layer in self.scope.layers}
        _mask_unscored(layers, targets)
        nats = found.values.double().sum(dim=-1).cpu()
        self._check_finite(layers, nats, rows)
        return Shard(nats, layers)

    def _taps(self, found: Capture, shape: torch.Size) -> dict[str, Tap]:
        """The one call of each projection, by the name of its weight."""
        taps = {name: tap for tap in found.taps for name in tap.names.values()}
        for weight in self.scope.weights:
            if weight not in taps:
                raise _not_once(weight, "its module was not called")
            if weight in found.missed:
                raise _not_once(
                    weight,
                    "its module was called twice, what it took or gave was overwritten, or something "
                    "beside it used the weight",
                )
            tap = taps[weight]
            if len(tap.gradients) != 1 or tap.gradients[0] is None:
                raise _not_once(weight, "the loss does not depend on what its module returns")
            for what, value in (("takes", _input(tap)), ("gives", tap.gradients[0])):
                if value.dim() != 3 or value.shape[:2] != shape:
                    raise _not_once(
                        weight,
                        f"its module {what} shape {tuple(value.shape)} for {shape[0]} rows of {shape[1]} tokens",
                    )
        return taps

    def _factors(self, layer: int, taps: dict[str, Tap]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for blocks, weight in self.scope.modules[layer].items():
            tap = taps[weight]
            name = "z" if blocks == "o" else "x"
            if name in tensors and not _same(tensors[name], _input(tap)):
                raise _not_once(weight, f"layer {layer} feeds {blocks} another input than q")
            tensors.setdefault(name, _input(tap))
            (delta,) = tap.gradients
            assert delta is not None  # refused in _taps
            tensors[f"delta.{blocks}"] = delta
        return tensors

    def _check_finite(
        self, layers: dict[int, dict[str, Tensor]], nats: Tensor, rows: Sequence[Encoded]
    ) -> None:
        """A sum is finite only where all its terms are; one transfer for all of them."""
        sums = [v.sum(dtype=torch.float32) for tensors in layers.values() for v in tensors.values()]
        if bool(torch.stack(sums).isfinite().all()) and bool(nats.isfinite().all()):
            return
        for layer, tensors in layers.items():
            for name, value in tensors.items():
                bad = ~value.isfinite().flatten(1).all(dim=1)
                if bool(bad.any()):
                    row = rows[int(bad.nonzero()[0])]
                    raise _not_finite(_in_words(name), f"layer {layer}", row)
        if not bool(nats.isfinite().all()):
            row = rows[int((~nats.isfinite()).nonzero()[0])]
            raise _not_finite("loss", "the output", row)


def _input(tap: Tap) -> Tensor:
    value: Tensor = next(iter((*tap.inputs, *tap.keywords.values())))
    return value


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; mostly they are one and the same."""
    if one.data_ptr() == other.data_ptr() and one.shape == other.shape:
        return one.stride() == other.stride()
    return torch.equal(one, other)


def _mask_unscored(layers: dict[int, dict[str, Tensor]], targets: Tensor) -> None:
    """Set what cannot change a row's loss to zero, in place, so that a sum over all places is one over the row's tokens."""
    scored = (targets != UNSCORED).flip(-1).cummax(dim=-1).values.flip(-1)
    if bool(scored.all()):
        return
    for tensors in layers.values():
        for value in tensors.values():
            value.masked_fill_(~scored[:, :, None], 0.0)


def _in_words(name: str) -> str:
    if name == "x":
        return "input of q, k and v"
    return "input of o" if name == "z" else f"gradient of block {name.removeprefix('delta.')}"


def _not_once(weight: str, found: str) -> UnsupportedError:
    return UnsupportedError(
        "model",
        law=f"must use {weight} once, in its own module, on one vector for each token",
        found=found,
        remedy="Leave this layer or block out (`layers`, `blocks`), or untie the weight.",
    )


def _not_finite(what: str, where: str, row: Encoded) -> MeasurementError:
    return MeasurementError(
        f"row {row.row_id!r}",
        law="must have finite losses and gradients",
        found=f"NaN or infinity in the {what} at {where}",
        remedy="Leave the row out, or evaluate with precision float32; if every row is like this, the weights are.",
    )
