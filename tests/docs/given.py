"""What a documented example may take as given: a tiny model, its tokenizer, rows of two languages, a stock trainer's arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from crosstune.foundation.data import Language, encode

LENGTH = 24


def given(folder: Path) -> dict[str, Any]:
    """The names that an example uses without making them, by the model in a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="</s>")
    latin, bengali = Language("latin", "svo"), Language("bengali", "sov")
    return {
        "Dataset": Dataset,
        "Trainer": Trainer,
        "args": arguments(),
        "bengali": encoded(tokenizer, bengali),
        "bengali_rows": [row.text for row in bengali.sentences(100)],
        "english_rows": [row.text for row in latin.sentences(100)],
        "model": AutoModelForCausalLM.from_pretrained(folder),
        "tokenizer": tokenizer,
    }


def arguments() -> TrainingArguments:
    """A few steps on the CPU, told to nobody."""
    return TrainingArguments(
        output_dir="training",
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )


def encoded(tokenizer: Any, language: Language) -> Dataset:
    """Other sentences of a language, padded to one length, so that a stock collator can stack them."""

    def padded(ids: list[int], fill: int) -> list[int]:
        return ids + [fill] * (LENGTH - len(ids))

    return Dataset.from_list(
        [
            {
                "input_ids": padded(row.input_ids, tokenizer.pad_token_id),
                "attention_mask": padded([1] * len(row.input_ids), 0),
                "labels": padded(row.labels, -100),
            }
            for row in encode(language.sentences(40, start=200), tokenizer, LENGTH)
        ]
    )
