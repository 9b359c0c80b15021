"""The account of skills that are learned one after another: their rows, and what became of these when they came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from crosstune.experts.health import SkillHealth
from crosstune.foundation.data import Encoded, Task, encode


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
class LearnedSkill:
    """What became of the rows of a skill when they came."""

    skill: str
    expert: str
    """Whose rows they were taken for: an expert, or ``base``, the model itself."""
    born: bool
    verdict: str
    p: float
    similarity: float
    nearest: str
    why: str
    gain: tuple[float, float, float]
    """Nats per token that who learned them wins on the skill's held-out rows against the model alone, with its interval."""
    held_out: Mapping[str, SkillHealth]
    """Of every skill that has come so far, afterwards."""
    figures: Mapping[str, float]
    """What learning took: steps, tokens per second, padding, FLOPs, memory, the share of weights that moved, gradient norm."""

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """What `asdict` made, read again."""
        held_out = {
            name: SkillHealth(**{key: _fixed(value) for key, value in one.items()})
            for name, one in stored["held_out"].items()
        }
        return cls(**{**stored, "held_out": held_out, "gain": tuple(stored["gain"])})


def _fixed(value: Any) -> Any:
    """A list of JSON as the tuple it was."""
    return tuple(value) if isinstance(value, list) else value
