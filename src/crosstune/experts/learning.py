"""Skills learned one after another: is it new, who learns it, and what was forgotten since, by experts or by the router."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback

from crosstune.experts.accounts import LearnedSkill, SkillLosses, SkillRows
from crosstune.experts.bank.log import Event
from crosstune.experts.gated import factors
from crosstune.experts.health import skill_health
from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.experts.novelty import Novelty
from crosstune.experts.policy import (
    may_grow,
    may_spawn,
    to_evict,
    to_freeze,
    to_merge,
    update_cosines,
)
from crosstune.experts.routing.learned import LearnedRouter
from crosstune.experts.routing.terms import router_terms
from crosstune.experts.settings import PolicySettings, SkillsSettings
from crosstune.foundation.data import Task
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.evaluation.scoring import unit_sums
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife
from crosstune.foundation.storage import atomic_folder, read_json, write_json
from crosstune.foundation.training import (
    StageData,
    StageResult,
    TrainingSettings,
    train_stage,
)

ALL = "all"
"""The one expert of a sequential run."""
ASSESSED, REGISTERED, JUDGED = 64, 256, 64
"""Rows of a skill that are assessed, that router and embedding read, and that are not learned where a policy must judge."""


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
        won = 0.0
        if expert != BASE and self._judges:
            won = self._scores(skill, {}).loss - self._scores(skill, {expert: 1.0}).loss
        size = self.mixture.parameters_at(self.settings.rank) if born else 0
        learned = {"gain": won, "similarity": _similarity(novelty), "parameters": size}
        self._register(skill, expert, learned)
        self.answers.setdefault(skill.name, expert)
        self._tidy()
        held_out = self.held_out()
        gain = held_out[skill.name].won(self._measured(BASE, self.skills[skill.name]))
        found = LearnedSkill(
            skill.name,
            expert,
            born,
            novelty.verdict,
            novelty.p,
            _similarity(novelty),
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
        mixture, chosen, rank = self.mixture, self.settings.policy, self.settings.rank
        novelty = mixture.assess(skill.train[:ASSESSED])
        if known:
            return novelty, BASE, False
        if self.settings.sequential:
            born = ALL not in mixture.bank.experts
            if born:
                mixture.spawn(ALL, rank=rank)
            else:
                mixture.unfreeze(ALL)
            return novelty, ALL, born
        gain = self._probed(skill) if novelty.is_new and chosen.min_gain else None
        size = mixture.parameters_at(rank)
        born, why = may_spawn(
            chosen, novelty, mixture.bank, since=self._since_birth(), parameters=size, gain=gain
        )
        novelty = replace(novelty, why=why)
        measured = {"p": novelty.p, "similarity": _similarity(novelty), "probe": gain or math.nan}
        if born:
            name = self._free(skill.name)
            mixture.spawn(name, rank=rank, figures=measured)
            return novelty, name, True
        if novelty.nearest in (None, BASE):
            return novelty, BASE, False
        mixture.unfreeze(str(novelty.nearest), measured)
        return novelty, str(novelty.nearest), False

    def _free(self, name: str) -> str:
        """A name for an expert: the skill's, numbered where rows of it were taken for new before."""
        taken = {*self.mixture.bank.adapters.values(), BASE}
        names = (name if at == 1 else f"{name} {at}" for at in count(1))
        return next(one for one in names if one not in taken)

    def _since_birth(self) -> float:
        """Optimizer steps since an expert was born."""
        steps = 0.0
        for one in reversed(self.learned):
            steps += one.figures.get("steps", 0.0)
            if one.born:
                return steps
        return math.inf

    def _probed(self, skill: SkillRows) -> float:
        """Nats per token that an expert of rank 1 wins in a few steps on rows that it does not learn."""
        name = self._free(f"probe of {skill.name}")
        alone = self._scores(skill, {}).loss
        self.mixture.spawn(name, rank=1)
        self._stage(skill, "probe", replace(self.settings.training, steps=self._few))
        won = alone - self._scores(skill, {name: 1.0}).loss
        self.mixture.bank.record(Event("register", name))
        if isinstance(self.mixture.router, LearnedRouter):
            self.mixture.router.undo()
        self.mixture.evict(name, {"gain": won})
        return won

    def _scores(self, skill: SkillRows, shares: Mapping[str, float]) -> RowScores:
        """Training rows that are set aside where a policy must judge, under experts with these shares."""
        with self.mixture.answering(shares=shares):
            return score_rows(self.mixture, skill.train[-JUDGED:], pad_id=self._pad_id)

    def _train(self, skill: SkillRows, expert: str) -> dict[str, float]:
        """Stages until the expert needs no more rank; one, unless the policy lets experts grow."""
        chosen = self.settings.policy
        if chosen.grow_below is None:
            return _figures(self.mixture, self._stage(skill, "training", self.settings.training))
        losses, steps = [self._scores(skill, {}).loss], 0
        while True:
            name = f"training-{len(losses)}"
            result = self._stage(skill, name, self.settings.training)
            losses.append(self._scores(skill, {expert: 1.0}).loss)
            steps += result.steps
            grows, _ = may_grow(chosen, losses, self.mixture.bank.expert(expert).rank)
            if not grows:
                return {**_figures(self.mixture, result), "steps": float(steps)}
            self.mixture.grow(expert, figures={"won": losses[-2] - losses[-1]})

    def _stage(self, skill: SkillRows, name: str, training: TrainingSettings) -> StageResult:
        """One training, on the skill's rows and replayed ones."""
        number, mixture = len(self.learned), self.mixture
        new = skill.train[:-JUDGED] if self._judges and skill.test else skill.train
        new = new[: training.steps * training.batch_rows]  # what is read of them at most
        draws = Seeds(self.seed).derive("replay", number)
        rows, skills = mixture.replay.mixed(new, self.settings.replay_share, draws)
        freezing = [Freezing(mixture, self.settings.policy)]
        return train_stage(
            mixture,
            StageData(rows, self._pad_id),
            training,
            output_folder=self.folder / "stages" / name,
            callbacks=[
                mixture.callback(),
                *(freezing if self.settings.policy.freeze_below is not None else ()),
                *self.callbacks,
            ],
            seed=Seeds(self.seed).derive("skill", number),
            terms=router_terms(mixture, skills),
        )

    @property
    def _judges(self) -> bool:
        """Whether a policy needs rows that are not learned."""
        chosen = self.settings.policy
        judged = chosen.grow_below is not None or chosen.merge_every is not None
        return judged or chosen.min_gain > 0 or chosen.spawn == "bandit"

    @property
    def _few(self) -> int:
        return self.settings.policy.probe_steps

    @property
    def _pad_id(self) -> int:
        return int(self.mixture.tokenizer.pad_token_id)

    def _tidy(self) -> None:
        """Merge experts of little use that are alike, where no skill is shown to lose by it; let the least used go."""
        mixture, chosen = self.mixture, self.settings.policy
        if chosen.merge_every is not None and mixture.bank.experts:
            due = to_merge(chosen, len(self.learned) + 1, self._usage(), update_cosines(mixture))
            for group in due[0]:
                self._merge(group)
        if chosen.max_parameters is not None:
            sizes = {
                name: sum(factor.numel() for factor in mixture.parameters_of(name))
                for name in mixture.bank.experts
            }
            usage = self._usage()
            for gone in to_evict(chosen, usage, sizes, None)[0]:
                mixture.evict(gone, {"usage": usage[gone]})
                self._answered_by(BASE, gone)

    def _usage(self) -> dict[str, float]:
        """The mean gate of each expert over skills."""
        losses = self.held_out().values()
        return {
            name: sum(one.usage.get(name, 0.0) for one in losses) / len(losses)
            for name in self.mixture.bank.experts
        }

    def _merge(self, group: Sequence[str]) -> None:
        """Experts become one, unless a skill of theirs is shown to lose by it, and learn what was kept of their rows for a few steps."""
        mixture, usage = self.mixture, {name: self._usage()[name] for name in group}
        total = sum(usage.values())
        shares = {name: share / total for name, share in usage.items()}
        for name in (name for name, own in self.answers.items() if own in group):
            apart, joined = (
                self._scores(self.skills[name], held)
                for held in ({self.answers[name]: 1.0}, shares)
            )
            units = apart.units
            lost = unit_sums(joined.nats - apart.nats, units)
            if float(ratio_jackknife(lost, unit_sums(apart.tokens, units)).low) > 0:
                return
        into = self._free(" and ".join(group))
        whole, most = (
            sum(mixture.bank.expert(name).rank for name in group),
            self.settings.policy.max_rank,
        )
        mixture.merge(usage, into, rank=most if whole > most else None)
        if mixture.replay.rows[into]:
            mixture.unfreeze(into)
            rows = SkillRows(into, mixture.replay.rows[into], ())
            self._stage(rows, "merge", replace(self.settings.training, steps=self._few))
            mixture.bank.record(Event("register", into))
            mixture.requires_grad_(False)
        for name in group:
            self._answered_by(into, name)

    def _answered_by(self, expert: str, gone: str) -> None:
        self.answers = {name: expert if own == gone else own for name, own in self.answers.items()}

    def _register(self, skill: SkillRows, expert: str, figures: Mapping[str, float]) -> None:
        """Let router and library know the rows; of a sequential run there is no router."""
        rows = skill.train[:REGISTERED]
        if self.settings.sequential:
            self.mixture.replay.keep(skill.name, rows)
            if expert != BASE:
                self.mixture.bank.record(Event("register", expert))
            self.mixture.requires_grad_(False)
        else:
            self.mixture.register(expert, rows, figures=figures)

    def held_out(self) -> dict[str, SkillLosses]:
        """The losses of every skill that has come so far, on its held-out rows, under today's gates and with its expert known."""
        alone = ALL if ALL in self.mixture.bank.experts else ""
        return {
            name: self._measured(alone or self.answers[name], own)
            for name, own in self.skills.items()
        }

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
        shutil.rmtree(self.folder / "stages", ignore_errors=True)


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


class Freezing(TrainerCallback):  # type: ignore[misc]
    """Freezes projections of the expert that learns as they converge; every tenth step is measured."""

    state_name = "freezing"

    def __init__(self, mixture: ExpertMixture, policy: PolicySettings) -> None:
        self.hidden, self.policy = (mixture,), policy
        self.before: dict[str, Sequence[Tensor]] = {}

    def _factors(self) -> dict[str, Sequence[Tensor]]:
        """Those that still learn, by projection."""
        (mixture,) = self.hidden
        expert = mixture.bank.expert(str(mixture.learning))
        left = [name for name in expert.targets if name not in mixture.bank.frozen]
        return {
            name: factors(mixture.model, expert.adapter, [x for x in expert.targets if x != name])
            for name in left
        }

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember them before a step that is measured."""
        if state.global_step % 10 == 9:
            own = self._factors().items()
            self.before = {name: [factor.detach().clone() for factor in some] for name, some in own}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Freeze what a step hardly moved."""
        steps = {
            name: math.hypot(
                *(
                    float((a - b).detach().norm())
                    for a, b in zip(some, self.before[name], strict=True)
                )
            )
            / math.hypot(*(float(factor.detach().norm()) for factor in some))
            for name, some in (self._factors().items() if self.before else ())
        }
        self.before = {}
        if found := to_freeze(self.policy, steps)[0]:
            (mixture,) = self.hidden
            mixture.freeze(str(mixture.learning), found, {name: steps[name] for name in found})

    def save_state(self, folder: Path) -> None:
        """Write which are frozen."""
        write_json(folder / "frozen.json", {"frozen": list(self.hidden[0].bank.frozen)})

    def load_state(self, folder: Path) -> None:
        """Freeze these again."""
        (mixture,) = self.hidden
        if found := read_json(folder / "frozen.json")["frozen"]:
            mixture.freeze(str(mixture.learning), found)


def _similarity(novelty: Novelty) -> float:
    return math.nan if novelty.similarity is None else float(novelty.similarity.value)
