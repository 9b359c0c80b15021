"""One integer in, named independent generators out.

A stream is named by words (``seeds.torch("data", "order", 3)``); its seed is SHA-256 of the root and the
names, so adding a stream never shifts another one, and two roots never share a stream.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch

_BITS = 63  # torch.Generator.manual_seed and numpy both take a non-negative 63-bit integer


def _digest(*parts: str | int) -> int:
    # Length-prefixed, so that ("ab", "c") and ("a", "bc") are different names.
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> (64 - _BITS)


@dataclass(frozen=True)
class Seeds:
    """The generators of one run.

    Attributes:
        root: The integer the user chose.
    """

    root: int

    def derive(self, *names: str | int) -> int:
        """The seed of a stream, named from general to particular: an integer in [0, 2^63), the same on every machine."""
        return _digest("seed", self.root, *names)

    def torch(self, *names: str | int) -> torch.Generator:
        """A CPU generator at the start of a named stream; the global generator is not touched."""
        import torch

        return torch.Generator().manual_seed(self.derive(*names))

    def numpy(self, *names: str | int) -> numpy.random.Generator:
        """A NumPy generator at the start of a named stream; the global state is not touched."""
        import numpy

        return numpy.random.default_rng(self.derive(*names))


def content_key(text: str, *names: str | int) -> int:
    """A number in [0, 2^63) to order or place rows by, which depends on what a row says and on nothing else.

    `names` are the purpose (and seed), so that two purposes order the same rows independently.
    """
    return _digest("content", text, *names)
