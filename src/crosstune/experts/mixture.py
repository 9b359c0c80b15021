"""A frozen model with LoRA experts that are mixed per token by a router: spawn, train, register, ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, set_peft_model_state_dict
from torch import Tensor
from transformers import TrainerCallback

from crosstune.experts.bank.log import BASE as BASE
from crosstune.experts.bank.log import Bank, Event
from crosstune.experts.bank.storage import read_mixture, write_mixture
from crosstune.experts.lifecycle import Figures, Lifecycle
from crosstune.experts.novelty import Library, Novelty, assess, embed_rows
from crosstune.experts.routing.learned import LearnedRouter
from crosstune.experts.routing.prefix import PrefixRouter, SkillSums
from crosstune.experts.routing.terms import batch_loss
from crosstune.experts.settings import NoveltySettings, RouterSettings
from crosstune.foundation.data import Encoded, Task, as_rows, encode
from crosstune.foundation.errors import DataError, TrainingError, UnsupportedError, hold

_MOVED = 0.5
"""How far a skill's embedding moves towards rows that come again."""
_HELD_OUT = 10
"""One row in so many chooses the router's temperature."""
_TUNING_TOKENS = 512
"""About so many of their tokens are kept."""


class ExpertMixture(Lifecycle):
    """A model whose weights stay as they are, with experts for what it has learned since.

    An analytic router reads each token's state at one site of the frozen model and the causal mean of the states so far;
    experts sit in the blocks from that site upward. While an expert learns it answers alone; when its skill is registered it
    is frozen, so nothing is forgotten but by a wrong gate. Register rows of what the model shall go on answering itself as
    ``base``: without them every token goes to some expert. A learned router reads the input of every such block, answers
    while an expert learns, and learns with it.

    Args:
        model: A causal language model of a known family, without adapters; it is frozen.
        site: The site of the residual stream that the router reads; at 0, the embeddings, experts may sit in every block.
        length: The most tokens of a row that is registered or assessed.
        seed: Draws the experts' first factors, and which rows are kept to be replayed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        site: int = 0,
        router: RouterSettings | None = None,
        length: int = 128,
        seed: int = 0,
        novelty: NoveltySettings | None = None,
    ) -> None:
        super().__init__(model, router or RouterSettings(), site=site, seed=seed)
        self.tokenizer, self.length = tokenizer, length
        self.novelty = novelty or NoveltySettings()
        cast(Any, self).register_state_dict_post_hook(_leave_out_base)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        skills: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """What the model returns, of its own type, with the experts that answer.

        In training mode the loss holds what a learned router adds to it; `skills` [B] says of rows that are not of the skill
        that learns, by the place in `router.names`, whose they are.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **others,
        )
        learned = isinstance(self.router, LearnedRouter) and self.learning is not None
        if learned and labels is not None and self.training:
            batch = {"labels": labels, "skills": skills}
            added = batch_loss(self, batch, others.get("num_items_in_batch"))
            output.loss = output.loss + added.to(output.loss)
        return output

    def __getattr__(self, name: str) -> Any:
        """What trainers ask a model for and a mixture has not, the base model answers."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.get_base_model(), name)

    @property
    def learning(self) -> str | None:
        """The skill whose expert learns; without a learned router it answers alone meanwhile."""
        return self.bank.learning

    def get_base_model(self) -> Any:
        """The frozen model itself, with its experts in its layers."""
        inner = self.model
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    def generate(self, *args: Any, **options: Any) -> Any:
        """Generate as the model does; the router's running mean goes along with the cache."""
        config = options.get("generation_config") or self.get_base_model().generation_config
        beams = options.get("num_beams", config.num_beams) or 1
        law = "must go on from one cache per sequence: the router's running mean goes along with it"
        words = law, "beam search or assisted generation", "Use greedy search or sampling."
        one = beams == 1 and options.get("assistant_model") is None
        hold(one, UnsupportedError, "generate", words)
        return self.model.generate(*args, **options)

    @contextmanager
    def answering(self, *names: str, shares: Mapping[str, float] | None = None) -> Iterator[None]:
        """Inside, these experts answer at every token, whole or with their shares, whatever the router says; with none the model alone."""
        fixed = dict.fromkeys(names, 1.0) if shares is None else dict(shares)
        for name in fixed:
            self.bank.expert(name)
        before, self.routing.fixed = self.routing.fixed, fixed
        try:
            yield
        finally:
            self.routing.fixed = before

    def assess(self, rows: Any) -> Novelty:
        """Whether rows are of a new skill, by what the model itself makes of them and of the skills that are registered.

        Args:
            rows: Texts, `Row`s or a `Task`, whose training side is taken.

        Raises:
            DataError: There are no rows, or none with a token to embed.
        """
        return self._compared(*self._read(rows), self.library)

    def _compared(self, encoded: list[Encoded], found: Tensor, known: Library) -> Novelty:
        """Whether rows, and where they lie, are new to some skills."""
        return assess(found, sum(row.scored_tokens for row in encoded), known, self.novelty)

    def _read(self, rows: Any) -> tuple[list[Encoded], Tensor]:
        """Rows, encoded if they are not yet, and where they lie in the states of the model itself."""
        encoded = [*rows] if isinstance(rows, Sequence) else []
        if not encoded or not isinstance(encoded[0], Encoded):
            encoded = encode(as_rows(rows, "rows"), self.tokenizer, self.length)
        hold(bool(encoded), DataError, "rows", ("must hold at least one row", "none", "Give some."))
        with self.answering():
            return encoded, embed_rows(self.get_base_model(), encoded)

    def register(self, name: str | Task, rows: Any = None, *, figures: Figures = None) -> None:
        """The skill is known from now on: an analytic router learns it from its rows; its expert, if it was learning, is frozen.

        Args:
            name: The skill: an expert's, or ``base`` for what the model itself shall answer; a `Task` brings both.
            rows: Texts, `Row`s or a `Task`, whose training side is taken.

        Raises:
            SettingsError: There is no such expert.
            DataError: There are too few rows.
            TrainingError: Its expert diverged.
        """
        if isinstance(name, Task):
            name, rows = name.name, name if rows is None else rows
        born = self.parameters_of(name) if self.bank.learning == name else []
        finite = all(bool(factor.isfinite().all()) for factor in born)
        remedy = "Evict it, or load the mixture that was saved before, and learn at a lower rate."
        diverged = (
            "must have finite factors: gates of 0 do not hide others",
            "NaN or infinity",
            remedy,
        )
        hold(finite, TrainingError, name, diverged)
        if name != BASE:
            self.bank.expert(name)
        encoded, found = self._read(rows)
        least = self.novelty.min_rows
        law = f"must be at least {least} different ones for a skill to be known again"
        words = law, len(found), "Give more rows, or lower min_rows of NoveltySettings."
        hold(len(found) >= least, DataError, "rows", words)
        if not isinstance(self.router, LearnedRouter):
            self._teach_router(name, encoded)
        if name not in self.library:
            self.library[name] = found
        elif not self._compared(encoded, found, {name: self.library[name]}).is_new:
            # Its rows move together, and vary about their mean as before; between unlike ones it would be like neither.
            rows = self.library[name].double()
            self.library[name] = (rows + _MOVED * (found.double().mean(0) - rows.mean(0))).float()
        self.replay.keep(name, encoded)
        self._happened(Event("register", name), figures)

    def _teach_router(self, name: str, encoded: Sequence[Encoded]) -> None:
        """Add the sums of most rows; some rows choose the temperature."""
        learned = [row for at, row in enumerate(encoded) if at % _HELD_OUT]
        parts = [SkillSums.of(features, mask) for features, mask in self.routing.features(learned)]
        router = self.router = cast(PrefixRouter, self.router or PrefixRouter())
        router.learn(name, reduce(add, parts))
        held_out = self.routing.features(encoded[::_HELD_OUT])
        tokens = torch.cat([found[mask] for found, mask in held_out])
        self.tuning[name] = tokens[:: max(1, len(tokens) // _TUNING_TOKENS)].cpu()
        self._tune()

    def callback(self) -> TrainerCallback:
        """For any trainer of transformers or ours: tells a learned router the step, and refuses an optimizer that would not move what learns."""
        return _Watch(self)

    def save(self, folder: Path | str) -> Path:
        """Write `experts/xp_<name>/`, each an ordinary PEFT adapter, the router, and a manifest of what fits.

        The folder appears whole or not at all; a mixture that was there is replaced.

        Raises:
            TrainingError: An expert is still learning, or PEFT would not write all of its tensors.
        """
        self.bank.check_idle("save")
        kept: dict[str, Mapping[str, Tensor]] = {
            "router": self.router.tensors() if self.router else {},
            "tuning": self.tuning,
            "library": self.library,
            "replay": self.replay.tensors(),
        }
        settings = {
            "site": self.site,
            "length": self.length,
            "seed": self.seed,
            "novelty": asdict(self.novelty),
            "router": asdict(self.routing.settings),
            "replay": [self.replay.quota, self.replay.record()],
        }
        return write_mixture(folder, self.model, self.bank, kept, settings)

    @classmethod
    def load(cls, folder: Path | str, model: Any, tokenizer: Any) -> ExpertMixture:
        """The mixture that was saved, around its base model, with the same bits.

        Raises:
            CheckpointError: The base model is another, or a file is missing or not what was written.
        """
        stored = read_mixture(folder, model)
        settings, kept = stored.settings, stored.kept
        quota, rows = settings.pop("replay", (0, {}))
        settings["novelty"] = NoveltySettings(**settings["novelty"])
        settings["router"] = RouterSettings(**settings["router"])
        mixture = cls(model, tokenizer, **settings)
        mixture.bank = Bank(stored.events)
        for expert in mixture.bank.experts.values():
            mixture._add(expert)
            weights = stored.weights[expert.adapter]
            set_peft_model_state_dict(mixture.model, weights, adapter_name=expert.adapter)
        if kept["router"]:
            mixture.router = mixture.router or PrefixRouter()
            mixture.router.load(kept["router"])
        mixture.tuning = kept["tuning"]
        mixture.replay.quota = quota
        mixture.replay.load(rows, kept["replay"])
        for name in dict.fromkeys(event.name for event in stored.events):
            if name in kept["library"]:
                mixture.library[name] = kept["library"][name]
        return mixture


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Sees that the optimizer holds what learns, and tells a learned router the time."""

    def __init__(self, mixture: ExpertMixture) -> None:
        self.mixture = (mixture,)  # in a tuple: not the callback's own parameters

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Mapping[str, Any]
    ) -> None:
        """Refuse a training that would move nothing."""
        (mixture,) = self.mixture
        own = mixture.parameters_of(mixture.learning) if mixture.learning else []
        own = [parameter for parameter in own if parameter.requires_grad]
        rows = [*mixture.router.parameters()] if isinstance(mixture.router, LearnedRouter) else []
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        found = f"{mixture.learning!r} learning, and an optimizer of {len(known)} parameters"
        remedy = "Spawn or unfreeze an expert before the trainer is made, and give the mixture to the trainer."
        for what, some in (("the factors of the expert that learns", own), ("the router", rows)):
            kept = bool(own) and all(id(p) in known for p in some)
            hold(kept, TrainingError, "optimizer", (f"must hold {what}", found, remedy))

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Maturity is a function of the optimizer step."""
        self.mixture[0].routing.step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The load balance of the next step uses the gates of this one."""
        router = self.mixture[0].router
        if isinstance(router, LearnedRouter):
            router.end_step()


def _leave_out_base(mixture: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    """Checkpoints of any trainer hold what learns: the model stays as it is, and safetensors refuses its tied weights."""
    for name in [n for n in state if n.startswith(f"{prefix}model.") and ".lora_" not in n]:
        del state[name]
