"""Losses whose optima are known, evaluations that count themselves, and the slow oracle of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from crosstune.merging.optimise.archive import Array, Evaluate, Evaluated, Goal, Objective

LEARNED, FORGOTTEN = 0, 1
BOUNDS = (0.0, 1.0)


def goal(rate: float = 1.0, penalty: float = 0.0) -> Goal:
    return Goal((LEARNED,), (FORGOTTEN,), rate, penalty)


class Counted:
    """An evaluation that counts how often it was asked for."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate, self.count = evaluate, 0

    def __call__(self, at: Array) -> Evaluated:
        self.count += 1
        return self.evaluate(at)


class Quadratics:
    """Learned Σ a (w − 1)²/2 and forgotten Σ b w²/2: the optimum at rate λ is a / (a + λ b), S separate sums."""

    def __init__(self, size: int, seed: int = 0, steep: float = 1.0) -> None:
        drawn = np.random.default_rng(seed).lognormal(size=(2, size))
        self.learned, self.forgotten = steep * drawn[0] / size, steep * drawn[1] / size

    def __call__(self, at: Array) -> Evaluated:
        losses = [self.learned @ (at - 1) ** 2 / 2, self.forgotten @ at**2 / 2]
        return Evaluated(
            at, np.array(losses), np.array([self.learned * (at - 1), self.forgotten * at])
        )

    def optimum(self, rate: float, penalty: float = 0.0) -> Array:
        pull = self.learned + 2 * penalty / len(self.learned)
        return pull / (pull + rate * self.forgotten)


def quartic(size: int, steep: float = 20.0, seed: int = 0) -> Evaluate:
    """Coupled, non-convex and steep: the learned loss a well of fourth order, the forgotten one waves on a slope."""
    generator = np.random.default_rng(seed)
    mix = np.eye(size) + 0.3 * generator.normal(size=(size, size)) / np.sqrt(size)
    weight = generator.lognormal(size=size) / size

    def evaluate(at: Array) -> Evaluated:
        bent = mix @ (at - 1)
        learned = steep * (weight @ bent**4) + 0.1 * (weight @ bent**2)
        waves = steep * (weight @ (at**2 + 0.1 * np.sin(4 * at)))
        slopes = [
            mix.T @ (weight * (4 * steep * bent**3 + 0.2 * bent)),
            steep * weight * (2 * at + 0.4 * np.cos(4 * at)),
        ]
        return Evaluated(at, np.array([learned, waves]), np.array(slopes))

    return evaluate


def ends(evaluate: Callable[[Array], Evaluated], size: int) -> list[Evaluated]:
    """Both endpoints, after first."""
    return [evaluate(np.ones(size)), evaluate(np.zeros(size))]


def coordinate_search(
    evaluate: Evaluate, start: Array, goal: Objective, levels: Sequence[float]
) -> Evaluated:
    """The point at which no single coefficient can win by moving to another level; it uses no slope."""
    best = evaluate(start)
    while True:
        before = best
        for place in range(len(start)):
            for level in levels:
                at = best.at.copy()
                at[place] = level
                best = min(best, evaluate(at), key=goal.value)
        if best is before:
            return best
