"""Learning rate and term weights as pure functions of the optimizer step."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, *, kind: str, steps: int, warmup: int) -> float:
    """The share of the peak learning rate that optimizer step ``step`` (counted from 0) is taken with.

    Warm-up rises as (step + 1) / warmup, so no step is wasted at 0; linear and cosine fall so that
    the step after the last would be 0.

    Args:
        step: Optimizer steps already taken.
        kind: ``constant``, ``linear`` or ``cosine``.
        steps: Optimizer steps of the whole stage.
        warmup: Steps of the rise.

    Returns:
        A number in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    return left if kind == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))
