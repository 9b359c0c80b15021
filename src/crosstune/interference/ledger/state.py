"""The forgetting ledger inside a checkpoint: one safetensors file and one JSON file, checked before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.storage import (
    atomic_write,
    fingerprint,
    fingerprint_file,
    read_json,
    write_json,
)
from crosstune.interference.ledger.accounts import Book

_NUMBERS = "forgetting.safetensors"
_FACTS = "forgetting.json"


@dataclass(frozen=True)
class LedgerState:
    """What a ledger remembers between two optimizer steps.

    Attributes:
        steps: Where the open chord starts, and where training is.
        identity: Fingerprints of what must be the same to go on (stage, blocks, sites, …).
        tensors: The numbers of each account.
        facts: The segments of each account.
        weights: The weights at the open chord's start; empty when no step was taken on it.
    """

    steps: tuple[int, int]
    identity: dict[str, str]
    tensors: tuple[dict[str, Tensor], ...]
    facts: tuple[list[dict[str, Any]], ...]
    weights: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        books: Sequence[Book],
        steps: tuple[int, int],
        identity: Mapping[str, object],
        weights: Mapping[str, Tensor],
    ) -> LedgerState:
        """The state of a running ledger."""
        return cls(
            steps=steps,
            identity={name: fingerprint(value) for name, value in identity.items()},
            tensors=tuple(book.tensors() for book in books),
            facts=tuple(book.facts() for book in books),
            weights=dict(weights),
        )

    def write(self, folder: Path) -> None:
        """Write the two files, each whole or not at all; the facts vouch for the numbers."""
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
            _refuse(path, f"{found} instead of {facts['numbers']}")
        try:
            numbers = load_file(path)
        except SafetensorError as error:
            _refuse(path, str(error))
        books = range(len(facts["books"]))
        return cls(
            steps=(facts["steps"][0], facts["steps"][1]),
            identity=facts["identity"],
            tensors=tuple(_under(numbers, f"book/{index}/") for index in books),
            facts=tuple(facts["books"]),
            weights=_under(numbers, "weights/"),
        )

    def check(self, identity: Mapping[str, object], step: int) -> None:
        """Hold the state to the ledger that is to go on from it."""
        now = {name: fingerprint(value) for name, value in identity.items()}
        differing = [name for name in now if self.identity.get(name) != now[name]]
        if differing:
            raise CheckpointError(
                "ForgettingLedger",
                law="must go on with the stage, chord length, precision, sites and blocks it began with",
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


def _refuse(path: Path, found: str) -> NoReturn:
    raise CheckpointError(
        str(path),
        law="must be the file that the ledger wrote beside its facts",
        found=found,
        remedy="Use an earlier checkpoint; this one is not whole.",
    )
