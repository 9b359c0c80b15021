"""When each term of a distillation counts: phases as data, weight = alpha · ramp(step / steps). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from crosstune.foundation.errors import SettingsError, hold

TERMS = ("ce", "kd", "spans", "hidden", "layerwise", "attention", "contrastive", "routing")
"""What a curriculum speaks of; `routing` are the four entries of the student-aware router together."""
ALPHAS: Mapping[str, float] = {
    "ce": 0.0,
    "kd": 0.7,
    "spans": 0.7,
    "hidden": 0.1,
    "attention": 0.1,
    "layerwise": 0.05,
    "contrastive": 0.05,
    "routing.feature_matching": 0.1,
    "routing.attention_alignment": 0.1,
    "routing.expert_importance": 0.1,
    "routing.load_balancing": 0.01,
}
"""The weight of each entry where it counts wholly."""


@dataclass(frozen=True)
class CurriculumPhase:
    """A part of training: which terms count wholly, rise from 0 to that, or fall to 0; the others are off."""

    name: str
    start: float
    """Where it begins, as a share of all steps."""
    end: float
    """Where the next one begins."""
    whole: tuple[str, ...] = ()
    """Terms whose ramp is 1."""
    rising: tuple[str, ...] = ()
    """Terms whose ramp goes from 0 to 1."""
    falling: tuple[str, ...] = ()
    """Terms whose ramp goes from 1 to 0."""

    def ramp(self, term: str, progress: float) -> float:
        """The factor of a term at a share of all steps inside this phase."""
        risen = (progress - self.start) / (self.end - self.start)
        return {
            term in self.whole: 1.0,
            term in self.rising: risen,
            term in self.falling: 1.0 - risen,
        }.get(True, 0.0)


_FEATURES = ("hidden", "attention", "routing")
_DEEP = ("layerwise", "contrastive")
_SOFT = ("ce", "kd", "spans")
FLAT = (CurriculumPhase("all", 0.0, 1.0, whole=TERMS),)
THREE_PHASE = (
    CurriculumPhase("distribution", 0.0, 0.3, whole=_SOFT),
    CurriculumPhase("features", 0.3, 0.6, whole=_SOFT, rising=_FEATURES),
    CurriculumPhase("all", 0.6, 1.0, whole=(*_SOFT, *_FEATURES), rising=_DEEP),
)
REVERSED = (
    CurriculumPhase("all", 0.0, 0.4, whole=(*_SOFT, *_FEATURES), falling=_DEEP),
    CurriculumPhase("features", 0.4, 0.7, whole=_SOFT, falling=_FEATURES),
    CurriculumPhase("distribution", 0.7, 1.0, whole=_SOFT),
)
PRESETS: Mapping[str, tuple[CurriculumPhase, ...]] = {
    "flat": FLAT,
    "three-phase": THREE_PHASE,
    "reversed": REVERSED,
}


@dataclass(frozen=True)
class Curriculum:
    """Weights of terms as pure functions of the optimizer step and the number of steps."""

    phases: tuple[CurriculumPhase, ...] = FLAT
    """They follow each other from 0 to 1, without gap or overlap."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Weights other than `ALPHAS`, by entry."""

    def __post_init__(self) -> None:
        """Refuse phases with gaps, and names that nothing has.

        Raises:
            SettingsError: A law is not kept.
        """
        ends = [0.0, *(phase.end for phase in self.phases)]
        starts = [*(phase.start for phase in self.phases), 1.0]
        kept = ends == starts and sorted({*ends}) == ends
        words = (
            "must follow each other from 0 to 1, without gap or overlap",
            ", ".join(f"{p.name}: {p.start} to {p.end}" for p in self.phases) or "none",
            "Let each begin where the one before ends.",
        )
        hold(kept, SettingsError, "phases", words)
        for phase in self.phases:
            named = [*phase.whole, *phase.rising, *phase.falling]
            found = sorted({*(set(named) - {*TERMS}), *(n for n in named if named.count(n) > 1)})
            law = f"must name some of {', '.join(TERMS)}, each once"
            words = law, f"{', '.join(found)} in {phase.name}", "Correct the phase."
            hold(not found, SettingsError, "phases", words)
        strange = sorted(
            name
            for name, alpha in self.alphas.items()
            if name not in ALPHAS or not 0.0 <= alpha < float("inf")
        )
        law = f"must be finite, from 0 up, and of {', '.join(ALPHAS)}"
        found_words = ", ".join(f"{name}: {self.alphas[name]}" for name in strange)
        words = law, found_words, "Correct the weights."
        hold(not strange, SettingsError, "alphas", words)

    def phase(self, progress: float) -> CurriculumPhase:
        """The phase at a share of all steps."""
        return next((one for one in self.phases if progress < one.end), self.phases[-1])

    def alpha(self, entry: str) -> float:
        """The weight of an entry where it counts wholly."""
        return {**ALPHAS, **self.alphas}[entry]

    def counts(self, entry: str) -> bool:
        """Whether it has a weight in some phase."""
        middles = [(phase, (phase.start + phase.end) / 2) for phase in self.phases]
        return any(self.alpha(entry) * p.ramp(_term_of(entry), at) for p, at in middles)

    def ramp(self, entry: str, step: int, steps: int) -> float:
        """The factor of that weight at an optimizer step, counted from 0."""
        return self.phase(step / steps).ramp(_term_of(entry), step / steps)

    def weight(self, entry: str, step: int, steps: int) -> float:
        """Alpha · ramp."""
        return self.alpha(entry) * self.ramp(entry, step, steps)


def _term_of(entry: str) -> str:
    """Whose ramp an entry follows: what aligns attention looks at it, and follows attention's."""
    return "attention" if entry == "routing.attention_alignment" else entry.split(".")[0]


@dataclass(frozen=True)
class Schedule:
    """When one entry of the ledger counts, and how much: its weight at a step is what calling it gives."""

    entry: str
    curriculum: Curriculum
    steps: int
    """Optimizer steps of the whole training."""

    def __call__(self, step: int) -> float:
        """Alpha · ramp at an optimizer step, counted from 0."""
        return self.curriculum.weight(self.entry, step, self.steps)

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same for a training to be gone on with."""
        phases = [asdict(phase) for phase in self.curriculum.phases]
        return {"alpha": self.curriculum.alpha(self.entry), "phases": phases, "steps": self.steps}
