"""The settings of experts: when a skill is new, who answers a token, when experts come and go. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.settings.options import one_of
from crosstune.foundation.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class NoveltySettings:
    """How it is decided whether the rows of a skill are like those of a known one."""

    rule: Literal["calibrated", "cosine"] = "calibrated"
    """calibrated: new where p is at most `level` for every known skill. cosine: new where the similarity lies below a threshold."""
    level: float = 0.05
    """How often rows of a known skill may be taken for new; the interval of the similarity has level 1 − this."""
    batches: int = 199
    """Batches that p compares with, so that it is at least 1 / (batches + 1): 19 are the fewest that reach .05."""
    over: Literal["max", "median", "nearest"] = "max"
    """Which of the cosines with the known skills is the similarity of the rule `cosine`; nearest: the mean of the largest
    `neighbours`."""
    neighbours: int = 2
    """How many skills `over: nearest` takes."""
    threshold: float = 0.75
    """Similarity below which the rule `cosine` calls a skill new."""
    decay: float = 0.0
    """With k known skills the threshold is `threshold` − decay · log(1 + k)."""
    min_rows: int = 32
    """With fewer rows nothing is decided, and a known skill must have as many."""
    min_tokens: int = 512
    """With fewer scored tokens nothing is decided."""
    seed: int = 0
    """Changes the batches that p compares with."""

    def __post_init__(self) -> None:
        one_of("rule", self.rule, ("calibrated", "cosine"))
        one_of("over", self.over, ("max", "median", "nearest"))
        _within(self, "[1, inf)", "batches", "neighbours", "min_tokens")
        _within(self, "[4, inf)", "min_rows")
        _within(self, "(0, 1)", "level")
        _within(self, "(-1, 1)", "threshold")
        _within(self, "[0, 1)", "decay")


@dataclass(frozen=True, kw_only=True)
class RouterSettings:
    """Who answers a token, and how that is learned."""

    kind: Literal["prefix", "learned"] = "prefix"
    """prefix: one analytic router, and an expert learns alone. learned: a router in every block, trained with the newest expert."""
    top: int | None = None
    """How many experts, the model itself among them, answer at a token; all where it is None."""
    reads: Literal["state", "prefix"] = "prefix"
    """What a learned router reads: a token's state, or beside it the mean of the states of its sequence so far."""
    immature: int = 20
    """Optimizer steps after a birth in which every expert answers a learned router; then two, and half as many later `top`."""
    temperature: float = 1.0
    """The learned gates' temperature at a birth, which falls to 1 while the expert is immature."""
    renormalise: bool = False
    """Whether the gates of the `top` experts are scaled up to sum to 1; of one expert the router then learns nothing."""
    capacity: float | None = None
    """While learning, an expert answers at most this many times its even share of the tokens of a sequence so far."""
    routing: float = 1.0
    """Weight of −log of the right skill's gate in the loss of a learned router."""
    balance: float = 0.0
    """Weight of its load balance, K Σ f p: 1 where all experts are used alike."""
    entropy: float = 0.0
    """Weight of its gates' entropy; below 0 it spreads them."""
    z: float = 0.0
    """Weight of the squared log-sum-exp of its scores."""
    keep: float = 0.0
    """Weight of the divergence of gates from those before the stage, on replayed rows."""
    distillation: float = 0.0
    """Weight of the divergence of the output from that of the experts before the stage, on replayed rows."""

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("prefix", "learned"))
        one_of("reads", self.reads, ("state", "prefix"))
        law = "must be off where one expert answers: its gate would be 1 at any score, and the router would learn nothing"
        blind = self.kind == "learned" and self.renormalise and self.top == 1
        words = law, "top=1", "Leave it out, or let two answer."
        hold(not blind, SettingsError, "renormalise", words)
        _within(self, "[1, inf)", "top", "temperature")
        _within(self, "[0, inf)", "immature", "routing", "balance", "z", "keep", "distillation")
        _within(self, "(0, inf)", "capacity")
        _within(self, "(-inf, inf)", "entropy")


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """When experts are born, grow, freeze, merge and go. What is left at its default never happens."""

    spawn: Literal["novelty", "bandit"] = "novelty"
    """novelty: new rows get an expert. bandit: where it is taken to win enough for its parameters, by what was won before."""
    cooldown: int = 0
    """Optimizer steps that must lie between two births."""
    max_experts: int | None = None
    """No birth beyond so many."""
    min_gain: float = 0.0
    """Nats per token that a probe of the smallest rank must win on held-out rows before a birth; 0 asks for no probe."""
    probe_steps: int = 20
    """Optimizer steps of the probe."""
    grow_below: float | None = None
    """Double the rank of the expert that learns where its last evaluation improved by less than so many nats per token …"""
    max_rank: int = 64
    """… up to this rank."""
    freeze_below: float | None = None
    """Freeze a projection of the expert that learns where a step moves it by less than this share of its norm."""
    merge_every: int | None = None
    """After so many skills, experts of little use that are alike are merged, and kept if no skill is shown to be worse."""
    merge_usage: float = 0.05
    """Mean gate below which an expert is of little use."""
    merge_similarity: float = 0.5
    """Cosine of updates above which experts are alike (average linkage)."""
    max_parameters: int | None = None
    """With more parameters in experts, the least used go; they stay on disk."""

    def __post_init__(self) -> None:
        one_of("spawn", self.spawn, ("novelty", "bandit"))
        _within(self, "[1, inf)", "max_experts", "max_rank", "merge_every", "max_parameters")
        _within(self, "[0, inf)", "cooldown", "probe_steps", "min_gain", "merge_usage")
        _within(self, "[0, inf)", "grow_below", "freeze_below")
        _within(self, "(-1, 1)", "merge_similarity")


@dataclass(frozen=True, kw_only=True)
class SkillsSettings:
    """How skills are learned one after another."""

    rank: int = 16
    """Rank of an expert at its birth."""
    router: RouterSettings = field(default_factory=RouterSettings)
    """Who answers a token."""
    novelty: NoveltySettings = field(default_factory=NoveltySettings)
    """When a skill is new."""
    policy: PolicySettings = field(default_factory=PolicySettings)
    """When experts come and go."""
    replay: int = 0
    """Rows of each skill that are kept to be learned again beside later ones."""
    replay_share: float = 0.25
    """The share of replayed rows in what is learned, all earlier skills alike."""
    sequential: bool = False
    """Whether one adapter of that rank learns all skills, without a router: what experts are compared with."""
    training: TrainingSettings = field(
        default_factory=lambda: TrainingSettings(learning_rate=3e-3, steps=60)
    )
    """How one skill is learned."""

    def __post_init__(self) -> None:
        _within(self, "[1, inf)", "rank")
        _within(self, "[0, inf)", "replay")
        _within(self, "(0, 1)", "replay_share")
        law = "must be 0 where nothing is replayed: every row would say that the newest expert is right"
        blind = self.router.kind == "learned" and self.router.routing > 0 and self.replay == 0
        replays = law, self.router.routing, "Set `replay`, or leave out the term."
        hold(not blind, SettingsError, "router.routing", replays)
        alone = "must be left out: experts are what is trained", "an adapter", "Set `rank`."
        hold(self.training.lora is None, SettingsError, "training.lora", alone)


def _within(settings: Any, interval: str, *names: str) -> None:
    """Hold numbers that are given to an interval, whose lower end `[` holds and `(` leaves out; NaN lies in none."""
    low, high = map(float, interval[1:-1].split(","))
    for name in names:
        if (found := getattr(settings, name)) is not None:
            kept = low < found < high or (interval[0] == "[" and found == low)
            words = f"must lie in {interval}", found, "Choose a number there, or leave it out."
            hold(kept, SettingsError, name, words)
