"""Skills learned one after another: is it new, who learns it, and what was forgotten since, by experts or by the router."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from crosstune.experts import policy
from crosstune.experts.accounts import LearnedSkill, SkillRows
from crosstune.experts.bank.log import Event, slug
from crosstune.experts.gated import factors
from crosstune.experts.health import SkillHealth, skill_health
from crosstune.experts.lifecycle import shares_of
from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.experts.novelty import Novelty
from crosstune.experts.routing.terms import router_terms
from crosstune.experts.settings import PolicySettings, SkillsSettings
from crosstune.foundation import ranks
from crosstune.foundation.data import Encoded, Task
from crosstune.foundation.errors import CheckpointError, hold
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife
from crosstune.foundation.storage import atomic_folder, fingerprint, read_json, write_json
from crosstune.foundation.training import StageData, StageResult, train_stage

ALL = "all"
"""The one expert of a sequential run."""
_ANEW = "Give the skills and settings of its time, or choose another folder."
ASSESSED, REGISTERED, JUDGED = 64, 256, 64
"""Rows of a skill that are assessed at least, that router and embedding read, and that are not learned where a policy must judge."""


class SkillLearner:
    """Learns one skill after another with a mixture; killed at any time, it goes on from its folder with the same bits.

    The seed draws the experts' first factors and the order of rows; `callbacks` are further ones of the trainings.
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
        self.callbacks, self.pad_id = callbacks, pad_id(tokenizer)
        self.skills: dict[str, SkillRows] = {}
        self.answers: dict[str, str] = {}
        """Whose each skill is: an expert's, or the model's own."""
        self.learned: list[LearnedSkill] = []
        self._saved, self._done = folder / "learned", list[LearnedSkill]()
        self._came, self._told = list[str](), list[str]()
        """Of each skill so far, and of each that the folder holds, what it was learned from."""
        if self._saved.is_dir():
            self.mixture = ExpertMixture.load(self._saved / "mixture", model, tokenizer)
            stored = read_json(self._saved / "skills.json")
            self._done = [LearnedSkill.of_json(one) for one in stored["skills"]]
            self.answers, self._told = stored["answers"], stored["came"]
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

    def learn(self, skill: SkillRows, *, known: bool = False) -> LearnedSkill:
        """Assess rows, give them an expert where they are new, train, register, measure every skill so far, and save.

        Rows of a skill that came before under the same name are measured on its first held-out rows. What the model itself has
        `known` is registered as its own, and nothing is trained.

        Raises:
            CheckpointError: The folder holds another skill at this place, or one learned with other settings.
        """
        number, training = len(self.learned), self.settings.training
        read = max(training.steps * training.batch_rows, REGISTERED)  # the rest changes nothing
        rows = (*skill.train[:read], *skill.train[-JUDGED:], *skill.test)
        said = [(row.row_id, row.input_ids, row.labels) for row in rows]
        self._came.append(fingerprint([self.settings, self.seed, known, skill.name, said]))
        again = number < len(self._done)
        if again:
            words = "must be what the folder holds, settings and seed too", "another", _ANEW
            hold(self._told[number] == self._came[number], CheckpointError, skill.name, words)
        self.skills.setdefault(skill.name, skill)
        found = self._done[number] if again else self._learn_now(skill, known)
        self.learned.append(found)
        return found

    def _learn_now(self, skill: SkillRows, known: bool) -> LearnedSkill:
        """What is to be done with the rows, done and saved."""
        novelty, expert, born = self._choose(skill, known)
        figures, won = dict[str, float](), 0.0
        if expert != BASE:
            figures = self._train(skill, expert)
            won = self._won(skill, expert) if self._judges else 0.0
        size = self.mixture.parameters_at(self.settings.rank) if born else 0
        similarity = _similarity(novelty)
        rows = skill.train[:REGISTERED]
        if self.settings.sequential:  # there is no router
            self.mixture.replay.keep(skill.name, rows)
            if expert != BASE:
                self._settle(expert)
                self.answers = dict.fromkeys(self.answers, expert)
        else:
            measured = {"gain": won, "similarity": similarity, "parameters": size}
            self.mixture.register(expert, rows, figures=measured)
        self.answers.setdefault(skill.name, expert)
        self._tidy()
        held_out = self.held_out()
        ends = held_out[skill.name].won(self._scores(self.skills[skill.name].test, {}))
        gain = float(ends.value), float(ends.low), float(ends.high)
        told = novelty.verdict, novelty.p, similarity, novelty.nearest or "", novelty.why
        found = LearnedSkill(skill.name, expert, born, *told, gain, held_out, figures)
        self._save(found)
        return found

    def _choose(self, skill: SkillRows, known: bool) -> tuple[Novelty, str, bool]:
        """Whose the rows are: an expert that is born for them, one that learns again, or the model itself."""
        mixture, chosen, rank = self.mixture, self.settings.policy, self.settings.rank
        novelty, measured = mixture.assess(self._enough(skill.train)), dict[str, float]()
        if known:
            expert, born = BASE, False
        elif self.settings.sequential:
            expert, born = ALL, ALL not in mixture.bank.experts
        else:
            gain = self._probed(skill) if novelty.is_new and chosen.min_gain else None
            size, since = mixture.parameters_at(rank), self._since_birth()
            born, why = policy.may_spawn(
                chosen, novelty, mixture.bank, since=since, parameters=size, gain=gain
            )
            novelty = replace(novelty, why=why)
            measured = {"p": novelty.p, "similarity": _similarity(novelty)}
            measured |= {} if gain is None else {"probe": gain}
            expert = self._free(skill.name) if born else novelty.nearest or BASE
        if born:
            mixture.spawn(expert, rank=rank, figures=measured)
        elif expert != BASE:
            mixture.unfreeze(expert, measured)
        return novelty, expert, born

    def _enough(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """Rows to assess a skill by: of short answers, such as labels, as many as it takes to decide."""
        count, least = ASSESSED, self.settings.novelty.min_tokens
        while count < len(rows) and sum(row.scored_tokens for row in rows[:count]) < least:
            count *= 2
        return rows[:count]

    def _free(self, name: str) -> str:
        """A name for an expert: the skill's, numbered where rows of it were taken for new before."""
        taken = self.mixture.bank.adapters
        names = (name if at == 1 else f"{name} {at}" for at in count(1))
        return next(one for one in names if one != BASE and slug(one) not in taken)

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
        self.mixture.spawn(name, rank=1)
        self._stage(skill, "probe", self.settings.policy.probe_steps)
        won = self._won(skill, name)
        self.mixture.evict(name, {"gain": won})
        return won

    def _scores(self, rows: Sequence[Encoded], shares: Mapping[str, float]) -> RowScores:
        """Rows under experts with these shares; under the model alone if there is none."""
        with self.mixture.answering(shares=shares):
            return score_rows(self.mixture, rows, pad_id=self.pad_id)

    def _won(self, skill: SkillRows, expert: str) -> float:
        """Nats per token that an expert wins against the model alone on rows that are set aside where a policy must judge."""
        rows = skill.train[-JUDGED:]
        return self._scores(rows, {}).loss - self._scores(rows, {expert: 1.0}).loss

    def _train(self, skill: SkillRows, expert: str) -> dict[str, float]:
        """Stages until the expert needs no more rank: one, unless the policy lets experts grow. What they took."""
        chosen, steps, rows = self.settings.policy, 0, skill.train[-JUDGED:]
        judged = chosen.grow_below is not None
        losses = [self._scores(rows, {}).loss] if judged else []
        while True:
            result = self._stage(skill, f"training-{steps}", self.settings.training.steps)
            steps += result.steps
            if judged:
                losses.append(self._scores(rows, {expert: 1.0}).loss)
            if not policy.may_grow(chosen, losses, self.mixture.bank.expert(expert).rank):
                return {**_figures(self.mixture, result), "steps": float(steps)}
            self.mixture.grow(expert, figures={"won": losses[-2] - losses[-1]})

    def _stage(self, skill: SkillRows, name: str, steps: int) -> StageResult:
        """One training, on the skill's rows and replayed ones."""
        number, mixture, chosen = len(self.learned), self.mixture, self.settings.policy
        training = replace(self.settings.training, steps=steps)
        new = skill.train[:-JUDGED] if self._judges and skill.test else skill.train
        new = new[: steps * training.batch_rows]  # what is read of them at most
        draws = Seeds(self.seed).derive("replay", number)
        rows, skills = mixture.replay.mixed(new, self.settings.replay_share, draws)
        freezing = [] if chosen.freeze_below is None else [Freezing(mixture, chosen)]
        return train_stage(
            mixture,
            StageData(rows, self.pad_id),
            training,
            output_folder=self.folder / "stages" / name,
            callbacks=[mixture.callback(), *freezing, *self.callbacks],
            seed=Seeds(self.seed).derive("skill", number),
            terms=router_terms(mixture, skills),
        )

    @property
    def _judges(self) -> bool:
        """Whether a policy needs rows that are not learned."""
        chosen = self.settings.policy
        judged = chosen.grow_below is not None or chosen.merge_every is not None
        return judged or chosen.min_gain > 0 or chosen.spawn == "bandit"

    def _settle(self, expert: str) -> None:
        """An expert learns no more; router and library stay as they are."""
        self.mixture.bank.record(Event("register", expert))
        self.mixture.requires_grad_(False)

    def _tidy(self) -> None:
        """Merge experts of little use that are alike, where no skill is shown to lose by it; let the least used go."""
        mixture, chosen = self.mixture, self.settings.policy
        if chosen.merge_every is not None and mixture.bank.experts:
            usage, arrivals = self._usage(), len(self.learned) + 1
            for group in policy.to_merge(chosen, arrivals, usage, policy.update_cosines(mixture)):
                self._merge({name: usage[name] for name in group})
        if chosen.max_parameters is not None:
            usage = self._usage()
            sizes = {name: sum(f.numel() for f in mixture.parameters_of(name)) for name in usage}
            for gone in policy.to_evict(chosen, usage, sizes):
                mixture.evict(gone, {"usage": usage[gone]})
                self._answered_by(BASE, gone)

    def _usage(self) -> dict[str, float]:
        """The mean gate of each expert over skills."""
        healths = self.held_out().values()
        return {
            name: sum(one.usage.get(name, 0.0) for one in healths) / len(healths)
            for name in self.mixture.bank.experts
        }

    def _merge(self, usage: Mapping[str, float]) -> None:
        """Experts become one, unless a skill of theirs is shown to lose by it, and learn what was kept of their rows for a few steps."""
        mixture, chosen = self.mixture, self.settings.policy
        shares = shares_of(usage)
        for name in (name for name, own in self.answers.items() if own in usage):
            own = {self.answers[name]: 1.0}
            rows = self.skills[name].train[-JUDGED:]
            apart, joined = (self._scores(rows, held) for held in (own, shares))
            lost = apart.by_unit(joined.nats - apart.nats)
            if float(ratio_jackknife(lost, apart.by_unit(apart.tokens)).low) > 0:
                return
        into = self._free(" and ".join(usage))
        whole = sum(mixture.bank.expert(name).rank for name in usage)
        mixture.merge(usage, into, rank=chosen.max_rank if whole > chosen.max_rank else None)
        if rows := mixture.replay.rows[into]:
            mixture.unfreeze(into)
            self._stage(SkillRows(into, rows, ()), "merge", chosen.probe_steps)
            self._settle(into)
        for name in usage:
            self._answered_by(into, name)

    def _answered_by(self, expert: str, gone: str) -> None:
        """Who takes the skills of an expert that has gone."""
        self.answers = {name: expert if own == gone else own for name, own in self.answers.items()}

    def held_out(self) -> dict[str, SkillHealth]:
        """Every skill that has come so far, on its held-out rows, under today's gates and with its expert known."""
        return {
            name: skill_health(self.mixture, self.answers[name], own.test)
            for name, own in self.skills.items()
        }

    def _save(self, found: LearnedSkill) -> None:
        """The mixture and what was learned so far appear together; then the stage's checkpoints may go."""
        done = [asdict(one) for one in (*self.learned, found)]
        ranks.wait_for_all()
        if ranks.is_first():
            self._write(done)
        ranks.wait_for_all()

    def _write(self, done: Sequence[Mapping[str, Any]]) -> None:
        with atomic_folder(self._saved, replace=True) as fresh:
            if self._saved.is_dir():  # experts that have left stay there
                shutil.copytree(self._saved / "mixture", fresh / "mixture")
            self.mixture.save(fresh / "mixture")
            told = {"skills": done, "answers": self.answers, "came": self._came}
            write_json(fresh / "skills.json", told)
        shutil.rmtree(self.folder / "stages", ignore_errors=True)


@dataclass(frozen=True)
class SkillsLearned:
    """What `learn_skills` returns."""

    mixture: ExpertMixture
    skills: tuple[LearnedSkill, ...]
    """What became of each, in the order in which they came."""

    def forgetting(self) -> dict[str, dict[str, Interval]]:
        """Nats per token that each skill has lost since it was learned last: `whole`, by `experts` and by `router`."""
        then: dict[str, SkillHealth] = {}
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
        CheckpointError: The folder holds skills learned from another model, other rows or settings, in another order, or more of them.
    """
    settings = settings or SkillsSettings()
    learner = SkillLearner(model, tokenizer, settings, folder=Path(output_folder), seed=seed)
    for task in tasks if known is None else (known, *tasks):
        rows = SkillRows.of(task, tokenizer, settings.training.length)
        learner.learn(rows, known=task is known)
    more = len(learner._done) - len(learner.learned)
    words = "must hold no skills but these", f"{more} more of them", _ANEW
    hold(more <= 0, CheckpointError, "output_folder", words)
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
        "gradient_norm": sum(norms) / len(norms) if norms else math.nan,
    }


class Freezing(TrainerCallback):  # type: ignore[misc]
    """Freezes projections of the expert that learns as they converge; every tenth step is measured."""

    state_name = "freezing"

    def __init__(self, mixture: ExpertMixture, settings: PolicySettings) -> None:
        self.hidden, self.settings = (mixture,), settings
        self.before: dict[str, Tensor] = {}

    def _learning(self) -> dict[str, Tensor]:
        """The projections that still learn: the factors of each as one vector."""
        (mixture,) = self.hidden
        expert = mixture.bank.expert(str(mixture.learning))
        found = {}
        for name in (name for name in expert.targets if name not in mixture.bank.frozen):
            others = [target for target in expert.targets if target != name]
            own = factors(mixture.model, expert.adapter, but=others)
            found[name] = torch.cat([factor.detach().flatten() for factor in own])
        return found

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Remember them before a step that is measured."""
        if state.global_step % 10 == 9:
            self.before = self._learning()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Freeze what a step hardly moved."""
        now = self._learning() if self.before else {}
        steps = {n: float((v - self.before[n]).norm() / v.norm()) for n, v in now.items()}
        self.before = {}
        if found := policy.to_freeze(self.settings, steps):
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
    """NaN where nothing was compared."""
    return math.nan if novelty.similarity is None else float(novelty.similarity.value)
