"""A tiny teacher, a narrower and shallower student of the same tokens, and rows for both."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from crosstune.distillation.trainer import DistillationTrainer
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import WorldSettings, random_model
from crosstune.foundation.worlds.embedded import save_tokenizer

TERMS = ("ce", "kd", "spans", "hidden", "layerwise", "attention", "contrastive", "routing")
WORDS = [
    "cat",
    "dog",
    "cow",
    "hen",
    "owl",
    "fox",
    "bee",
    "ant",
    "17",
    "23",
    "42",
    "58",
    "[",
    "]",
    "{",
    "}",
]


def texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of very unequal lengths."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(2, 14))) for _ in range(count)]


def models(folder: Path, **dims: Any) -> tuple[Any, Any, Any]:
    """Student, teacher and tokenizer, the same in every process that asks."""
    places = [folder / name for name in ("student", "teacher")]
    for place, own in zip(
        places, ({"hidden_size": 16} | dims, {"num_hidden_layers": 3}), strict=True
    ):
        if not place.exists():
            random_model("llama", place, **own)
    student, teacher = map(load_model, places)
    return student, teacher, load_tokenizer(places[1])


def across(folder: Path, family: str = "llama") -> tuple[Any, Any, Any, Any]:
    """Student, teacher, and the tokenizer of each: bytes and pairs of bytes, 512 and 300 of them."""
    (student, _, tokenizer), place, world = models(folder), folder / "apart", WorldSettings()
    if not place.exists():
        random_model(family, place, vocab_size=300, num_hidden_layers=3, seed=5)
        save_tokenizer(place, (world.language, *world.other_languages), 300, 128)
    return student, load_model(place), tokenizer, load_tokenizer(place)


def trainer(folder: Path, output: Path, teacher: Any = None, **options: Any) -> DistillationTrainer:
    """All terms at once over eight rows a step, three steps; of another teacher, if one is given."""
    training = {"steps": 3, "batch_rows": 8, "evaluate_every": 2, "length": 48, "log_every": 1}
    given = {
        "terms": TERMS,
        "alphas": {"ce": 0.2, "kd": 0.2, "spans": 0.2},
        "pilot_rows": 12,
        "output": str(output),
        **options,
        "training": {**training, **options.get("training", {})},
    }
    held_out = {"others": texts(10, seed=1)}
    student, live, tokenizer = models(folder)
    if options.get("teacher_tokenizer"):
        student, live, tokenizer, given["teacher_tokenizer"] = across(folder)
    own = student, teacher or live, tokenizer, texts(24)
    return DistillationTrainer(*own, held_out=held_out, **given)
