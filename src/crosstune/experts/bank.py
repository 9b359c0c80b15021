"""The experts of a mixture: a log of events, and what it replays to; and the names under which PEFT keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from crosstune.foundation.errors import SettingsError, TrainingError


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


@dataclass(frozen=True)
class Event:
    """Something that happened to a mixture."""

    kind: Literal["spawn", "register"]
    name: str
    """The skill."""
    expert: Expert | None = None
    """Who was born."""


class Bank:
    """The experts that a mixture has, in the order of their births: nothing but the replayed log.

    Args:
        events: What has happened so far.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        self.experts: dict[str, Expert] = {}
        self.learning: str | None = None
        """The expert that learns: spawned, and not registered yet."""
        for event in events:
            self.record(event)

    def record(self, event: Event) -> None:
        """Add an event and let it take effect."""
        if event.kind == "spawn" and event.expert is not None:
            self.experts[event.name] = event.expert
            self.learning = event.name
        elif self.learning == event.name:
            self.learning = None
        self.events.append(event)

    def check_idle(self, what: str) -> None:
        """Refuse what must not be done while an expert learns."""
        if self.learning is not None:
            raise TrainingError(
                what,
                law="must come when no expert is learning",
                found=f"{self.learning!r}, which is not registered",
                remedy=f"Call register({self.learning!r}, rows) first.",
            )

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
