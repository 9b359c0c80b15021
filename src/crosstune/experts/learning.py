"""Skills learned one after another: is it new, who learns it, and what was forgotten since, by experts or by the router."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

import torch
from torch import Tensor
from transformers import TrainerCallback

from crosstune.experts.bank import Event
from crosstune.experts.health import SkillHealth, skill_health
from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.experts.novelty import Novelty
from crosstune.experts.settings import SkillsSettings
from crosstune.experts.terms import router_terms
from crosstune.foundation.data import Encoded, Task, encode
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife
from crosstune.foundation.storage import atomic_folder, read_json, write_json
from crosstune.foundation.training import StageData, StageResult, train_stage

ALL = "all"
"""The one expert of a sequential run."""
ASSESSED, REGISTERED = 64, 256
"""Rows of a skill that are assessed, and that router and embedding read: more change little and cost passes."""
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


class SkillLearner:
    """Learns one skill after another with a mixture; killed at any time, it goes on from its folder with the same bits.

    Args:
        model: A causal language model, frozen from now on.
        tokenizer: Its tokenizer.
        settings: How.
        folder: Where the mixture and its checkpoints are kept.
        seed: Draws the experts' first factors, and the order of rows.
        callbacks: Further callbacks of the trainings.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: SkillsSettings,
        *,
        folder: Path,
        seed: int = 0,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.settings, self.folder, self.seed = settings, folder, seed
        self.callbacks = callbacks
        self.skills: dict[str, SkillRows] = {}
        self.answers: dict[str, str] = {}
        self._done: list[LearnedSkill] = []
        if self._saved.is_dir():
            self.mixture = ExpertMixture.load(self._saved / "mixture", model, tokenizer)
            stored = read_json(self._saved / "skills.json")
            self._done = [LearnedSkill.of_json(one) for one in stored["skills"]]
        else:
            self.mixture = ExpertMixture(
                model,
                tokenizer,
                router=settings.router,
                length=settings.training.length,
                seed=seed,
                novelty=settings.novelty,
            )
        self.mixture.replay.quota = settings.replay
        self.learned: list[LearnedSkill] = []

    @property
    def _saved(self) -> Path:
        return self.folder / "learned"

    def learn(self, skill: SkillRows, *, known: bool = False) -> LearnedSkill:
        """Assess rows, give them an expert where they are new, train, register, measure every skill so far, and save.

        Args:
            skill: The rows. Those of a skill that came before under the same name are measured on the same held-out rows.
            known: Whether the model itself knows the skill: it is registered as its own, and nothing is trained.

        Returns:
            What became of them.
        """
        self.skills.setdefault(skill.name, skill)
        if len(self.learned) < len(self._done):
            found = self._done[len(self.learned)]
        else:
            found = self._learn_now(skill, known)
        self.learned.append(found)
        self.answers.setdefault(skill.name, found.expert)
        return found

    def _learn_now(self, skill: SkillRows, known: bool) -> LearnedSkill:
        novelty, expert, born = self._choose(skill, known)
        figures: dict[str, float] = {}
        if expert != BASE:
            figures = self._train(skill, expert)
        self._register(skill, expert)
        self.answers.setdefault(skill.name, expert)
        similarity, held_out = novelty.similarity, self.held_out()
        gain = held_out[skill.name].won(self._measured(BASE, self.skills[skill.name]))
        found = LearnedSkill(
            skill.name,
            expert,
            born,
            novelty.verdict,
            novelty.p,
            float("nan") if similarity is None else float(similarity.value),
            novelty.nearest or "",
            novelty.why,
            (float(gain.value), float(gain.low), float(gain.high)),
            held_out,
            figures,
        )
        self._save(found)
        return found

    def _choose(self, skill: SkillRows, known: bool) -> tuple[Novelty, str, bool]:
        """Whose the rows are: an expert that is born for them, one that learns again, or the model itself."""
        novelty = self.mixture.assess(skill.train[:ASSESSED])
        if self.settings.sequential:
            born = ALL not in self.mixture.bank.experts
            if born:
                self.mixture.spawn(ALL, rank=self.settings.rank)
            else:
                self.mixture.unfreeze(ALL)
            return novelty, ALL, born
        if known:
            return novelty, BASE, False
        if novelty.is_new:
            self.mixture.spawn(skill.name, rank=self.settings.rank)
            return novelty, skill.name, True
        if novelty.verdict == "undecided" or novelty.nearest in (None, BASE):
            return novelty, BASE, False
        self.mixture.unfreeze(str(novelty.nearest))
        return novelty, str(novelty.nearest), False

    def _train(self, skill: SkillRows, expert: str) -> dict[str, float]:
        """One stage, on the skill's rows and replayed ones."""
        place, training = self.folder / "training", self.settings.training
        number = len(self.learned)
        kept, share = self.mixture.replay, self.settings.replay_share
        new = skill.train[: training.steps * training.batch_rows]  # what is read of them at most
        rows, skills = kept.mixed(new, share, Seeds(self.seed).derive("replay", number))
        data = StageData(rows, self.mixture.tokenizer.pad_token_id, tokenizer="")
        result = train_stage(
            self.mixture,
            data,
            training,
            output_folder=place,
            callbacks=[self.mixture.callback(), *self.callbacks],
            seed=Seeds(self.seed).derive("skill", number),
            terms=router_terms(self.mixture, skills),
        )
        return _figures(self.mixture, result)

    def _register(self, skill: SkillRows, expert: str) -> None:
        """Let router and library know the rows; of a sequential run there is no router."""
        rows = skill.train[:REGISTERED]
        if self.settings.sequential:
            self.mixture.replay.keep(skill.name, rows)
            self.mixture.bank.record(Event("register", expert))
            self.mixture.requires_grad_(False)
        else:
            self.mixture.register(expert, rows)

    def held_out(self) -> dict[str, SkillLosses]:
        """The losses of every skill that has come so far, on its held-out rows, under today's gates and with its expert known."""
        return {name: self._measured(self.answers[name], own) for name, own in self.skills.items()}

    def _measured(self, expert: str, rows: SkillRows) -> SkillLosses:
        found = skill_health(self.mixture, expert, rows.test)
        if self.settings.sequential:  # there is no router
            found = replace(found, routed=found.known)
        return SkillLosses.of(found, rows.test)

    def _save(self, found: LearnedSkill) -> None:
        """The mixture and what was learned so far appear together; then the stage's checkpoints may go."""
        done = [asdict(one) for one in (*self.learned, found)]
        with atomic_folder(self._saved, replace=True) as fresh:
            self.mixture.save(fresh / "mixture")
            write_json(fresh / "skills.json", {"skills": done})
        shutil.rmtree(self.folder / "training", ignore_errors=True)


@dataclass(frozen=True)
class SkillsLearned:
    """What `learn_skills` returns."""

    mixture: ExpertMixture
    skills: tuple[LearnedSkill, ...]
    """What became of each, in the order in which they came."""

    def forgetting(self) -> dict[str, dict[str, Interval]]:
        """Nats per token that each skill has lost since it was learned last: `whole`, by `experts` and by `router`."""
        then: dict[str, SkillLosses] = {}
        for one in self.skills:
            then[one.skill] = one.held_out[one.skill]
        now = self.skills[-1].held_out
        return {name: now[name].forgotten_since(losses) for name, losses in then.items()}


def learn_skills(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[Task],
    settings: SkillsSettings | None = None,
    *,
    known: Task | None = None,
    output_folder: Path | str,
    seed: int = 0,
) -> SkillsLearned:
    """Skills learned in the order given: an expert for each that is new, none forgotten but by a wrong gate.

    Args:
        model: A causal language model; it is frozen, and its weights stay as they are.
        tokenizer: Its tokenizer.
        tasks: The skills as they come.
        settings: How; the defaults route by prefix.
        known: What the model knows already and shall go on answering itself.
        output_folder: Where the mixture is saved after every skill. A run that was killed goes on from there.
        seed: Draws the experts' first factors, and the order of rows.

    Returns:
        The mixture, and what became of each skill.

    Raises:
        DataError: A skill has no rows, or too few to be known again.
        CheckpointError: The folder holds skills learned from another model or in another order.
    """
    settings = settings or SkillsSettings()
    learner = SkillLearner(model, tokenizer, settings, folder=Path(output_folder), seed=seed)
    for task in tasks if known is None else (known, *tasks):
        rows = SkillRows.of(task, tokenizer, settings.training.length)
        learner.learn(rows, known=task is known)
    return SkillsLearned(learner.mixture, tuple(learner.learned))


def _figures(mixture: ExpertMixture, result: StageResult) -> dict[str, float]:
    """What a stage took."""
    cost, base = result.cost, mixture.get_base_model()
    moved = sum(value.numel() for value in mixture.parameters() if value.requires_grad)
    norms = [line["grad_norm"] for line in result.history if "grad_norm" in line]

    return {
        "steps": float(result.steps),
        "steps_per_second": result.steps / cost.training_seconds,
        "tokens_per_second": cost.tokens_per_second,
        "padding": cost.padding_fraction,
        "flops": 6.0 * cost.positions * base.num_parameters(exclude_embeddings=True),
        "peak_memory_bytes": float(cost.peak_device_bytes or cost.peak_memory_bytes),
        "trainable_share": moved / sum(value.numel() for value in mixture.parameters()),
        "gradient_norm": sum(norms) / len(norms) if norms else float("nan"),
    }


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
