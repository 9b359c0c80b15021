"""What a documented example may take as given: a tiny model, its tokenizer, rows of two languages, a stock trainer's arguments."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from crosstune.foundation.data import Language, encode
from crosstune.foundation.worlds import random_model

folder = random_model("llama", Path("model"))
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="</s>")
english_rows = [row.text for row in Language("latin", "svo").sentences(100)]
bengali_rows = [row.text for row in Language("bengali", "sov").sentences(100)]


def _padded(ids: list[int], fill: int) -> list[int]:
    return ids + [fill] * (24 - len(ids))


_encoded = encode(Language("bengali", "sov").sentences(40, start=200), tokenizer, 24)
bengali = Dataset.from_list(
    [
        {
            "input_ids": _padded(row.input_ids, tokenizer.pad_token_id),
            "attention_mask": _padded([1] * len(row.input_ids), 0),
            "labels": _padded(row.labels, -100),
        }
        for row in _encoded
    ]
)
args = TrainingArguments(
    output_dir="training",
    max_steps=4,
    per_device_train_batch_size=4,
    learning_rate=1e-2,
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
    save_strategy="no",
)
__all__ = ["Trainer", "args", "bengali", "bengali_rows", "english_rows", "model", "tokenizer"]
