"""A byte-level byte-pair tokenizer, trained on toy languages in a second; no text is unknown to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from crosstune.foundation.data import parse_language

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
