"""The experts of a mixture, by the names of their skills, and the names under which PEFT keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from crosstune.foundation.errors import SettingsError


@dataclass(frozen=True)
class Expert:
    """One expert of a mixture: an ordinary LoRA adapter."""

    name: str
    """The skill's name, as it was spawned."""
    adapter: str
    """The adapter's name in PEFT, and its folder's."""
    rank: int
    """Columns of A and B."""
    alpha: float
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...]
    """Names of the modules it adapts."""


@dataclass
class Bank:
    """The experts that a mixture has, in the order of their births."""

    experts: dict[str, Expert] = field(default_factory=dict)

    def expert(self, name: str) -> Expert:
        """The expert of a skill, or an error that names those there are."""
        if name not in self.experts:
            raise SettingsError(
                "name",
                law="must be an expert of the mixture",
                found=f"{name!r}; there are {sorted(self.experts)}",
                remedy="Spawn it first.",
            )
        return self.experts[name]

    def adapter_name(self, name: str, reserved: str) -> str:
        """A new name that PEFT saves all tensors of: a prefix and a slug."""
        adapter = "xp_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        taken = [expert.adapter for expert in self.experts.values()]
        if adapter == "xp_" or name == reserved or adapter in taken:
            raise SettingsError(
                "name",
                law="must have a letter or digit, and be no other expert's",
                found=f"{name!r}, beside {sorted(self.experts) or 'none'}",
                remedy=f"Use another name; {reserved!r} is the model itself.",
            )
        return adapter
