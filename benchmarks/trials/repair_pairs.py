"""The pairs that repair is tried on: `python benchmarks/trials/repair_pairs.py OUT` fine-tunes real tiny models, resumably.

Five stages for each model, kind (full or LoRA), learning rate and seed: the pretrained stories model learns English
news, then Bengali, then Arabic (parallel sentences); or encyclopedia articles; or code. A stage that is there is not
trained again. Rows are split by article into training rows and rows for repair, which no stage ever learns.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from peft import PeftModel

from crosstune.foundation.data import Pool, Row, Task, encode, split_tasks
from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.training import (
    LoraSettings,
    StageData,
    TrainingSettings,
    train_stage,
    with_lora,
)

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
MODELS = ("stories260K", "stories3M")
RATES = {"full": (3e-4, 1e-3), "lora": (1e-3, 3e-3)}
SEEDS = (0, 42, 123, 456, 789)
STEPS, BATCH, LENGTH = 100, 8, 128
CHAINS = (("en", "bn", "ar"), ("wikitext",), ("code",))
TRANSITIONS = {  # name: (stage before, stage after, tasks to keep)
    "en-bn": ("en", "bn", ("en", "bn")),
    "en-bn-ar": ("bn", "ar", ("en", "bn", "ar")),
    "stories-en": (None, "en", ("stories", "en")),
    "stories-wikitext": (None, "wikitext", ("stories", "wikitext")),
    "stories-code": (None, "code", ("stories", "code")),
}


@dataclass(frozen=True)
class Case:
    """One fine-tune: a model, what is trained of it, how fast, and by which seed."""

    model: str
    kind: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """A name that may be a folder."""
        return f"{self.model}-{self.kind}-{self.rate:g}-{self.seed}"

    @property
    def source(self) -> Path:
        """The pretrained model."""
        return SHARED / "models" / self.model


def cases(models: list[str], kinds: list[str], seeds: list[int]) -> Iterator[Case]:
    """All cases of some models, kinds and seeds."""
    for seed, model, kind in product(seeds, models, kinds):
        for rate in RATES[kind]:
            yield Case(model, kind, rate, seed)


def tasks() -> dict[str, Task]:
    """Every task: `train` may be learned, `test` is left for repair; split by article across all of them."""
    pools = [
        *(Pool(name, tuple(_sentences(name))) for name in ("en", "bn", "ar")),
        Pool("stories", tuple(_stories())),
        Pool("wikitext", tuple(_articles())),
        Pool("code", tuple(_code())),
    ]
    return {task.name: task for task in split_tasks(pools, test_share=0.4, samples=None, seed=0)}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream)


def _sentences(language: str) -> Iterator[Row]:
    for row in _json_rows(SHARED / "data" / "languages" / f"{language}.jsonl"):
        yield Row(row["id"], row["text"], group=row.get("doc") or row["id"])


def _stories() -> Iterator[Row]:
    for row in _json_rows(SHARED / "data" / "english" / "tinystories_heldout.jsonl"):
        yield Row(row["id"], row["text"])


def _code() -> Iterator[Row]:
    for row in _json_rows(SHARED / "data" / "code" / "code_alpaca_5k.jsonl"):
        text = "\n".join(filter(None, (row["instruction"], row["input"], row["output"])))
        yield Row(row["id"], text)


def _articles() -> Iterator[Row]:
    for part in ("valid", "test"):
        article, number = 0, 0
        lines = (SHARED / "data" / "english" / "wikitext-2" / f"{part}.txt").read_text("utf-8")
        for line in lines.splitlines():
            if line.startswith(" = ") and not line.startswith(" = ="):
                article, number = article + 1, 0
            elif len(line) > 200:
                number += 1
                yield Row(f"{part}-{article}-{number}", line.strip(), group=f"{part}-{article}")


def train(case: Case, out: Path, every: dict[str, Task], last: list[str]) -> None:
    """Train the chains of one case that end in these tasks; each stage is saved as a folder or adapter."""
    tokenizer = load_tokenizer(case.source)
    for chain in (chain for chain in CHAINS if chain[-1] in last):
        previous: Path | None = None
        for task in chain:
            folder = out / case.name / task
            if not folder.exists():
                began = time.perf_counter()
                _stage(case, every[task], previous, folder, tokenizer)
                print(f"{case.name} {task}: {time.perf_counter() - began:.0f} s", flush=True)
            previous = folder


def _stage(case: Case, task: Task, previous: Path | None, folder: Path, tokenizer: Any) -> None:
    lora = LoraSettings() if case.kind == "lora" else None
    model = load_model(previous if previous and lora is None else case.source)
    if lora is not None:
        model = (
            with_lora(model, lora, case.seed)
            if previous is None
            else PeftModel.from_pretrained(model, str(previous), is_trainable=True)
        )
    settings = TrainingSettings(
        learning_rate=case.rate, steps=STEPS, batch_rows=BATCH, length=LENGTH, lora=lora
    )
    rows = encode(task.train, tokenizer, LENGTH, window=True)
    data = StageData(rows, pad_id=tokenizer.pad_token_id)
    scratch = Path(tempfile.mkdtemp(prefix="pairs-"))
    try:
        train_stage(model, data, settings, output_folder=scratch, seed=case.seed)
        save_model(model, tokenizer, folder)
    finally:
        shutil.rmtree(scratch)


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--kinds", nargs="+", default=list(RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    ends = [chain[-1] for chain in CHAINS]
    parser.add_argument("--chains", nargs="+", default=ends, help="by their last task")
    arguments = parser.parse_args()
    every = tasks()
    for case in cases(arguments.models, arguments.kinds, arguments.seeds):
        train(case, arguments.out, every, arguments.chains)


if __name__ == "__main__":
    main()
