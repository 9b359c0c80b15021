"""Does the loss of a distillation depend on how a batch is split? `python benchmarks/distill_factors.py`; with `--whole` it writes docs/distill_factors.md.

The same eight rows of unequal length in one optimizer step, at once or over micro-batches and processes: ours, and the trainers
of TRL and of NVIDIA's ModelOpt where they are installed. The script starts itself once more for every process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain, product
from pathlib import Path
from typing import Any

import datasets
import torch
from peers.command import command, markdown, publish
from torch import distributed
from transformers import TrainingArguments

from crosstune import DistillationTrainer
from crosstune.distillation.curriculum import TERMS
from crosstune.foundation.data import Row, collate, encode, parse_language
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import random_model

SPLITS = ((8, 1, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2))
SENTENCES = (1, 4, 2, 1, 3, 1, 2, 1)
LENGTH = 128
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
FIXED = {"learning_rate": 0.0, "max_steps": 1, "max_grad_norm": 1e9, "optim": "sgd"}
FIXED |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
FIGURES = {"train": "train loss", "norm": "gradient norm", "eval": "eval loss"}
OURS, ALL = "ours, kd", "ours, all terms"
GKD, GOLD, ULD, MODELOPT = "TRL GKD", "TRL GOLD, JSD", "TRL GOLD, ULD", "ModelOpt KDTrainer"
PACKAGES = {OURS: "crosstune", ALL: "crosstune", GKD: "trl", GOLD: "trl", ULD: "trl"}
PACKAGES |= {MODELOPT: "modelopt"}
USED = {name: name for name in ("torch", "transformers", "trl")} | {"nvidia-modelopt": "modelopt"}
Split = tuple[int, int, int]


def rows() -> list[Row]:
    """Eight rows of one to four sentences; the first word is only read."""
    said = [row.text for row in parse_language("toy:latin-svo").sentences(sum(SENTENCES))]
    texts = [" ".join(said.pop() for _ in range(count)) for count in SENTENCES]
    halves = [text.partition(" ") for text in texts]
    return [Row(f"row {at}", f" {rest}", first) for at, (first, _, rest) in enumerate(halves)]


def given(folder: Path) -> tuple[Any, Any, Any, Any]:
    """Student, teacher, tokenizer and encoded rows, the same in every process."""
    student, teacher = (load_model(folder / name) for name in ("student", "teacher"))
    tokenizer = load_tokenizer(folder / "teacher")
    return student, teacher, tokenizer, encode(rows(), tokenizer, LENGTH)


def ours(way: str, folder: Path, output: Path, split: Split) -> dict[str, Any]:
    """Crosstune's trainer. It refuses a learning rate of 0; one of 1e-30 moves no float32 weight."""
    student, teacher, tokenizer, encoded = given(folder)
    training: dict[str, Any] = {"learning_rate": 1e-30, "optimizer": "sgd", "clip": 0.0, "steps": 1}
    training |= {"batch_rows": len(encoded), "accumulation": split[1], "length": LENGTH}
    training |= {"evaluate_every": 1, "evaluation_tokens": split[0] * LENGTH, "log_every": 1}
    options: dict[str, Any] = {"divergence": "jsd", "alphas": {"ce": 0.2, "kd": 1.0}}
    options |= {"terms": TERMS if way == ALL else ("kd",), "training": training}
    options |= {"held_out": {"same": encoded}, "output": str(output)}
    trainer = DistillationTrainer(student, teacher, tokenizer, encoded, **options)
    booked = [row for row in trainer.run().ledger.rows() if row["step"] == 1]
    line = next(some for some in trainer.stage.state.log_history if "grad_norm" in some)
    held = sum(row["weighted"] for row in booked if row["side"] == "same")
    terms = {f"{r['side']} {r['term']}": r["raw"] for r in booked if r["side"] != "parity"}
    return {"train": line["loss"], "norm": line["grad_norm"], "eval": held, "terms": terms}


def settings_of(split: Split, output: Path) -> dict[str, Any]:
    """Settings of transformers' Trainer; a limit of 1e9 clips nothing, and lets the norm be logged."""
    settings = {"output_dir": str(output), "gradient_accumulation_steps": split[1], **FIXED}
    return settings | {f"per_device_{side}_batch_size": split[0] for side in ("train", "eval")}


def figures(trainer: Any) -> dict[str, float]:
    """One step and one evaluation of a Trainer."""
    trainer.train()
    line, held = trainer.state.log_history[0], trainer.evaluate()["eval_loss"]
    return {"train": line["loss"], "norm": line["grad_norm"], "eval": held}


def trl(way: str, folder: Path, output: Path, split: Split) -> dict[str, float]:
    """TRL's trainers that take given answers (`lmbda=0`: nothing is generated)."""
    name = "GKD" if way == GKD else "GOLD"
    module = import_module(f"trl.experimental.{name.lower()}")
    student, teacher, tokenizer, _ = given(folder)
    tokenizer.chat_template = TEMPLATE
    own: dict[str, Any] = {"lmbda": 0.0, "beta": 0.5, "temperature": 1.0, "max_length": LENGTH}
    if name == "GOLD":
        own |= {"max_completion_length": LENGTH // 2, "use_uld_loss": way == ULD}
    settings = {**settings_of(split, output), "bf16": False, "gradient_checkpointing": False}
    pairs = [{"user": row.prompt, "assistant": row.text}.items() for row in rows()]
    talks = [[{"role": role, "content": text} for role, text in pair] for pair in pairs]
    data = datasets.Dataset.from_dict({"messages": talks})
    sets = {"train_dataset": data, "eval_dataset": data, "processing_class": tokenizer}
    options = getattr(module, f"{name}Config")(**settings, **own)
    make = getattr(module, f"{name}Trainer")
    return figures(make(model=student, teacher_model=teacher, args=options, **sets))


def modelopt(way: str, folder: Path, output: Path, split: Split) -> dict[str, float]:
    """NVIDIA's trainer, forward KL."""
    module = import_module("modelopt.torch.distill.plugins.huggingface")
    student, teacher, tokenizer, encoded = given(folder)
    options = TrainingArguments(**settings_of(split, output), remove_unused_columns=False)
    sets = {"train_dataset": encoded, "eval_dataset": encoded, "model": student, "args": options}
    sets["data_collator"] = lambda some: collate(some, tokenizer.pad_token_id)
    return figures(module.KDTrainer(distill_args={"teacher_model": teacher}, **sets))


def work(folder: Path) -> None:
    """What one process does: its splits, by every trainer that is there; the first process keeps the figures."""
    torch.set_num_threads(1)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    found = {}
    for (way, package), (at, split) in product(PACKAGES.items(), enumerate(SPLITS)):
        run: Callable[..., Any] = {"trl": trl, "modelopt": modelopt}.get(package, ours)
        fits = way != MODELOPT or processes == 1  # it wraps its frozen teacher: DDP refuses
        if split[2] == processes and find_spec(package) and fits:
            found[f"{way}/{at}"] = run(way, folder, folder / way / str(at), split)
    if os.environ.get("RANK", "0") == "0":
        (folder / f"{processes}.json").write_text(json.dumps(found), encoding="utf-8")
    if distributed.is_initialized():
        distributed.destroy_process_group()


def launch(folder: Path, processes: int) -> None:
    """Start this script as a launcher would, and wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    told |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    meet = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    line = [sys.executable, str(Path(__file__).resolve()), "--into", str(folder)]
    started = []
    for rank in range(processes):
        own = {**meet, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        with (log := folder / f"{processes}-{rank}.log").open("w") as said:
            started.append((log, subprocess.Popen(line, env=told | own, stdout=said, stderr=said)))
    try:
        for log, one in started:
            if one.wait(timeout=600):
                raise SystemExit(f"a process of {processes} failed:\n{log.read_text()[-3000:]}")
    finally:
        for _, one in started:
            one.kill()


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    """The figures of every trainer and split."""
    random_model("llama", folder / "student", initializer_range=0.3, hidden_size=16)
    random_model("llama", folder / "teacher", seed=1, initializer_range=0.3, num_hidden_layers=3)
    found: dict[str, dict[str, Any]] = {}
    for processes in (1, 2):
        launch(folder, processes)
        found |= json.loads((folder / f"{processes}.json").read_text(encoding="utf-8"))
    return found


def page(found: dict[str, dict[str, Any]], sizes: list[int]) -> str:
    """The table, and how it was made."""
    cells, here = [], [way for way in PACKAGES if f"{way}/0" in found]
    for way, (at, split) in product(here, enumerate(SPLITS)):
        first, own = found[f"{way}/0"], found.get(f"{way}/{at}", {})
        told = [(f"{own[name]:.6f}", f"{own[name] / first[name]:.5f}") for name in own and FIGURES]
        cells += [[way, " × ".join(map(str, split)), *chain(*told)]] if own else []
    heads = chain(*((name, "factor") for name in FIGURES.values()))
    table = markdown(["trainer", "rows × micro-batches × processes", *heads], cells)
    single = [found[f"{ALL}/{at}"]["terms"] for at in range(len(SPLITS))]
    apart = max(abs(each[name] / raw - 1) for each in single for name, raw in single[0].items())
    absent = "".join(f"\n* {way}: not installed." for way in PACKAGES if way not in here)
    if MODELOPT in here:
        absent += f"\n* {MODELOPT}, on more processes, wraps its frozen teacher in DDP, which torch refuses."
    made = ", ".join(f"{name} {version(name)}" for name, root in USED.items() if find_spec(root))
    return f"""# Does the loss depend on how a batch is split?

Written by `benchmarks/distill_factors.py`: one optimizer step over the same eight rows of {min(sizes)} to {max(sizes)} tokens, learning rate 0, no clipping,
a tiny random Llama as student and another as teacher, on the CPU, processes joined by gloo ({made}). A factor is to the first line of
the same trainer: 1 is right. All take the Jensen-Shannon divergence at β = ½ and temperature 1, but ULD (a distance of sorted
probabilities) and ModelOpt (forward KL). The same rows are evaluated, in batches of the first number.

{table}

* Losses and norms are what the trainers log. Adam hides a wrong scale of the gradient; limits of its norm, sums with other losses, and comparisons with evaluation or between runs do not.
* Evaluation of GKD, GOLD's JSD and ModelOpt, and ModelOpt's train loss, are means of batches' means, which move with batches where rows differ in length.
* {ALL} that a dense teacher has: no raw term, of {len(single[0])} in training and evaluation, is further than {apart:.0e} of itself from the first split's. Evaluation after the step differs from training in the last digits: the router's loads are those of the step before.{absent}
"""


def main() -> None:
    """Measure, and print or write the page."""
    parser = command(__doc__)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.into:
        work(options.into)
        return
    with tempfile.TemporaryDirectory() as place:
        found = measured(Path(place))
        sizes = [len(row.input_ids) for row in given(Path(place))[3]]
    publish(page(found, sizes), "distill_factors.md", whole=options.whole)


if __name__ == "__main__":
    main()
