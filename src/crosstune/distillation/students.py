"""A student that begins as a piece of its teacher: some of its layers, heads and neurons, in some directions of its states."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from crosstune.distillation import pruning
from crosstune.distillation.terms.pilot import batches
from crosstune.foundation.data import Encoded, as_rows, encode
from crosstune.foundation.errors import ModelError, SettingsError, UnsupportedError, hold
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.models import Anatomy, Site, check_supported, measuring, model_inputs
from crosstune.foundation.models.layout import Slab, family_of
from crosstune.foundation.models.streams import looking
from crosstune.foundation.records import Measurement
from crosstune.foundation.statistics.intervals import ratio_jackknife

_LENGTH = 512
_JUDGING = 4  # one unit in so many says what the student costs, the others choose its pieces
_WRITING = ("attn.o", "mlp.down", "mlp.experts.down", "mlp.shared.down")
_MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
_NARROWED = ("llama", "mistral", "qwen2", "qwen3", "phi3", *_MIXTURES)
_OWN_HEAD_DIM = (*_NARROWED, "gemma2", "gemma3_text")  # heads need not be as wide as states
_HEAD_NORMS = ("q_norm.weight", "k_norm.weight")


@dataclass(frozen=True)
class Pieces:
    """What a student keeps of its teacher; None for everything."""

    layers: tuple[int, ...]
    """The teacher's layer that each of the student's was."""
    heads: Sequence[Tensor] | None = None
    """Of each of them the query heads that stay: all of a key-value head, or none."""
    neurons: Sequence[Tensor] | None = None
    """Of each the neurons of its MLP."""
    directions: Tensor | None = None
    """P [H, W]: a state of the student is about √(W/H) · x P of the teacher's x."""


@dataclass(frozen=True)
class Student:
    """A model that begins as a piece of its teacher, and what is known of it before it is trained."""

    model: Any
    """An ordinary Hugging Face model of the teacher's class, dtype and device, in eval mode."""
    pieces: Pieces
    """What it is made of."""
    origin: Mapping[str, str]
    """Of every parameter: ``copied``, ``cut``, ``projected``, ``cut, projected``, or ``folded``, a norm's factor that is 1."""
    search: Mapping[tuple[int, ...], float]
    """Nats per token with every set of layers that was tried, a pass over the rows each, the teacher's own first."""
    harm: Measurement
    """What a token costs more than from the teacher, on every fourth row (or group), which chose nothing."""


def student_from(
    teacher: Any,
    *,
    layers: int | Sequence[int] | None = None,
    width: int | None = None,
    heads: int | None = None,
    neurons: int | None = None,
    rows: Any = None,
    tokenizer: Any = None,
) -> Student:
    """A student made of the teacher's own weights alone; whole, it is the teacher, bit for bit.

    Layers that are not named are left out one by one, each time the one whose absence costs least; from L down to k that is
    1 + (k + 1) + … + L passes over the rows. No layer is safe: to keep both ends cost up to 1.5 nats more where it was tried.
    Heads and neurons stay that write most into the stream. A smaller width is that of the states' principal directions; the
    norms' factors move into what reads them, so the head is not tied to the embedding any more. Nothing is drawn anew: the
    same teacher and rows give the same bits.

    Only where one RMSNorm stands before attention and one before the MLP can the width be less: Gemma's norms behind them have
    factors that fit nowhere else, and a LayerNorm takes a mean away. GPT-2 and GPT-NeoX keep their heads too, which are
    together as wide as their states. A mixture keeps its experts whole; its layers, heads and width (by 8) may be fewer.

    Source: Song et al. 2024, arXiv 2402.09025, leave out blocks so, and ask what this does to the loss. Xia et al. 2024, arXiv
        2310.06694, §2.1, begin at a smaller shape of a trained model; there masks are learned. See also `pruning`.

    Args:
        teacher: A causal language model of a known family, without adapters; it is left as it is, and no memory is shared.
        layers: How many, or which ones.
        width: Features of the residual stream.
        heads: Query heads of each layer; key-value heads go with theirs.
        neurons: Of each layer's MLP.
        rows: Where anything is to be chosen, what that is measured on: encoded rows, or texts, `Row`s or a `Task`; some dozens,
            for a width some hundreds, since its directions fit the tokens they have seen.
        tokenizer: For rows that are not encoded yet.

    Returns:
        The student.

    Raises:
        SettingsError: What is asked for is more than the teacher has, or cannot be, or rows are missing.
        ModelError: The teacher has adapters, or is of an unknown family.
        UnsupportedError: It is quantised or sharded, or what is asked for is refused for its family.
    """
    own = _Weights.of(teacher)
    kept = _layers(own, layers)
    sizes = _sizes(own, {"width": width, "heads": heads, "neurons": neurons})
    encoded = _encoded(rows, tokenizer, teacher)
    judging = {*list(dict.fromkeys(row.unit for row in encoded))[::_JUDGING]}
    choosing = [row for row in encoded if row.unit not in judging]
    needless = kept is not None and sizes == own.sizes
    law = "must be given where anything is to be chosen, at least two different ones"
    words = law, len(encoded), "Give some dozens, for a width some hundreds."
    hold(bool(choosing) or needless, SettingsError, "rows", words)
    search: dict[tuple[int, ...], float] = {}
    if kept is None:
        kept = _least_harm(own, choosing, cast(int, layers), search)
    pieces = _chosen(own, choosing, kept, sizes)
    model, origin = build(teacher, pieces)
    harm = _harm(model, teacher, [row for row in encoded if row.unit in judging])
    return Student(model, pieces, origin, search, harm)


def build(teacher: Any, pieces: Pieces) -> tuple[Any, dict[str, str]]:
    """The model made of these pieces of the teacher, and the origin of each parameter; see `student_from`."""
    own, places = _Weights.of(teacher), {old: new for new, old in enumerate(pieces.layers)}
    state: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, old in own.values.items():
        layer = own.site(name).layer
        if layer is not None and layer not in places:
            continue
        at = 0 if layer is None else places[layer]
        new = name.replace(f"{own.blocks}.{layer}.", f"{own.blocks}.{at}.", 1)
        value = old if pieces.directions is None else own.narrowed(name, pieces.directions)
        kind = "folded" if own.site(name).component == "norm" else "projected"
        done = [] if value is old else [kind]
        cut = None if layer is None else own.cut(name, pieces, at)
        if cut is not None:
            value, done = value.index_select(cut[0], cut[1].to(value.device)), ["cut", *done]
        state[new] = value.to(old, copy=True).contiguous()
        origin[new] = ", ".join(done) or "copied"
    config = copy.deepcopy(teacher.config)
    for setting, found in own.settings(pieces).items():
        setattr(config, setting, found)
    with torch.random.fork_rng(devices=[]):
        student = transformers.AutoModelForCausalLM.from_config(config, dtype=teacher.dtype)
    student.load_state_dict(state, assign=True)
    student.tie_weights()
    student.generation_config = copy.deepcopy(teacher.generation_config)
    named = {name: origin[name] for name, _ in student.named_parameters()}
    return student.to(teacher.device).eval(), named


@dataclass(frozen=True)
class _Weights:
    """A teacher's parameters under all of their names, and what each of them is."""

    model: Any
    anatomy: Anatomy
    blocks: str
    values: Mapping[str, Tensor]
    slabs: Mapping[str, Sequence[Slab]]

    @classmethod
    def of(cls, model: Any) -> _Weights:
        """Of a model whose weights are whole and its own."""
        check_supported(model)
        family, _, base = family_of(model)
        values = {n: p.detach() for n, p in base.named_parameters(remove_duplicate=False)}
        plain = base is model and not any(".base_layer." in name for name in values)
        words = "must be without adapters", "an adapted model", "Call merge_and_unload() first."
        hold(plain, ModelError, "teacher", words)
        anatomy = Anatomy.of(model)
        slabs: dict[str, list[Slab]] = {}
        for slab in anatomy.slabs:
            slabs.setdefault(slab.parameter, []).append(slab)
        return cls(model, anatomy, family.blocks, values, slabs)

    @property
    def depth(self) -> int:
        return self.anatomy.num_layers

    @property
    def group(self) -> int:
        """Query heads of one key-value head."""
        return self.anatomy.heads.num_heads // self.anatomy.heads.num_kv_heads

    @property
    def inner(self) -> str:
        """What the configuration calls the number of neurons."""
        return "n_inner" if self.model.config.model_type == "gpt2" else "intermediate_size"

    @property
    def sizes(self) -> dict[str, int]:
        """The teacher's own."""
        width = self.anatomy.hidden_size
        neurons = getattr(self.model.config, self.inner) or 4 * width  # as GPT-2 takes None
        return {"width": width, "heads": self.anatomy.heads.num_heads, "neurons": neurons}

    def site(self, name: str) -> Site:
        """Where a parameter is; the anatomy does not know a tied one by its second name."""
        return self.slabs[name][0].sites[0] if name in self.slabs else Site(None, "head")

    def weights(self, component: str, layers: Sequence[int | None]) -> list[str]:
        """The names of the weights that are one component of these layers, in depth order."""
        where = [Site(layer, component) for layer in layers]
        return [n for n in self.slabs if n.endswith(".weight") and self.site(n) in where]

    def turned(self, name: str) -> bool:
        """Whether a weight is stored as [in, out]."""
        return isinstance(self.model.get_submodule(name.rpartition(".")[0]), Conv1D)

    def narrowed(self, name: str, directions: Tensor) -> Tensor:
        """A parameter in these directions of the stream."""
        value, site = self.values[name], self.site(name)
        component = site.component
        if component == "norm":
            return value if name.endswith(_HEAD_NORMS) else torch.ones(directions.shape[1])
        if component.startswith("embed"):
            return pruning.written(value.T, directions).T
        if component in _WRITING:
            return pruning.written(value, directions)
        if name.endswith(".bias"):
            return value
        norm = "input" if component.startswith("attn.") else "post_attention"
        path = (
            f"{self.blocks}.{site.layer}.{norm}_layernorm" if component != "head" else "model.norm"
        )
        return pruning.read(value, self.values[f"{path}.weight"], directions)

    def cut(self, name: str, pieces: Pieces, at: int) -> tuple[int, Tensor] | None:
        """Along which axis a layer's parameter is cut, and what stays."""
        slabs, bias = self.slabs[name], name.endswith(".bias")
        kinds = [slab.sites[0].component for slab in slabs]
        if pieces.heads is not None and slabs[0].heads is not None:
            heads, cut = pieces.heads[at], slabs[0].heads
            own = heads[:: self.group] // self.group
            places = torch.arange(cut.features)
            taken = [
                slab.heads.take(places)[own if kind in ("attn.k", "attn.v") else heads].flatten()
                for slab, kind in zip(slabs, kinds, strict=True)
                if slab.heads is not None
            ]
            return cut.axis, torch.cat(taken)
        reads = kinds[0] in ("mlp.gate", "mlp.up")
        if pieces.neurons is not None and (reads or (kinds[0] == "mlp.down" and not bias)):
            parts = [
                pieces.neurons[at] + self.sizes["neurons"] * part for part in range(len(kinds))
            ]
            return 0 if bias else int(reads == self.turned(name)), torch.cat(parts)
        return None

    def settings(self, pieces: Pieces) -> dict[str, Any]:
        """What the student's configuration has otherwise than the teacher's."""
        config, layers = self.model.config, pieces.layers
        found: dict[str, Any] = {"num_hidden_layers": len(layers)}
        if config.model_type in _OWN_HEAD_DIM:
            found["head_dim"] = self.anatomy.heads.head_dim
        if getattr(config, "layer_types", None):
            found["layer_types"] = [config.layer_types[layer] for layer in layers]
        if hasattr(config, "mlp_only_layers"):
            routed = {slab.sites[0].layer for slab in self.anatomy.slabs if slab.site_axis == 0}
            dense = [at for at, layer in enumerate(layers) if layer not in routed]
            found |= {"mlp_only_layers": dense, "decoder_sparse_step": 1}
        if pieces.heads is not None:
            heads = len(pieces.heads[0])
            found |= {"num_attention_heads": heads, "num_key_value_heads": heads // self.group}
        if pieces.neurons is not None:
            found[self.inner] = len(pieces.neurons[0])
        if pieces.directions is not None:
            width = pieces.directions.shape[1]
            found |= {"hidden_size": width, "tie_word_embeddings": False}
        return found


class _Passing(nn.Module):
    """A block that adds nothing."""

    def forward(self, states: Tensor, *_: Any, **__: Any) -> Tensor:
        """The states as they came."""
        return states


@contextmanager
def _only(own: _Weights, layers: Sequence[int]) -> Iterator[None]:
    """Inside, states pass by the other blocks of the teacher."""
    blocks: Any = own.model.get_submodule(own.blocks)
    with ExitStack() as stack:
        for layer in {*range(own.depth)} - {*layers}:
            stack.callback(blocks.__setitem__, layer, blocks[layer])
            blocks[layer] = _Passing()
        yield


def _least_harm(
    own: _Weights, encoded: Sequence[Encoded], count: int, search: dict[tuple[int, ...], float]
) -> tuple[int, ...]:
    """The layers that stay when they are left out one by one; every trial is noted."""
    kept = tuple(range(own.depth))
    search[kept] = score_rows(own.model, encoded, pad_id=0).loss
    while len(kept) > count:
        rests = [tuple(layer for layer in kept if layer != out) for out in kept]
        for rest in rests:
            with _only(own, rest):
                search[rest] = score_rows(own.model, encoded, pad_id=0).loss
        kept = min(rests, key=search.__getitem__)
    return kept


def _chosen(
    own: _Weights, encoded: Sequence[Encoded], layers: tuple[int, ...], sizes: Mapping[str, int]
) -> Pieces:
    """The heads, neurons and directions that count most where only these layers are."""

    def energetic(component: str, size: int, count: int) -> list[Tensor]:
        names, kept = own.weights(component, layers), []
        keys = {name: name for name in names}
        moments = _moments(own, encoded, keys, lambda x: x.unflatten(1, (-1, size)))
        for name in names:
            weight = own.values[name].mT if own.turned(name) else own.values[name]
            energies = pruning.written_energy(weight, moments[name])
            kept.append(pruning.strongest(energies, count).cpu())
        return kept

    heads = neurons = directions = None
    with _only(own, layers):
        if sizes["heads"] != own.sizes["heads"]:
            size, group = own.anatomy.heads.head_dim * own.group, torch.arange(own.group)
            groups = energetic("attn.o", size, sizes["heads"] // own.group)
            heads = [(one[:, None] * own.group + group).flatten() for one in groups]
        if sizes["neurons"] != own.sizes["neurons"]:
            neurons = energetic("mlp.down", 1, sizes["neurons"])
        if sizes["width"] != own.sizes["width"]:
            norms = [n for n in own.weights("norm", (*layers, None)) if not n.endswith(_HEAD_NORMS)]
            keys = dict.fromkeys(norms, "stream")
            unit = _moments(own, encoded, keys, lambda x: functional.normalize(x, dim=-1)[:, None])
            directions = pruning.principal_directions(unit["stream"][0].cpu(), sizes["width"])
    return Pieces(layers, heads, neurons, directions)


def _moments(
    own: _Weights,
    encoded: Sequence[Encoded],
    keys: Mapping[str, str],
    parted: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Σ x xᵀ over real tokens of what weights are given, by key; `parted` makes tokens [T, F] [T, groups, size]."""
    sums: dict[str, Tensor] = {}
    mask = torch.zeros(0)
    with ExitStack() as stack:
        stack.enter_context(measuring(own.model))
        stack.enter_context(torch.no_grad())
        for name, key in keys.items():

            def add(states: Tensor, key: str = key) -> None:
                parts = parted(states.reshape(*mask.shape, -1)[mask].double())
                found = torch.einsum("tgi,tgj->gij", parts, parts)
                sums[key] = sums[key] + found if key in sums else found

            stack.enter_context(looking(own.model.get_submodule(name.removesuffix(".weight")), add))
        for _, batch in batches(encoded, 0, own.model):
            mask = batch["attention_mask"].bool()
            own.model(**model_inputs(batch))
    return sums


def _harm(model: Any, teacher: Any, encoded: Sequence[Encoded]) -> Measurement:
    """Nats per token above the teacher's, paired by row."""
    if not encoded:
        return Measurement.unmeasured("harm", "nats/token", "no rows were given")
    whole = score_rows(teacher, encoded, pad_id=0)
    more = whole.by_unit(score_rows(model, encoded, pad_id=0).nats - whole.nats)
    found = ratio_jackknife(more, whole.by_unit(whole.tokens))
    value, low, high = (float(number) for number in (found.value, found.low, found.high))
    how = f"untrained student less teacher, sum over sum; jackknife over {whole.unit_name}"
    n, unit = len(more), "nats/token"
    return Measurement("harm", value, low, high, n, unit, how, n_unit=whole.unit_name)


def _encoded(rows: Any, tokenizer: Any, teacher: Any) -> list[Encoded]:
    """Rows, encoded if they are not yet."""
    encoded = [*rows] if isinstance(rows, Sequence) else []
    if rows is None or (encoded and isinstance(encoded[0], Encoded)):
        return encoded
    words = "must be given with rows that are not encoded", "none", "Give the teacher's."
    hold(tokenizer is not None, SettingsError, "tokenizer", words)
    length = min(_LENGTH, teacher.config.max_position_embeddings)
    return encode(as_rows(rows, "rows"), tokenizer, length)


def _layers(own: _Weights, layers: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """The layers that stay, or None where they are to be searched for."""
    depth = own.depth
    if layers is None or layers == depth:
        return tuple(range(depth))
    plain = not getattr(own.model.config, "scale_attn_by_inverse_layer_idx", False)
    words = "must all stay where attention is scaled by its layer's place", layers, "Keep all."
    hold(plain, UnsupportedError, "layers", words)
    if isinstance(layers, int):
        words = f"must be 1 to {depth}, as many as the teacher has", layers, "Ask for fewer."
        hold(1 <= layers <= depth, SettingsError, "layers", words)
        return None
    named = tuple(layers)
    law = f"must be different ones of 0 to {depth - 1}, in their order, at least one"
    kept = bool(named) and named == tuple(sorted({*named} & {*range(depth)}))
    hold(kept, SettingsError, "layers", (law, named, "Count the teacher's layers from 0."))
    return named


def _sizes(own: _Weights, asked: Mapping[str, int | None]) -> dict[str, int]:
    """The student's sizes, the teacher's where none are asked for."""
    kind = own.model.config.model_type
    possible = {
        "width": kind in _NARROWED,
        "heads": kind in _OWN_HEAD_DIM,
        "neurons": kind not in _MIXTURES,
    }
    # Heads go with their key-value head; products over grouped experts want rows of whole 16 bytes.
    steps = {"heads": own.group, "width": 8 if kind in _MIXTURES else 1}
    sizes = own.sizes
    for name, most in own.sizes.items():
        value = asked[name]
        if value is None or value == most:
            continue
        words = f"must stay {most} in the family {kind}", value, "`student_from` says why."
        hold(possible[name], UnsupportedError, name, words)
        step = steps.get(name, 1)
        law = f"must be {step} to {most}" + f", in steps of {step}" * (step > 1)
        words = law, value, "Ask for what the teacher has, or for less."
        hold(step <= value <= most and value % step == 0, SettingsError, name, words)
        sizes[name] = value
    return sizes
