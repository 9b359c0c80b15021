"""What every contender of `circuits_cost.py` is given: one model, the rows of two tasks, one set of settings."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from crosstune.circuits import CircuitSettings
from crosstune.foundation.data import Encoded, Row, TaskSettings, encode, parse_language, read_rows
from crosstune.foundation.gradients.gradients import batch_of, micro_batches
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.models.heads import HeadMap
from crosstune.foundation.worlds import embedded_world
from peers.command import SHARED

SOURCES = (  # name, file beside the checkout, field that holds the text
    ("stories", "data/english/tinystories_heldout.jsonl", "text"),
    ("code", "data/code/mbpp.jsonl", "code"),
)
SHAPES: dict[str, dict[str, Any]] = {
    # stories3M's own shape, for growth curves
    "llama-3M": {
        "model_type": "llama",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
    "gpt2-small": {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "vocab_size": 50257,
    },
    "llama-1B": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
}
Gradients = dict[str, Tensor]  # parameter → [n, *shape]
Scores = dict[tuple[int, str, str], Tensor]  # (layer, block, variant) → [nA, nB, heads]


@dataclass(frozen=True)
class SceneSettings:
    """A scene in words, so that another process can build the same one."""

    model: str
    """`stories3M` (real weights and rows) or a name of `SHAPES` (random ones)."""
    rows_a: int
    rows_b: int
    length: int = 128
    layers: int | None = None
    budget_gib: float = CircuitSettings.budget_gib
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def title(self) -> str:
        """What stands over its table."""
        kind = self.model if self.model == "stories3M" else f"{self.model} shape, random weights"
        layers = f", {self.layers} layers" if self.layers else ""
        rows = f"{self.rows_a} + {self.rows_b} rows of {self.length} tokens"
        return f"{kind}{layers}, {rows}, {self.dtype} on {self.device}"

    @property
    def operations(self) -> float:
        """About how many a plain pass over its rows takes: six a weight and token."""
        shape = replace(self, model="llama-3M") if self.model == "stories3M" else self
        with torch.device("meta"):
            weights = sum(value.numel() for value in _random(shape).parameters())
        return 6.0 * weights * (self.rows_a + self.rows_b) * self.length

    @property
    def exact(self) -> bool:
        """Whether all compute in float32, so that answers agree to rounding."""
        return self.dtype == "float32" and self.device == "cpu"

    def circuits(self) -> CircuitSettings:
        """The measurement's settings: its defaults, but for the sizes."""
        return CircuitSettings(
            rows=max(self.rows_a, self.rows_b),
            length=self.length,
            budget_gib=self.budget_gib,
            min_samples=min(CircuitSettings.min_samples, self.rows_a),
            precision="float32" if self.dtype == "float32" else "model",
        )


@dataclass(frozen=True)
class Scene:
    """One model, the rows of two tasks, one set of settings."""

    model: Any
    heads: HeadMap
    rows: dict[str, list[Encoded]]
    pad_id: int
    settings: CircuitSettings

    @property
    def weights(self) -> tuple[str, ...]:
        """The attention projections, each once (GPT-2 keeps q, k and v in one)."""
        return tuple(dict.fromkeys(found.weight for found in self.heads.projections))

    @property
    def counts(self) -> tuple[int, int]:
        """Rows of A and of B."""
        return len(self.rows["a"]), len(self.rows["b"])

    def batches(self, task: str) -> list[dict[str, Tensor]]:
        """The same batches for all: those of the measurement."""
        device = next(self.model.parameters()).device
        split = micro_batches(self.rows[task], self.settings.batch_tokens)
        return [batch_of(rows, self.pad_id, device) for rows in split]

    def copied(self) -> Any:
        """A copy of the model, for contenders that rebuild it."""
        return copy.deepcopy(self.model)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Within, attention is spelled out in ordinary operations."""
        usual = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(usual)


def build(settings: SceneSettings) -> Scene:
    """The scene; where the real model is not beside the checkout, its embedded twin takes its place and says so."""
    if settings.model == "stories3M":
        model, tokenizer, tasks = _stories() if SHARED.is_dir() else _embedded()
        rows_a, rows_b = (
            [row for row in encode(rows, tokenizer, settings.length) if _fills(row, settings)]
            for rows in tasks
        )
        pad_id = tokenizer.pad_token_id
    else:
        model = _random(settings)
        rows_a = _random_rows(settings.rows_a, settings, model.config.vocab_size, seed=1)
        rows_b = _random_rows(settings.rows_b, settings, model.config.vocab_size, seed=2)
        pad_id = 0
    rows = {"a": rows_a[: settings.rows_a], "b": rows_b[: settings.rows_b]}
    assert (len(rows["a"]), len(rows["b"])) == (settings.rows_a, settings.rows_b)
    model.to(settings.device).eval()
    return Scene(model, HeadMap.of(model), rows, pad_id, settings.circuits())


def _fills(row: Encoded, settings: SceneSettings) -> bool:
    return len(row.input_ids) == settings.length


def _stories() -> tuple[Any, Any, list[list[Row]]]:
    folder = SHARED / "models" / "stories3M"
    tasks = []
    for name, path, text in SOURCES:
        source = TaskSettings(name=name, source=str(SHARED / path), text=text)
        tasks.append(list(read_rows(source, source.source, "train")))
    return load_model(folder), load_tokenizer(folder), tasks


def _embedded() -> tuple[Any, Any, list[list[Row]]]:
    print("../shared is not beside this checkout: the embedded model and toy rows instead.")
    folder = embedded_world().folder
    tasks = []
    for language in ("latin-svo", "bengali-sov"):
        said = [row.text for row in parse_language(f"toy:{language}").sentences(4096)]
        tasks.append([Row(f"{language}-{i}", " ".join(said[i::128])) for i in range(128)])
    return load_model(folder), load_tokenizer(folder), tasks


def _random(settings: SceneSettings) -> Any:
    shape = dict(SHAPES[settings.model])
    family = shape.pop("model_type")
    if settings.layers is not None:
        shape["n_layer" if family == "gpt2" else "num_hidden_layers"] = settings.layers
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **shape)
    dtype = getattr(torch, settings.dtype)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def _random_rows(
    count: int, settings: SceneSettings, vocabulary: int, *, seed: int
) -> list[Encoded]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (count, settings.length), generator=generator).tolist()
    scored = settings.length - 1
    return [
        Encoded(f"{seed}-{at}", row, [-100, *row[1:]], scored, scored, False, unit=f"{seed}-{at}")
        for at, row in enumerate(ids)
    ]


@contextmanager
def only(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, nn.Parameter]]:
    """Within, only the named parameters want a gradient."""
    known = dict(model.named_parameters())
    before = {name: value.requires_grad for name, value in known.items()}
    for name, value in known.items():
        value.requires_grad_(name in names)
    try:
        yield {name: known[name] for name in names}
    finally:
        for name, value in known.items():
            value.requires_grad_(before[name])
            value.grad = None


def summed_nats(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The summed loss of a batch whose rows are all equally long: next-token nats."""
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="sum"
    )
