"""The forgetting ledger inside a checkpoint: one safetensors file and one JSON file, checked before use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.storage import atomic_write, fingerprint_file, read_json, write_json

_NUMBERS = "forgetting.safetensors"
_FACTS = "forgetting.json"


@dataclass(frozen=True)
class LedgerState:
    """What a ledger remembers between two optimizer steps.

    Attributes:
        steps: Where the open segment starts, and where training is.
        identity: Fingerprints of what must be the same to go on (stage, blocks, sites, …).
        tensors: The sums of each account.
        facts: The closed segments of each account.
        weights: The weights at the open segment's start; empty before its first step.
    """

    steps: tuple[int, int]
    identity: dict[str, str]
    tensors: tuple[dict[str, Tensor], ...]
    facts: tuple[list[dict[str, Any]], ...]
    weights: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write the two files, each whole or not at all; the JSON file holds the other's fingerprint."""
        numbers = {
            f"weights/{name}": value.cpu().contiguous() for name, value in self.weights.items()
        }
        for index, tensors in enumerate(self.tensors):
            numbers |= {f"book/{index}/{name}": value for name, value in tensors.items()}
        with atomic_write(folder / _NUMBERS) as temporary:
            save_file(numbers, temporary)
        write_json(
            folder / _FACTS,
            {
                "steps": self.steps,
                "identity": self.identity,
                "books": self.facts,
                "numbers": fingerprint_file(folder / _NUMBERS),
            },
        )

    @classmethod
    def read(cls, folder: Path) -> LedgerState:
        """The state that `write` left in a folder."""
        facts, path = read_json(folder / _FACTS), folder / _NUMBERS
        found = fingerprint_file(path) if path.is_file() else "no such file"
        if found != facts["numbers"]:
            raise CheckpointError(
                str(path),
                law="must be the file that the ledger wrote beside its facts",
                found=f"{found} instead of {facts['numbers']}",
                remedy="Use an earlier checkpoint; this one is not whole.",
            )
        numbers = load_file(path)
        accounts = range(len(facts["books"]))
        return cls(
            steps=(facts["steps"][0], facts["steps"][1]),
            identity=facts["identity"],
            tensors=tuple(_under(numbers, f"book/{index}/") for index in accounts),
            facts=tuple(facts["books"]),
            weights=_under(numbers, "weights/"),
        )

    def check(self, identity: Mapping[str, str], step: int) -> None:
        """Raise unless the ledger that is to go on from this state is of the same identity and at the same step."""
        differing = [name for name in identity if self.identity.get(name) != identity[name]]
        if differing:
            raise CheckpointError(
                "ForgettingLedger",
                law="must go on with the stage, segment length, precision, sites and blocks it began with",
                found=f"another {', '.join(differing)} in the checkpoint",
                remedy="Use the settings and rows of the interrupted run, or start the ledger anew.",
            )
        if self.steps[1] != step:
            raise CheckpointError(
                "ForgettingLedger",
                law=f"must go on from the step of its checkpoint ({self.steps[1]})",
                found=f"training at step {step}",
                remedy="Resume the trainer from the checkpoint that holds this ledger state.",
            )


def _under(numbers: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in numbers.items()
        if name.startswith(prefix)
    }
