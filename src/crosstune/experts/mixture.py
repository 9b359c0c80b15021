"""A frozen model with LoRA experts that are mixed per token by an analytic router: spawn, train, register, ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from inspect import signature
from math import isfinite
from operator import add
from pathlib import Path
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.pytorch_utils import Conv1D

from crosstune.experts.bank import BASE, Bank, Event, Expert
from crosstune.experts.gated import GatedLinear, Gates, factors, gated
from crosstune.experts.lifecycle import Figures, Lifecycle
from crosstune.experts.novelty import Embedding, Novelty, assess, embed_rows
from crosstune.experts.replay import Replay
from crosstune.experts.router import PrefixRouter, PrefixState, SkillSums, prefix_features
from crosstune.experts.settings import NoveltySettings
from crosstune.experts.storage import read_mixture, write_mixture
from crosstune.foundation.data import Encoded, Task, as_rows, collate, encode
from crosstune.foundation.errors import (
    DataError,
    ModelError,
    SettingsError,
    TrainingError,
    UnsupportedError,
)
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import Stream, positions
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.settings.options import at_least

_SETTINGS = ("site", "top", "length", "seed")
_MOVED = 0.5
"""How far a skill's embedding moves towards rows that come again."""
_HELD_OUT = 10
"""One row in so many chooses the router's temperature."""
_TUNING_TOKENS = 512
"""About so many of their tokens are kept."""


@dataclass
class _Underway:
    """One call of the model, from its arguments to its output."""

    positions: Tensor | None
    cache: Any
    begin: int = 0
    """Tokens that the cache held before."""
    masked: bool = False
    """Whether a mask says where tokens stand that is not [B, T]."""
    state: PrefixState | None = None


class ExpertMixture(Lifecycle):
    """A model whose weights stay as they are, with experts for what it has learned since.

    The router reads each token's state at one site of the frozen model and the causal mean of the states so far; experts
    sit in the blocks from that site upward. While an expert learns it answers alone; when its skill is registered it is
    frozen, so nothing is forgotten but by a wrong gate. Register rows of what the model shall go on answering itself as
    ``base``: without them every token goes to some expert.

    Args:
        model: A causal language model of a known family, without adapters; it is frozen.
        tokenizer: Its tokenizer.
        site: The site of the residual stream that the router reads; at 0, the embeddings, experts may sit in every block.
        top: How many experts, the model itself among them, answer at a token; all where it is None.
        length: The most tokens of a row that is registered or assessed.
        seed: Draws the experts' first factors.
        novelty: How it is decided whether a skill is new.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        site: int = 0,
        top: int | None = None,
        length: int = 128,
        seed: int = 0,
        novelty: NoveltySettings | None = None,
    ) -> None:
        super().__init__()
        if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise ModelError(
                "model",
                law="must have no adapters: they would be part of what stays as it is",
                found="a model with PEFT layers in it",
                remedy="Load the base model anew, or merge the adapter into it first.",
            )
        stream = Stream.of(model)
        self.novelty = novelty or NoveltySettings()
        self.model: Any = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.site, self.top, self.length, self.seed = site, top, length, seed
        self.bank = Bank()
        self.gates = Gates()
        self.router: PrefixRouter | None = None
        self.tuning: dict[str, Tensor] = {}
        self.library: dict[str, Embedding] = {}
        self.replay = Replay(seed=seed)
        self._fixed: tuple[str, ...] | None = None
        self._call: _Underway | None = None
        self._states: WeakKeyDictionary[Any, PrefixState] = WeakKeyDictionary()
        self._arguments = tuple(signature(model.forward).parameters)
        self._linear = self._linear_modules(stream)
        model.register_forward_pre_hook(self._begin, with_kwargs=True)
        stream.entries[site].register_forward_pre_hook(self._route)
        model.register_forward_hook(self._end, always_call=True)

    # ---- the model ----

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """What the model returns, of its own type, with the experts that answer."""
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            **others,
        )

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
        """The skill whose expert learns, and answers alone meanwhile."""
        return self.bank.learning

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.get_base_model().config

    def get_base_model(self) -> Any:
        """The frozen model itself, with its experts in its layers."""
        inner = self.model
        return inner.get_base_model() if isinstance(inner, PeftModel) else inner

    def generate(self, *args: Any, **options: Any) -> Any:
        """Generate as the model does; the router's running mean goes along with the cache."""
        config = options.get("generation_config") or self.get_base_model().generation_config
        beams = options.get("num_beams", config.num_beams) or 1
        if beams > 1 or options.get("assistant_model") is not None:
            raise UnsupportedError(
                "generate",
                law="must go on from one cache per sequence: the router's running mean goes along with it",
                found="beam search or assisted generation",
                remedy="Use greedy search or sampling.",
            )
        return self.model.generate(*args, **options)

    # ---- who answers ----

    @contextmanager
    def answering(self, *names: str) -> Iterator[None]:
        """Inside, these experts answer whole at every token, whatever the router says; with none the model alone."""
        for name in names:
            self.bank.expert(name)
        before = self._fixed
        self._fixed = names
        try:
            yield
        finally:
            self._fixed = before

    def _begin(self, model: nn.Module, args: Any, keywords: Any) -> None:
        """Note where the tokens of this call stand."""
        given = {**dict(zip(self._arguments, args, strict=False)), **keywords}
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        place = given.get("position_ids")
        if place is None and mask is not None and mask.dim() == 2:
            place = positions(mask)
        begin = 0 if cache is None else int(cache.get_seq_length())
        self._call = _Underway(place, cache, begin, masked=place is None and mask is not None)

    def _route(self, block: nn.Module, args: tuple[Any, ...]) -> None:
        """Say who answers, before the first block that has experts."""
        fixed = self._fixed
        if fixed is None and self.learning is not None:
            fixed = (self.learning,)
        if fixed is None and self.router is not None and self.router.names:
            self._weigh(args[0])
            return
        self.gates.answer([self.bank.experts[name].adapter for name in fixed or ()])

    def _weigh(self, states: Tensor) -> None:
        router, call = cast(PrefixRouter, self.router), self._call
        if call is None or call.masked:
            raise UnsupportedError(
                "attention_mask",
                law="must be [B, T], in a call of the model itself, for the router to know where sequences begin",
                found="a call of a part of the model"
                if call is None
                else "a mask of another shape",
                remedy="Call the mixture, and give position_ids beside such a mask.",
            )
        rows, tokens = states.shape[:2]
        place = call.positions
        if place is None:
            place = torch.arange(call.begin, call.begin + tokens, device=states.device)
        place = place[..., -tokens:].expand(rows, tokens)
        before = self._states.get(call.cache) if call.cache is not None else None
        features, call.state = prefix_features(states.detach(), place, before)
        weights = self.gates_of(features)
        own = [name for name in router.names if name != BASE]
        present = weights[..., [router.names.index(name) for name in own]]
        answers = (present > 0).flatten(0, 1).any(dim=0).tolist()
        kept = [at for at, some in enumerate(answers) if some]
        self.gates.answer([self.bank.experts[own[at]].adapter for at in kept], present[..., kept])

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        """Let the running mean go along with the cache."""
        cache, call = getattr(output, "past_key_values", None), self._call
        if cache is not None and call is not None and call.state is not None:
            self._states[cache] = call.state
        self._call = None

    # ---- the life of an expert ----

    def assess(self, rows: Any) -> Novelty:
        """Whether rows are of a new skill, by what the model itself makes of them and of the skills that are registered.

        Args:
            rows: Texts, `Row`s or a `Task`, whose training side is taken.

        Returns:
            new, known or undecided, with p, the similarity and its interval, the nearest skill, and why.

        Raises:
            DataError: There are no rows, or none with a token to embed.
        """
        return assess(self._embedding(self._encoded(rows)), self.library, self.novelty)

    def _embedding(self, encoded: Sequence[Encoded]) -> Embedding:
        with self.answering():
            return embed_rows(self.get_base_model(), encoded, 0)

    def spawn(
        self,
        name: str,
        *,
        rank: int = 16,
        alpha: float | None = None,
        targets: Sequence[str] = (),
        figures: Figures = None,
    ) -> Expert:
        """A new expert that adds nothing yet, and learns from now on; all others are frozen.

        Args:
            name: The skill's name.
            rank: Columns of A and B.
            alpha: The update is scaled by alpha / rank; twice the rank where it is not given.
            targets: Names of the modules it adapts; all linear ones in the blocks from the router's site upward if none.
            figures: What was measured when this was decided, for the log.

        Returns:
            The expert.

        Raises:
            SettingsError: The name is taken or cannot be a folder's, or the rank is below 1.
            TrainingError: Another expert is still learning.
        """
        self.bank.check_idle("spawn")
        adapter = self.bank.adapter_name(name, BASE)
        at_least("rank", rank, 1)
        alpha = 2.0 * rank if alpha is None else float(alpha)
        unknown = sorted(set(targets) - set(self._linear))
        if unknown or not (isfinite(alpha) and alpha > 0.0):
            raise SettingsError(
                "targets" if unknown else "alpha",
                law="must be linear modules of the blocks" if unknown else "must be positive",
                found=", ".join(unknown) or alpha,
                remedy=f"Use some of {', '.join(self._linear)}." if unknown else "Leave it out.",
            )
        expert = Expert(name, adapter, rank, alpha, tuple(targets) or self._linear)
        self._add(expert)
        self._happened(Event("spawn", name, expert), figures)
        return expert

    def _add(self, expert: Expert) -> None:
        """Put an expert's factors into the layers, frozen."""
        layers = list(range(self.site, self.config.num_hidden_layers))
        config = gated(
            r=expert.rank,
            lora_alpha=expert.alpha,
            target_modules=list(expert.targets),
            layers_to_transform=layers if self.site else None,
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self.model.modules()),
        )
        with torch.random.fork_rng():
            torch.manual_seed(Seeds(self.seed).derive("expert", expert.name))
            if isinstance(self.model, PeftModel):
                self.model.add_adapter(expert.adapter, config)
            else:
                self.model = get_peft_model(self.model, config, adapter_name=expert.adapter)
        for module in self.model.modules():
            if isinstance(module, GatedLinear):
                module.follow(self.gates)
        self.model.requires_grad_(False)

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """An expert's factors."""
        return factors(self.model, self.bank.expert(name).adapter)

    def register(self, name: str | Task, rows: Any = None, *, figures: Figures = None) -> None:
        """The router learns the skill from its rows, and its expert, if it was learning, is frozen.

        Args:
            name: The skill: an expert's, or ``base`` for what the model itself shall answer; a `Task` brings both.
            rows: Texts, `Row`s or a `Task`, whose training side is taken.
            figures: What was measured of what was learned, for the log.

        Raises:
            SettingsError: There is no such expert.
            DataError: There are too few rows.
        """
        if isinstance(name, Task):
            name, rows = name.name, name if rows is None else rows
        if name != BASE:
            self.bank.expert(name)
        encoded = self._encoded(rows)
        found = self._embedding(encoded)
        if len(found.rows) < self.novelty.min_rows:
            raise DataError(
                "rows",
                law=f"must be at least {self.novelty.min_rows} different ones for a skill to be known again",
                found=f"{len(found.rows)}",
                remedy="Give more rows, or lower min_rows of NoveltySettings.",
            )
        self._teach_router(name, encoded)
        known = self.library.get(name)
        self.library[name] = found if known is None else known.moved(found, _MOVED)
        self.replay.keep(name, encoded)
        self._happened(Event("register", name), figures)

    def _teach_router(self, name: str, encoded: Sequence[Encoded]) -> None:
        """Add the sums of most rows; some rows choose the temperature."""
        learned = [row for at, row in enumerate(encoded) if at % _HELD_OUT]
        parts = [SkillSums.of(features, mask) for features, mask in self.features(learned)]
        router = self.router = self.router or PrefixRouter()
        router.learn(name, reduce(add, parts))
        tokens = torch.cat([found[mask] for found, mask in self.features(encoded[::_HELD_OUT])])
        self.tuning[name] = tokens[:: max(1, len(tokens) // _TUNING_TOKENS)].cpu()
        self._tune()

    def features(self, encoded: Sequence[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
        """What the router reads of rows, batch by batch: features [B, T, 2d + 1], and which tokens are real."""
        stream, device = Stream.of(self.get_base_model()), next(self.model.parameters()).device
        with self.answering():
            for places in batches_of(encoded, 4096):
                batch = collate([encoded[at] for at in places], 0)
                batch = {key: value.to(device) for key, value in batch.items()}
                states = stream.read(batch, [self.site])[self.site]
                mask = batch["attention_mask"]
                yield prefix_features(states, positions(mask))[0], mask.bool()

    def gates_of(self, features: Tensor) -> Tensor:
        """The gate of each of the router's skills, [B, T, K], the `top` largest where so many answer."""
        router = cast(PrefixRouter, self.router)
        return router.gates(features, top=self.top and min(self.top, len(router.names)))

    def callback(self) -> TrainerCallback:
        """For a transformers or TRL trainer: refuses an optimizer that would not move the expert that learns."""
        return _Watch(self)

    # ---- on disk ----

    def save(self, folder: Path | str) -> Path:
        """Write `experts/xp_<name>/`, each an ordinary PEFT adapter, the router, and a manifest of what fits.

        Args:
            folder: Where it appears, whole or not at all; a mixture that was there is replaced.

        Returns:
            The folder.

        Raises:
            TrainingError: An expert is still learning, or PEFT would not write all of its tensors.
        """
        self.bank.check_idle("save")
        own = {} if self.router is None else self.router.tensors()
        tensors = {f"router.{name}": value for name, value in own.items()}
        tensors |= {f"tuning.{name}": value for name, value in self.tuning.items()}
        for name, known in self.library.items():
            tensors[f"library.{name}"] = known.rows
            tensors[f"tokens.{name}"] = torch.tensor(known.tokens)
        settings = {name: getattr(self, name) for name in _SETTINGS}
        settings["novelty"] = asdict(self.novelty)
        tensors |= {f"replay.{name}": value for name, value in self.replay.tensors().items()}
        settings["replay"] = [self.replay.quota, self.replay.record()]
        return write_mixture(folder, self.model, self.bank, tensors, settings)

    @classmethod
    def load(cls, folder: Path | str, model: Any, tokenizer: Any) -> ExpertMixture:
        """The mixture that was saved, around its base model, with the same bits.

        Args:
            folder: Where it was saved.
            model: The base model, as it was.
            tokenizer: Its tokenizer.

        Returns:
            The mixture.

        Raises:
            CheckpointError: The base model is another, or a file is missing or not what was written.
        """
        stored = read_mixture(folder, model)
        novelty = NoveltySettings(**stored.settings.pop("novelty"))
        quota, kept = stored.settings.pop("replay", (0, {}))
        mixture = cls(model, tokenizer, **stored.settings, novelty=novelty)
        mixture.bank = Bank(stored.events)
        mixture.replay.quota = quota
        prefix, own = "replay.", stored.router
        mixture.replay.load(kept, {k[len(prefix) :]: own[k] for k in own if k.startswith(prefix)})
        for expert in mixture.bank.experts.values():
            mixture._add(expert)
            weights = stored.weights[expert.adapter]
            set_peft_model_state_dict(mixture.model, weights, adapter_name=expert.adapter)
        if stored.router:
            mixture.router = PrefixRouter()
            mixture.router.load(
                {
                    name.removeprefix("router."): value
                    for name, value in stored.router.items()
                    if name.startswith("router.")
                }
            )
            for name in mixture.router.names:
                mixture.tuning[name] = stored.router[f"tuning.{name}"]
                tokens = int(stored.router[f"tokens.{name}"])
                mixture.library[name] = Embedding(stored.router[f"library.{name}"], tokens)
        return mixture

    # ---- names ----

    def _linear_modules(self, stream: Stream) -> tuple[str, ...]:
        """The names of linear modules in the blocks from the router's site upward."""
        names = {
            path.rpartition(".")[2]
            for block in stream.entries[self.site : -1]
            for path, module in block.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
        }
        return tuple(sorted(names))

    def _encoded(self, rows: Any) -> list[Encoded]:
        found = encode(as_rows(rows, "rows"), self.tokenizer, self.length)
        if not found:
            raise DataError(
                "rows", law="must hold at least one row", found="none", remedy="Give some."
            )
        return found


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Sees that the optimizer holds the expert that learns."""

    def __init__(self, mixture: ExpertMixture) -> None:
        self.mixture = (mixture,)  # in a tuple: not the callback's own parameters

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Mapping[str, Any]
    ) -> None:
        """Refuse a training that would move nothing."""
        (mixture,) = self.mixture
        own = mixture.parameters_of(mixture.learning) if mixture.learning else []
        own = [parameter for parameter in own if parameter.requires_grad]
        known = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not own or any(id(p) not in known for p in own):
            raise TrainingError(
                "optimizer",
                law="must hold the factors of the expert that learns",
                found=f"{mixture.learning!r} learning, and an optimizer of {len(known)} parameters",
                remedy="Spawn an expert before the trainer is made, and give the mixture to the trainer.",
            )
