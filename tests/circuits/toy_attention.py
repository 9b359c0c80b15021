"""A toy attention layer whose factors and whose per-sample gradients are both known, the latter from autograd alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCKS = ("q", "k", "v", "o")


@dataclass(frozen=True)
class Batch:
    """Factors of samples of like length, with the names of `circuits.factors.FactorBatch`."""

    places: Tensor
    x: Tensor
    z: Tensor
    deltas: dict[str, Tensor]
    heads: dict[str, int]

    def headed(self, block: str) -> Tensor:
        features = self.z if block == "o" else self.deltas[block]
        return features.unflatten(2, (self.heads[block], -1))

    def shared(self, block: str) -> Tensor:
        return self.deltas["o"] if block == "o" else self.x


@dataclass(frozen=True)
class Layer:
    """Factors of one task, with the names of `circuits.factors.LayerFactors`."""

    layer: int
    batches: tuple[Batch, ...]
    groups: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """The groups, or else each sample alone."""
        count = sum(len(batch.places) for batch in self.batches)
        return self.groups or tuple(map(str, range(count)))


@dataclass(frozen=True)
class Sample:
    x: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Toy:
    """Causal attention with grouped key-value heads, then a readout; also what the engine asks of a head map."""

    weights: dict[str, Tensor]
    readout: Tensor
    heads: int
    kv_heads: int
    scale: float = 1.0

    @classmethod
    def make(
        cls, heads: int = 4, kv_heads: int = 2, size: int = 3, width: int = 5, seed: int = 0
    ) -> Toy:
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64) / 2

        weights = {
            "q": weight(heads * size, width),
            "k": weight(kv_heads * size, width),
            "v": weight(kv_heads * size, width),
            "o": weight(width, heads * size),
        }
        return cls(weights, weight(7, width), heads, kv_heads)

    def heads_of(self, block: str) -> int:
        return self.kv_heads if block in "kv" else self.heads

    def kv_head(self, head: int) -> int:
        return head // (self.heads // self.kv_heads)

    def samples(self, count: int, seed: int, longest: int = 6) -> list[Sample]:
        generator = torch.Generator().manual_seed(seed)
        width = self.readout.shape[1]
        lengths = torch.randint(2, longest + 1, (count,), generator=generator).tolist()
        return [
            Sample(
                torch.randn(length, width, generator=generator, dtype=torch.float64),
                torch.randint(0, 7, (length,), generator=generator),
            )
            for length in lengths
        ]

    def with_weights(self, **factors: float) -> Toy:
        """The same layer with some weights times a factor."""
        scaled = {b: w * factors.get(b, 1.0) for b, w in self.weights.items()}
        return replace(self, weights=scaled)

    def _run(self, sample: Sample, weights: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The summed loss, and what every projection read or wrote."""
        x = sample.x
        q, k, v = (x @ weights[block].T for block in "qkv")
        group = self.heads // self.kv_heads
        by_head = [
            features.unflatten(1, (count, -1)).transpose(0, 1)
            for features, count in ((q, self.heads), (k, self.kv_heads), (v, self.kv_heads))
        ]
        qs, ks, vs = by_head[0], *(part.repeat_interleave(group, 0) for part in by_head[1:])
        future = torch.ones(len(x), len(x)).triu(1).bool()
        logits = (qs @ ks.mT / math.sqrt(qs.shape[-1])).masked_fill(future, -torch.inf)
        z = (logits.softmax(-1) @ vs).transpose(0, 1).flatten(1)
        o = z @ weights["o"].T
        logs = ((x + o).tanh() @ self.readout.T).log_softmax(-1)
        loss = -self.scale * logs.gather(1, sample.labels[:, None]).sum()
        return loss, {"q": q, "k": k, "v": v, "o": o, "z": z}

    def loss(self, sample: Sample) -> float:
        return float(self._run(sample, self.weights)[0])

    def gradients(self, samples: Sequence[Sample], block: str) -> Tensor:
        """Every sample's gradient by head, [n, heads, elements], from autograd on the weights."""
        found = []
        for sample in samples:
            weights = {b: w.clone().requires_grad_() for b, w in self.weights.items()}
            gradient = torch.autograd.grad(self._run(sample, weights)[0], weights[block])[0]
            rows = gradient.T if block == "o" else gradient  # o's heads are its columns
            found.append(rows.unflatten(0, (self.heads_of(block), -1)).flatten(1))
        return torch.stack(found)

    def layer(
        self,
        samples: Sequence[Sample],
        order: Sequence[int] | None = None,
        batch: int = 4,
        dtype: torch.dtype = torch.float64,
    ) -> Layer:
        """The factors, in batches of rows in any order, padded with zeros."""
        order = list(range(len(samples)) if order is None else order)
        parts = [order[start : start + batch] for start in range(0, len(order), batch)]
        batches = tuple(self._batch([samples[i] for i in part], part, dtype) for part in parts)
        return Layer(3, batches)

    def _batch(self, samples: Sequence[Sample], places: Sequence[int], dtype: torch.dtype) -> Batch:
        rows: dict[str, list[Tensor]] = {name: [] for name in (*BLOCKS, "x", "z")}
        for sample in samples:
            weights = {b: w.clone().requires_grad_() for b, w in self.weights.items()}
            loss, seen = self._run(sample, weights)
            deltas = torch.autograd.grad(loss, [seen[block] for block in BLOCKS])
            values = dict(zip(BLOCKS, deltas, strict=True), x=sample.x, z=seen["z"])
            for name, value in values.items():
                rows[name].append(value.detach().to(dtype))
        padded = {
            name: torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
            for name, values in rows.items()
        }
        heads = {block: self.heads_of(block) for block in BLOCKS}
        return Batch(
            torch.tensor(list(places)),
            padded["x"],
            padded["z"],
            {block: padded[block] for block in BLOCKS},
            heads,
        )
