"""The account of skills that were learned one after another: their rows, what these cost when, and by whom it was forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, Self

import torch
from torch import Tensor

from crosstune.experts.health import SkillHealth
from crosstune.foundation.data import Encoded, Task, encode
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife

POSITIONS = (0, 1, 2, 4, 8, 16, 32, 64)
"""Where the router's cost is told apart by a token's place in its row."""


@dataclass(frozen=True)
class SkillRows:
    """A skill as a model reads it."""

    name: str
    train: Sequence[Encoded]
    """Windows of its rows, in random order, so that the first ones are of many rows."""
    test: Sequence[Encoded]
    """One window of each held-out row."""

    @classmethod
    def of(cls, task: Task, tokenizer: Any, length: int) -> Self:
        """A task's rows, cut into windows."""
        chance = Random(task.name)
        train = encode(task.train, tokenizer, length, window=True)
        windows: dict[str, list[Encoded]] = {}
        for one in encode(task.test, tokenizer, length, window=True):
            windows.setdefault(one.row_id, []).append(one)
        test = [chance.choice(own) for own in windows.values()]
        return cls(task.name, chance.sample(train, len(train)), test)


@dataclass(frozen=True)
class SkillLosses:
    """Held-out nats of one skill at one time, summed over each independent row."""

    routed: tuple[float, ...]
    """Under the gates of that time."""
    known: tuple[float, ...]
    """With its own expert alone."""
    tokens: tuple[int, ...]
    bytes: int
    """UTF-8 bytes that these tokens spell."""
    usage: Mapping[str, float]
    """The mean gate of each skill."""
    by_position: tuple[float, ...]
    """What the router costs at `POSITIONS`, nats per token."""

    @classmethod
    def of(cls, found: SkillHealth, rows: Sequence[Encoded]) -> Self:
        """The sums of what was measured token by token."""
        routed, known, tokens = (
            tuple(found.by_unit(values).tolist())
            for values in (found.routed, found.known, found.scored)
        )
        spelled = sum(row.scored_bytes for row in rows)
        return cls(routed, known, tokens, spelled, found.usage, tuple(found.by_position(POSITIONS)))

    def mean(self, what: Literal["routed", "known"] = "routed") -> Interval:
        """Nats per token, with its jackknife over rows."""
        return ratio_jackknife(getattr(self, what), self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of the text, which compares tokenizers."""
        return sum(self.routed) / self.bytes / float(torch.tensor(2.0).log())

    @property
    def router_cost(self) -> Interval:
        """Nats per token that the gates cost against the skill's expert alone."""
        top = torch.tensor(self.routed) - torch.tensor(self.known)
        return ratio_jackknife(top, self.tokens)

    def won(self, alone: SkillLosses) -> Interval:
        """Nats per token that the skill's expert wins against another answer to the same rows, paired."""
        return ratio_jackknife(alone._less(self, "known"), self.tokens)

    def forgotten_since(self, then: SkillLosses) -> dict[str, Interval]:
        """Nats per token lost since, paired by rows: `whole` = `experts` (the skill's expert alone) + `router` (the rest)."""
        experts = self._less(then, "known")
        whole = self._less(then, "routed")
        parts = {"whole": whole, "experts": experts, "router": whole - experts}
        return {name: ratio_jackknife(sums, self.tokens) for name, sums in parts.items()}

    def _less(self, then: SkillLosses, what: str) -> Tensor:
        now, before = (
            torch.tensor(getattr(one, what), dtype=torch.float64) for one in (self, then)
        )
        return now - before


@dataclass(frozen=True)
class LearnedSkill:
    """What became of the rows of a skill when they came."""

    skill: str
    expert: str
    """Whose rows they were taken for: an expert, or ``base``, the model itself."""
    born: bool
    """Whether the expert was born for them."""
    verdict: str
    p: float
    similarity: float
    nearest: str
    why: str
    gain: tuple[float, float, float]
    """Nats per token that who learned them wins on the skill's held-out rows against the model alone, with its interval."""
    held_out: Mapping[str, SkillLosses]
    """Of every skill that has come so far, afterwards."""
    figures: Mapping[str, float]
    """What learning took: steps, tokens per second, padding, FLOPs, memory, the share of weights that moved, gradient norm."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """What `asdict` made, read again."""
        losses = {
            name: SkillLosses(**{key: _fixed(value) for key, value in one.items()})
            for name, one in stored["held_out"].items()
        }
        return cls(**{**stored, "held_out": losses, "gain": tuple(stored["gain"])})


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
