"""The settings of a distillation. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from crosstune.distillation.curriculum import (
    ALPHAS,
    PRESETS,
    TERMS,
    Curriculum,
    CurriculumPhase,
    Schedule,
)
from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.settings.options import at_least, one_of
from crosstune.foundation.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """How a student learns from a teacher."""

    output: str = "runs/distilled"
    """Where checkpoints lie; a training that was killed goes on from there."""
    terms: tuple[str, ...] = ("kd", "hidden", "attention")
    """Of ce, kd, spans, hidden, layerwise, attention, contrastive and routing."""
    curriculum: Literal["flat", "three-phase", "reversed"] = "flat"
    """When terms count: all always; the distribution first and deeper terms later; or the other way round."""
    phases: tuple[CurriculumPhase, ...] = ()
    """Phases of your own, in place of the curriculum's."""
    alphas: Mapping[str, float] = field(default_factory=dict)
    """Weights where terms count wholly, by entry; others than kd and spans .7, hidden and attention .1, layerwise and contrastive .05, routing .1 each (load balancing .01) and ce 0."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """What kd is: KL(teacher ‖ student), KL(student ‖ teacher), or the generalised Jensen-Shannon divergence."""
    beta: float = 0.5
    """The teacher's share in the mixture of the Jensen-Shannon divergence."""
    temperature: float = 1.0
    """Both distributions are softened by it, and kd is multiplied by its square."""
    final_temperature: float | None = None
    """The temperature at the last step, which is approached evenly; none keeps it."""
    top_k: int | None = None
    """kd over the union of both sides' so many likeliest tokens and one bucket for the rest; none takes the whole vocabulary."""
    vocabulary: int | None = None
    """Tokens that both models know, where their heads are padded to other sizes."""
    layers: tuple[tuple[int, int], ...] = ()
    """Pairs of a student's and a teacher's site for hidden, layerwise and attention; none spreads the teacher's evenly."""
    hidden: Literal["mse", "cosine"] = "mse"
    """How states are compared: squared differences over the teacher's variance, or 1 less the cosine."""
    heads: Literal["mean", "matched"] = "mean"
    """How attention maps are compared: averaged over heads, or head by head, where both models have as many."""
    pilot_rows: int = 64
    """Training rows that the teacher's variances, and the negatives of contrastive, are taken from once."""
    debug_every: int = 0
    """Steps between printed ledgers, and between measurements of each term's gradient; 0: none, but CROSSTUNE_DEBUG prints."""
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(learning_rate=1e-3, steps=300)
    )
    """How the student is trained."""
    seed: int = 0
    """Draws projections, the order of rows, dropout and the router's noise."""

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        words = "must be at least one, each once", ", ".join(self.terms) or "none", "Name terms."
        kept = bool(self.terms) and len({*self.terms}) == len(self.terms)
        hold(kept, SettingsError, "terms", words)
        for term in self.terms:
            one_of("terms", term, TERMS)
        one_of("curriculum", self.curriculum, tuple(PRESETS))
        one_of("divergence", self.divergence, ("forward", "reverse", "jsd"))
        one_of("hidden", self.hidden, ("mse", "cosine"))
        one_of("heads", self.heads, ("mean", "matched"))
        for name in ("temperature", "final_temperature"):
            value = getattr(self, name)
            law = "must be above 0, and finite", value, "Leave it out, or choose 1 to 4."
            hold(value is None or 0.0 < value < float("inf"), SettingsError, name, law)
        cold = self.temperature == (self.final_temperature or 1.0) == 1.0
        seen = f"{self.temperature} to {self.final_temperature or self.temperature}"
        words = "must be 1 where spans are a term", seen, "Leave it out."
        hold(cold or "spans" not in self.terms, SettingsError, "temperature", words)
        law = "must lie between 0 and 1", self.beta, "Leave it out."
        hold(0.0 < self.beta < 1.0, SettingsError, "beta", law)
        for name, least in (("top_k", 1), ("vocabulary", 2), ("pilot_rows", 2)):
            value = getattr(self, name)
            at_least(name, least if value is None else value, least)
        law = "must be off: a packed sequence is no row", "packing", "Leave it out."
        hold(not self.training.packing, SettingsError, "packing", law)
        law = (
            "must be None: it is the student that has adapters",
            "LoRA",
            "Wrap the student by PEFT.",
        )
        hold(self.training.lora is None, SettingsError, "training.lora", law)
        off = [name for name in self.terms if not any(map(self.course.counts, self.of_term(name)))]
        rule = "must be above 0, in some phase, for terms that are asked for"
        found = f"{', '.join(off)}: 0"
        words = rule, found, "Set it, as in alphas={'ce': 1.0}, or leave the term out."
        hold(not off, SettingsError, "alphas", words)

    @property
    def course(self) -> Curriculum:
        """Weights as functions of the step."""
        return Curriculum(self.phases or PRESETS[self.curriculum], self.alphas)

    @property
    def entries(self) -> tuple[str, ...]:
        """The entries of the ledger that the terms may have."""
        return tuple(entry for term in self.terms for entry in self.of_term(term))

    @staticmethod
    def of_term(term: str) -> tuple[str, ...]:
        """The entries of one term: itself, or the four of the router."""
        return tuple(entry for entry in ALPHAS if entry.split(".")[0] == term)

    def schedule(self, entry: str) -> Schedule:
        """When an entry counts, and how much."""
        return Schedule(entry, self.course, self.training.steps)
