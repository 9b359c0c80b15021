"""Shards: the factors of one batch of samples each, in memory or in files that a later capture of the same finds again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from crosstune.circuits.storage import Store, Tensors
from crosstune.foundation import ranks
from crosstune.foundation.errors import StorageError

_NATS = "nats"


@dataclass(frozen=True)
class Shard:
    """What one forward and backward pass brought, of all layers.

    Shapes:
        nats: [b], float64, on the CPU: the summed loss of each row. layers: every tensor [b, T, features].

    Attributes:
        layers: Layer → its factors by name: `x`, `z`, and `delta.<blocks>`, one for each module (`delta.qkv` where one makes all three).
    """

    nats: Tensor
    layers: Mapping[int, Tensors]

    @property
    def bytes(self) -> int:
        """The memory of its factors."""
        return sum(value.nbytes for tensors in self.layers.values() for value in tensors.values())

    @classmethod
    def joined(cls, shards: Sequence[Shard]) -> Shard:
        """One shard of all rows, those that are shorter padded with zeros."""
        rows = {
            layer: {
                name: pad_sequence([row for s in shards for row in s.layers[layer][name]], True)
                for name in tensors
            }
            for layer, tensors in shards[0].layers.items()
        }
        return cls(torch.cat([shard.nats for shard in shards]), rows)

    def to(self, device: torch.device) -> Shard:
        """The same shard, its factors on a device."""
        return Shard(
            self.nats,
            {
                layer: {name: value.to(device) for name, value in tensors.items()}
                for layer, tensors in self.layers.items()
            },
        )


class ShardsInMemory:
    """The shards that fit, where they were made."""

    kernel: tuple[str, float] | None = None

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}

    @property
    def bytes(self) -> int:
        """The memory of all factors."""
        return sum(shard.bytes for shard in self._shards.values())

    def settle(self, kernel: str, difference: float) -> None:
        """Remember the attention kernel that is used, and the difference between rows alone and in a batch."""
        self.kernel = (kernel, difference)

    def holds(self, index: int) -> bool:
        """Whether a shard is there."""
        return index in self._shards

    def write(self, index: int, shard: Shard) -> None:
        """Store one shard."""
        self._shards[index] = shard

    def share(self, device: torch.device) -> None:
        """Let every process have every shard; all call it when each has written its own."""
        if ranks.world_size() == 1:
            return
        mine = {index: shard.to(torch.device("cpu")) for index, shard in self._shards.items()}
        for theirs in ranks.gather_over_ranks(mine):
            for index, shard in theirs.items():
                if index not in self._shards:
                    self._shards[index] = shard.to(device)

    def nats(self, index: int) -> Tensor:
        """The summed losses of a shard's rows."""
        return self._shards[index].nats

    def tensors(self, layer: int) -> Iterator[Tensors]:
        """The factors of one layer, shard by shard."""
        return (self._shards[index].layers[layer] for index in sorted(self._shards))

    def close(self) -> None:
        """Let the memory go."""
        self._shards = {}


class ShardsOnDisk(Store):
    """The same in files, each layer of which is read alone."""

    @property
    def kernel(self) -> tuple[str, float] | None:
        """The attention kernel that this capture settled on, so that one that goes on uses it too."""
        found = self.noted("kernel")
        return None if found is None else (found["name"], float(found["difference"]))

    def settle(self, kernel: str, difference: float) -> None:
        """Write them down."""
        self.note(kernel={"name": kernel, "difference": repr(difference)})  # NaN is no JSON

    def write(self, index: int, shard: Shard) -> None:
        """Store one shard."""
        layers = {str(layer): tensors for layer, tensors in shard.layers.items()}
        self.write_parts(index, {_NATS: {_NATS: shard.nats}, **layers})

    def share(self, device: torch.device) -> None:
        """Every process reads the same folder."""
        ranks.wait_for_all()
        missing = [index for index in range(self.count) if not self.holds(index)]
        if missing:
            raise StorageError(
                str(self.folder),
                law="must be one folder that every process sees",
                found=f"{len(missing)} of {self.count} shards are not to be seen by process {ranks.rank()}",
                remedy="Name a `folder` on a disk that all machines share.",
            )

    def nats(self, index: int) -> Tensor:
        """The summed losses of a shard's rows."""
        return self.read_part(index, _NATS)[_NATS]

    def tensors(self, layer: int) -> Iterator[Tensors]:
        """The factors of one layer, read shard by shard."""
        return (self.read_part(index, str(layer)) for index in range(self.count))


Shards = ShardsInMemory | ShardsOnDisk
