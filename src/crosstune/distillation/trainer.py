"""The trainer of a distillation: a student, its teacher, the terms that settings name, and one account of them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from crosstune.distillation.cache import CachedTeacher
from crosstune.distillation.checks import Check, TrainingBooks, findings, settings_findings
from crosstune.distillation.curriculum import Schedule
from crosstune.distillation.divergences import Divergence
from crosstune.distillation.progress import DistillationProgress, ledger_lines
from crosstune.distillation.routing import StudentAwareRouter
from crosstune.distillation.settings import DistillationSettings
from crosstune.distillation.stage import DistillationStage
from crosstune.distillation.terms.alignment import Alignment, OwnTokens
from crosstune.distillation.terms.attention import AttentionMaps
from crosstune.distillation.terms.contrastive import Contrastive
from crosstune.distillation.terms.distribution import DistributionTerms
from crosstune.distillation.terms.hidden import Hidden, Layerwise, match_sites
from crosstune.distillation.terms.pilot import Pilot, batches
from crosstune.distillation.terms.spans import SpanLikelihoods
from crosstune.foundation.data import Encoded, Task, as_rows, collate, encode
from crosstune.foundation.errors import ModelError, SettingsError, hold
from crosstune.foundation.gradients.blocks import pad_id
from crosstune.foundation.models import Anatomy, measuring, model_inputs
from crosstune.foundation.ranks import world_size
from crosstune.foundation.records import Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.settings.options import with_options
from crosstune.foundation.training import StageData, StageResult, Terms
from crosstune.foundation.training.arguments import learning_rate_factor
from crosstune.foundation.training.terms import Group, Term


class DistillationTrainer:
    """A student learns from a frozen teacher, in place, and every term is booked raw, weight and weighted.

    Args:
        student: A causal language model, or a PEFT model. See `student_from`.
        teacher: Any causal language model; it is frozen and put in eval mode. For ce and kd, a `CachedTeacher`.
        tokenizer: Of both, or of the student alone.
        rows: What is learned: texts, rows, a `Task` (whose test rows are held out), encoded rows, or a `StageData`, held-out sets and all.
        held_out: Named sets that are evaluated, in the same forms.
        settings: How; single ones may be given by name as `options` instead.
        options: Fields of `DistillationSettings`; `training` may be a mapping of fields of its own. Also `teacher_tokenizer`, of a teacher that reads the texts in tokens of its own: terms are then of ce, spans, hidden and layerwise.

    Raises:
        SettingsError: A setting is impossible, or unknown.
        ModelError: The models do not go together, or the teacher is not the same twice.
        DataError: There are too few rows, or some that a cache does not hold.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        tokenizer: Any,
        rows: Any,
        *,
        held_out: Mapping[str, Any] | None = None,
        settings: DistillationSettings | None = None,
        **options: Any,
    ) -> None:
        chosen = settings or DistillationSettings()
        if isinstance(training := options.get("training"), Mapping):
            options["training"] = with_options(chosen.training, training)
        other = options.pop("teacher_tokenizer", None)
        self.settings = chosen = with_options(chosen, options)
        self.student, self.teacher, self.tokenizer = student, teacher, tokenizer
        for name, model in (("student", student), ("teacher", teacher)):
            found: Any = "must be a model", repr(model)[:40], "Load it first."
            hold(isinstance(model, nn.Module), ModelError, name, found)
        found = "must have weights that learn", "none", "Call student.requires_grad_(True)."
        hold(any(p.requires_grad for p in student.parameters()), ModelError, "student", found)
        whole = isinstance(rows, StageData)
        words = "must be in a StageData where rows are one", list(held_out or ()), "Put them there."
        hold(not (whole and held_out), SettingsError, "held_out", words)
        how = tokenizer, chosen.training.length
        self.data = rows if whole else self._read(rows, held_out or {}, *how)
        self.alignment = self._aligned(rows, held_out or {}, other)
        teacher.requires_grad_(False).eval()
        self._second = OwnTokens(teacher, self.alignment) if self.alignment else teacher
        self._check_teacher(tokenizer if other is None else other)
        members = self._members()
        self.stage = DistillationStage(
            student,
            self.data,
            chosen.training,
            output_folder=Path(chosen.output),
            seed=chosen.seed,
            terms=Terms(members, second_model=self._second),
        )
        self._begin(members)
        self.stage.pulls_every = chosen.debug_every
        self.progress = progress = DistillationProgress(chosen, self.stage)
        self.stage.add_callback(progress)

    def run(self, *callbacks: TrainerCallback) -> StageResult:
        """Train, or go on from the last whole checkpoint in the output folder.

        Args:
            callbacks: Further ones of transformers.

        Returns:
            The ledger of every step, and what it cost; `findings` says what is wrong with it, if anything is.

        Raises:
            CheckpointError: The folder holds another training.
            LedgerError: The books do not close, or training and evaluation do not agree.
            NonFiniteLossError: A loss or gradient is NaN or infinite; the term is named.
        """
        if self.alignment:
            self.progress.say(f"{self.alignment.share:.1%} of the scored bytes lie in spans")
        for callback in callbacks:
            self.stage.add_callback(callback)
        return self.stage.run()

    def ledger_at(self, step: int = -1) -> str:
        """The account of one optimizer step in words: alpha, ramp, expected and actual weight, raw, weighted, and share of each term.

        Args:
            step: Counted from 1; −1 is the last.
        """
        rows = self.stage.ledger.rows
        last = max((row["step"] for row in rows), default=0)
        at = last + 1 + step if step < 0 else step
        law = f"must be a step that was taken: 1 to {last}"
        hold(1 <= at <= last, SettingsError, "step", (law, step, "Choose one of these."))
        return ledger_lines(self.stage, self.settings, at)

    def findings(self) -> list[Check]:
        """What the settings and the books say is wrong, failed checks first."""
        training, stage = self.settings.training, self.stage

        def rate(step: int) -> float:
            kind, steps, warmup = training.schedule, training.steps, training.warmup
            return training.learning_rate * learning_rate_factor(
                step, kind=kind, steps=steps, warmup=warmup
            )

        said = {
            line["step"]: line["learning_rate"]
            for line in stage.state.log_history
            if "loss" in line
        }
        books = TrainingBooks(
            stage.ledger.rows,
            {entry.name: self.settings.schedule(entry.name) for entry in stage.ledger.entries},
            training.steps,
            stage.totals,
            said,
            rate,
            training.accumulation,
            world_size(),
            stage.noisy,
        )
        known = len(self.data.train), len(self.tokenizer)
        checks = [*findings(books), *settings_findings(self.settings, *known)]
        return sorted(checks, key=lambda one: one.outcome != "failed")

    def pulls(self) -> Table:
        """Gradient norms of terms, and cosines between them, at every step that `debug_every` measured."""
        return self.stage.pulls_table()

    # ---- what goes in ----

    def _read(self, rows: Any, held_out: Mapping[str, Any], *how: Any) -> StageData:
        """Rows to learn and held-out sets, encoded by a tokenizer to a length."""
        if isinstance(rows, Task):
            held_out, rows = {rows.name: rows.test, **held_out}, rows.train
        sets = {n: self._encoded(f"held_out[{n!r}]", some, *how) for n, some in held_out.items()}
        return StageData(self._encoded("rows", rows, *how), pad_id(how[0]), sets)

    def _encoded(self, argument: str, rows: Any, tokenizer: Any, length: int) -> Sequence[Encoded]:
        """Rows as a model reads them."""
        if isinstance(rows, Task):
            rows = rows.test
        if tokenizer is self.tokenizer and rows and all(isinstance(row, Encoded) for row in rows):
            return list(rows)
        return encode(as_rows(rows, argument), tokenizer, length)

    def _aligned(self, rows: Any, held_out: Mapping[str, Any], other: Any) -> Alignment | None:
        """Where the tokens of student and teacher end together."""
        terms = {*self.settings.terms}
        if other is None:
            return Alignment(self.data, self.data, "one tokenizer") if "spans" in terms else None
        strange = ", ".join(sorted(terms - {"ce", "spans", "hidden", "layerwise"}))
        law = "must be of ce, spans, hidden and layerwise where the teacher reads tokens of its own"
        words = law, strange, "Learn spans in place of kd, and hidden in place of the others."
        hold(not strange, SettingsError, "terms", words)
        most = self.teacher.config.max_position_embeddings
        names = f"{self.tokenizer.name_or_path} and {other.name_or_path}"
        return Alignment(self.data, self._read(rows, held_out, other, most), names)

    def _check_teacher(self, other: Any) -> None:
        """It knows its tokens, and says the same twice; a cache holds every row."""
        if isinstance(self.teacher, CachedTeacher):
            inside = ", ".join(name for name in self.settings.terms if name not in ("ce", "kd"))
            words = "must be ce and kd with a cache", inside, "No others are kept: learn live."
            hold(not inside, SettingsError, "terms", words)
            self.teacher.check(self.tokenizer, {"rows": self.data.train, **self.data.held_out})
            return
        sizes = [len(model.get_input_embeddings().weight) for model in (self.student, self.teacher)]
        known = [len(self.tokenizer), len(other)]
        law = f"must hold their tokenizers' {known[0]} and {known[1]} tokens"
        remedy = "Give models of one tokenizer, or name the teacher's as teacher_tokenizer."
        words = law, f"{sizes[0]} and {sizes[1]}", remedy
        hold(
            sizes[0] >= known[0] and sizes[1] >= known[1], ModelError, "student and teacher", words
        )
        batch = collate(self.data.train[:1], self.data.pad_id)
        device = next(self.teacher.parameters()).device
        batch = {name: value.to(device) for name, value in batch.items()}
        with measuring(self.teacher), torch.no_grad():
            once, again = (self._second(**model_inputs(batch)).logits for _ in range(2))
        words = "must say the same twice", "other logits", "Turn off what it draws at random."
        hold(torch.equal(once, again), ModelError, "teacher", words)

    def _members(self) -> list[Term | Group]:
        """The terms that the settings name."""
        chosen, student, teacher = self.settings, self.student, self.teacher
        named: list[str] = [name for name in ("ce", "kd") if name in chosen.terms]
        members: list[Term | Group] = []
        if named:
            ends = chosen.temperature, chosen.final_temperature or chosen.temperature
            divergence = Divergence(chosen.divergence, chosen.beta, chosen.top_k, chosen.vocabulary)
            weights = {name: chosen.schedule(name) for name in named}
            members.append(
                DistributionTerms(
                    student,
                    teacher,
                    weights,
                    divergence,
                    temperature=ends,
                    steps=chosen.training.steps,
                )
            )
        if "spans" in chosen.terms and self.alignment:
            at = chosen.schedule("spans")
            members.append(SpanLikelihoods(at, (student, teacher), self.alignment))
        sites = chosen.layers or None
        if {"hidden", "layerwise", "contrastive", "routing"} & {*chosen.terms}:
            own, other = (Anatomy.of(model).num_layers for model in (student, teacher))
            wanted = {*match_sites(own, other, sites).values(), other}
            wanted |= {*range(1, other)} if "routing" in chosen.terms else set()
            pad = (self.alignment or self.data).pad_id
            rows = self._pilot_rows()
            seen = self.alignment.read(rows) if self.alignment else rows
            pilot = Pilot.of(teacher, seen, pad, wanted)
            options: dict[str, Any] = {"sites": sites, "kind": chosen.hidden}
            options |= {"alignment": self.alignment}
            made: dict[str, Callable[[Schedule], Any]] = {
                "hidden": lambda at: Hidden(at, pilot, student, **options),
                "layerwise": lambda at: Layerwise(at, pilot, student, **options),
                "contrastive": lambda at: Contrastive(at, pilot, student, seed=chosen.seed),
                "routing": lambda at: StudentAwareRouter(
                    at.curriculum, at.steps, student, teacher, pilot, seed=chosen.seed
                ),
            }
            members += [make(chosen.schedule(n)) for n, make in made.items() if n in chosen.terms]
        if "attention" in chosen.terms:
            # Layer l ends at site l + 1; where that is the embedding there is no layer.
            pairs = [(s - 1, t - 1) for s, t in chosen.layers if s and t] if sites else None
            at = chosen.schedule("attention")
            members.append(AttentionMaps(at, student, teacher, layers=pairs, heads=chosen.heads))
        return members

    def _begin(self, members: Sequence[Term | Group]) -> None:
        """Projections of states begin where they fit the pilot's rows."""
        module, pad = self.stage.loss_module, self.data.pad_id
        with measuring(module), torch.no_grad():
            for term in (one for one in members if isinstance(one, Hidden)):
                some = batches(self._pilot_rows(), pad, module)
                term.begin(module.see(batch, term.needs, 0) for _, batch in some)

    def _pilot_rows(self) -> Sequence[Encoded]:
        """Rows drawn at random from those that are learned."""
        generator = Seeds(self.settings.seed).torch("distillation", "pilot")
        order = torch.randperm(len(self.data.train), generator=generator).tolist()
        return [self.data.train[at] for at in order[: self.settings.pilot_rows]]
