"""The embedded world: a Llama-architecture model pretrained on a toy language on first use, then kept in the cache.

What it learns is checked against three lines: the uniform loss ln V, the unigram loss (knowing only how often each token
comes), and the floor, which is known exactly: all meanings are equally likely and each has one sentence, so nobody can
expect to pay less than ln MEANINGS nats a sentence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from crosstune.foundation.data import MEANINGS, Encoded, collate, encode, parse_language
from crosstune.foundation.errors import TrainingError
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.storage import (
    atomic_folder,
    cache_folder,
    fingerprint,
    read_json,
    write_json,
)
from crosstune.foundation.worlds.settings import WorldSettings

FIRST_MEANING = 100_000  # tasks take their sentences from meaning 0 on
_HELD_OUT = 256
_RECIPE = 3  # raise it when code here changes what is made
_RECORD = "world.json"


@dataclass(frozen=True)
class World:
    """A finished world.

    Unit:
        Losses are nats per scored token, on sentences that were not learnt from.

    Attributes:
        folder: An ordinary Hugging Face model folder, with its tokenizer.
        parameters: How many the model has.
        held_out_nats: The model's loss.
        unigram_nats: The loss of knowing only token frequencies.
        uniform_nats: ln V.
        floor_nats: The entropy of the language, which no model beats in expectation.
    """

    folder: Path
    parameters: int
    held_out_nats: float
    unigram_nats: float
    uniform_nats: float
    floor_nats: float


def embedded_world(settings: WorldSettings | None = None) -> World:
    """The world of these settings, from the cache, or made now in under a minute on two cores.

    Args:
        settings: What it is made of; the default world when not given.

    Returns:
        The finished world; the same settings and library versions share one folder.
    """
    settings = settings or WorldSettings()
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    key = fingerprint({"settings": asdict(settings), "recipe": _RECIPE, "versions": versions})
    folder = cache_folder() / "worlds" / key
    if not (folder / _RECORD).is_file():
        with atomic_folder(folder) as temporary:
            _make(settings, temporary)
    record = read_json(folder / _RECORD)
    return World(folder=folder, **record["world"])


def _make(settings: WorldSettings, folder: Path) -> None:
    names = (settings.language, *settings.other_languages)
    tokenizer = save_tokenizer(folder, names, settings.vocabulary, settings.context)
    rows = parse_language(settings.language).sentences(
        settings.sentences + _HELD_OUT, start=FIRST_MEANING
    )
    learnt, held_out = (
        encode(part, tokenizer, settings.context) for part in (rows[:-_HELD_OUT], rows[-_HELD_OUT:])
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # of matrices this small a second thread makes nothing but waiting
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Seeds(settings.seed).derive("world", "weights"))
            model = _new_model(settings, len(tokenizer))
            _pretrain(model, learnt, tokenizer.pad_token_id, settings)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    world = World(
        folder=folder,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        held_out_nats=_held_out_nats(model, held_out, tokenizer.pad_token_id),
        unigram_nats=_unigram_nats(learnt, held_out, len(tokenizer)),
        uniform_nats=math.log(len(tokenizer)),
        floor_nats=math.log(MEANINGS) * _HELD_OUT / sum(item.scored_tokens for item in held_out),
    )
    record = {name: value for name, value in asdict(world).items() if name != "folder"}
    write_json(folder / _RECORD, {"settings": asdict(settings), "world": record})


def _new_model(settings: WorldSettings, vocabulary: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.hidden_size * 8 // 3,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads // 2,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).float()


def _pretrain(model: Any, encoded: Sequence[Encoded], pad_id: int, settings: WorldSettings) -> None:
    """Plain AdamW, one warm-up and a cosine: the model has learnt the language when this returns."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=settings.learning_rate,
        total_steps=settings.steps,
        pct_start=0.1,
        cycle_momentum=False,
    )
    generator = Seeds(settings.seed).torch("world", "order")
    model.train()
    order: list[int] = []
    for step in range(settings.steps):
        while len(order) < settings.batch:
            order += torch.randperm(len(encoded), generator=generator).tolist()
        chosen, order = order[: settings.batch], order[settings.batch :]
        loss = model(**collate([encoded[index] for index in chosen], pad_id)).loss
        if not torch.isfinite(loss):
            raise TrainingError(
                "learning_rate",
                law="must let the embedded model's loss stay finite",
                found=f"{loss.item()} at step {step}",
                remedy=f"Lower it below {settings.learning_rate}.",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def _held_out_nats(model: Any, encoded: Sequence[Encoded], pad_id: int) -> float:
    nats = tokens = 0.0
    for start in range(0, len(encoded), 64):
        part = encoded[start : start + 64]
        scored = sum(item.scored_tokens for item in part)
        nats += float(model(**collate(part, pad_id)).loss) * scored
        tokens += scored
    return nats / tokens


def _unigram_nats(learnt: Sequence[Encoded], held_out: Sequence[Encoded], size: int) -> float:
    """Cross-entropy of held-out tokens under the learnt ones' frequencies, each counted once more than it came."""
    counts = Counter(label for item in learnt for label in item.labels if label >= 0)
    total = counts.total() + size
    labels = [label for item in held_out for label in item.labels if label >= 0]
    return -sum(math.log((counts[label] + 1) / total) for label in labels) / len(labels)


OPENING, CLOSING = "<s>", "</s>"
_SENTENCES = 2000  # of each language; more change nothing, since the words are few


def train_tokenizer(languages: Sequence[str], vocabulary: int, context: int) -> Any:
    """A tokenizer that opens every text with ``<s>``, as Llama's do, and pads with ``</s>``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[OPENING, CLOSING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [row.text for name in languages for row in parse_language(name).sentences(_SENTENCES)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{OPENING} $A", pair=f"{OPENING} $A {OPENING} $B", special_tokens=[(OPENING, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=OPENING,
        eos_token=CLOSING,
        pad_token=CLOSING,
        model_max_length=context,
    )


def save_tokenizer(folder: Path, languages: Sequence[str], vocabulary: int, context: int) -> Any:
    """The trained tokenizer, also written to a folder."""
    tokenizer = train_tokenizer(languages, vocabulary, context)
    tokenizer.save_pretrained(folder)
    return tokenizer
