"""The experts of a mixture: a log of events, and what it replays to; and the names under which PEFT keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from crosstune.foundation.errors import SettingsError, TrainingError, hold

BASE = "base"
"""The skill of the model itself: what it answers alone."""


@dataclass(frozen=True)
class Expert:
    """One expert of a mixture: an ordinary LoRA adapter."""

    name: str
    adapter: str
    """The adapter's name in PEFT, and its folder's."""
    rank: int
    alpha: float
    """The update is scaled by alpha / rank."""
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Event:
    """Something that happened to a mixture."""

    kind: Literal["spawn", "register", "unfreeze", "freeze", "grow", "merge", "evict"]
    name: str
    """The skill; of a merge the one that came of it."""
    expert: Expert | None = None
    """Who was born, or what it grew to."""
    others: tuple[str, ...] = ()
    """The skills that were merged; the projections that were frozen."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured when it was decided: p, similarity, gain, usage …"""


class Bank:
    """The experts that a mixture has, in the order of their births: nothing but the replayed log of events."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.events: list[Event] = []
        self.experts: dict[str, Expert] = {}
        self.learning: str | None = None
        """The expert that learns: spawned or unfrozen, and not registered since."""
        self.frozen: tuple[str, ...] = ()
        """Its projections that learn no more."""
        self.adapters: dict[str, str] = {}
        """The skill of each adapter that there ever was; their names stay taken."""
        for event in events:
            self.record(event)

    def record(self, event: Event) -> None:
        """Add an event and let it take effect."""
        for gone in {"merge": event.others, "evict": (event.name,)}.get(event.kind, ()):
            del self.experts[gone]
        if event.expert is not None:
            self.experts[event.name] = event.expert
            self.adapters[event.expert.adapter] = event.name
        if event.kind in ("spawn", "unfreeze"):
            self.learning, self.frozen = event.name, ()
        elif event.kind == "freeze":
            self.frozen += event.others
        elif event.kind in ("register", "evict") and self.learning == event.name:
            self.learning, self.frozen = None, ()
        self.events.append(event)

    def check_idle(self, what: str, but: str | None = None) -> None:
        """Refuse what must not be done while an expert learns, or while not just the one does that it is done to."""
        law = f"must come when {'no expert' if but is None else repr(but)} is learning"
        found = f"{self.learning!r}, which is not registered" if self.learning else "none"
        call = f"register({self.learning!r}, rows)" if self.learning else f"unfreeze({but!r})"
        hold(self.learning == but, TrainingError, what, (law, found, f"Call {call} first."))

    def expert(self, name: str) -> Expert:
        """The expert of a skill, or an error that names those there are."""
        found = f"{name!r}; there are {sorted(self.experts)}"
        words = "must be an expert of the mixture", found, "Spawn it first."
        hold(name in self.experts, SettingsError, "name", words)
        return self.experts[name]

    def adapter_name(self, name: str) -> str:
        """A new name that PEFT saves all tensors of."""
        adapter = slug(name)
        law = "must have a letter from a to z or a digit, and be no other expert's, gone ones included"
        found = f"{name!r}, beside {sorted(self.adapters.values()) or 'none'}"
        words = law, found, f"Use another name; {BASE!r} is the model itself."
        free = adapter != "xp_" and name != BASE and adapter not in self.adapters
        hold(free, SettingsError, "name", words)
        return adapter


def slug(name: str) -> str:
    """What PEFT calls the expert of a skill, and its folder: names that differ only in marks and capitals are one."""
    return "xp_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
