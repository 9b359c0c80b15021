"""How many looks a search may make, counted from its settings. Imports no torch."""

from __future__ import annotations

from crosstune.merging.settings import RepairSettings

LINE = "straight line"
_LINE_LOOKS = 17  # at its finest; 5 where the account closes at once
_FREE = ("global", "ramp")  # too few coordinates to be pulled towards anything


def penalty_evaluations(settings: RepairSettings) -> int:
    """The most looks of one search under one penalty and fold; each begins where the last one ended."""
    return max(3, settings.evaluations // 3)


def looks_by_method(settings: RepairSettings) -> dict[str, int]:
    """The most looks of each method, the straight line first; most searches end far earlier."""
    points = len(settings.exchange_rates) + len(settings.budgets) + bool(settings.max_loss)
    strengths = len(settings.penalties) if len(settings.penalties) > 1 else 0
    shrinking = settings.folds * strengths * penalty_evaluations(settings)
    return {
        LINE: _LINE_LOOKS,
        **{
            name: points * settings.evaluations + (name not in _FREE) * shrinking
            for name in settings.methods
        },
    }


def looks_at_most(settings: RepairSettings) -> int:
    """The most looks of a whole search."""
    return sum(looks_by_method(settings).values())
