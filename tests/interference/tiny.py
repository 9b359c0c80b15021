"""A model, a tokenizer and rows small enough to be trained in a second; nothing here is downloaded."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from crosstune.foundation.data import Row, collate, encode

WORDS = {
    "en": ["the", "a", "cat", "dog", "sees", "eats", "big", "red", "fish", "bird"],
    "bn": ["ek", "ti", "beral", "kukur", "dekhe", "khay", "boro", "lal", "mach", "pakhi"],
}


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, for both languages."""
    vocabulary = {"<pad>": 0, "<s>": 1, "<unk>": 2}
    for word in WORDS["en"] + WORDS["bn"]:
        vocabulary[word] = len(vocabulary)
    model = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", bos_token="<s>"
    )


def rows(language: str, count: int, start: int = 0, *, grouped: bool = True) -> list[Row]:
    """Sentences of one language; the same number is the same meaning in every language."""
    found = []
    for number in range(start, start + count):
        choose = random.Random(number)
        picks = [choose.randrange(10) for _ in range(choose.randint(5, 9))]
        text = " ".join(WORDS[language][pick] for pick in picks)
        found.append(Row(f"{language}-{number}", text, group=f"m{number}" if grouped else None))
    return found


def llama(*, seed: int = 0, dropout: float = 0.0, tied: bool = False) -> LlamaForCausalLM:
    """Two layers of width 16 with random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=23,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        attention_dropout=dropout,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def sure(*, seed: int = 0) -> LlamaForCausalLM:
    """A model that is sure of one wrong token after every word: the gradients of all rows point the same way, but those of Q and K."""
    model = llama(seed=seed)
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(1.0)
        model.lm_head.weight[2] = 0.5
    return model


def lora(*, seed: int = 0) -> Any:
    """The same model with LoRA on attention and MLP; B is random so that both factors move."""
    model = get_peft_model(
        llama(seed=seed),
        LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]),
    )
    torch.manual_seed(seed + 1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def trainer(model: Any, folder: Path, callbacks: list[Any], **arguments: Any) -> Trainer:
    """A stock trainer that learns the second language on the CPU."""
    encoded = encode(rows("bn", 64, start=500), tokenizer(), 16)
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 4,
        "save_strategy": "no",
        "lr_scheduler_type": "constant",
        "seed": 7,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **(settings | arguments)),
        train_dataset=encoded,
        data_collator=lambda rows: collate(rows, 0),
        processing_class=tokenizer(),
        callbacks=callbacks,
    )
