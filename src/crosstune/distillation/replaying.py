"""One optimizer step again, by the stage that trains, on the processor: as one batch, accumulated, and over two processes, term by term."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import start_processes
from torch.utils.data import DataLoader

from crosstune.distillation.checks import SAME, Check, TrainingBooks
from crosstune.distillation.stage import DistillationStage
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.ranks import is_first
from crosstune.foundation.records import Column, Table
from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training import StageData, checkpoints, trained
from crosstune.foundation.training.loss import LossModule

WHOLE = "whole"  # in place of a term: all of them
_ONE = "one batch"
_APART = 1e-3  # gradients that were summed in another order, in float32, are nearer
_NEAR = 0.05  # a mean of means of rows of other lengths is so near the mean
REPLAYED = (
    Column.axis("way", about="one batch, accumulated, or two processes"),
    Column.axis("term", about="an entry of the ledger; whole: all of them"),
    Column.value("raw", about="sum over sum of the step; of the whole, the loss"),
    Column.value("gradient", about="norm of the gradient of weight x raw, before clipping"),
    Column.value("raw_ratio", about="to that of one batch; below 1e-8 all are alike"),
    Column.value("gradient_ratio", about="to that of one batch"),
    Column.value("apart", unit="share", about="distance to one batch's gradient, over its norm"),
)


@dataclass(frozen=True)
class ReplayedStep:
    """An optimizer step, counted from 1, from the weights `after` so many; `table` says what each way found of each term."""

    step: int
    after: int
    table: Table
    checks: tuple[Check, ...]
    """Of each way, whether it found what one batch does; a factor is named."""

    def __str__(self) -> str:
        says = "{term:28}{way:>14}: raw {raw:10.5} (× {raw_ratio:.6f}), gradient {gradient:10.5} (× {gradient_ratio:.6f})"
        first = f"step {self.step}, weights after {self.after} steps"
        rows = (says.format(**row) for row in self.table.rows())
        return "\n".join([first, *rows, *map(str, self.checks)])


class _Window(DistillationStage):
    """A single optimizer step, once whole and then once a term; nothing moves."""

    check_parity = False
    at = 0

    def get_train_dataloader(self) -> DataLoader[Encoded]:
        """The step's own micro-batches, a pass after the other."""
        loader: Any = super().get_train_dataloader()
        count = self.settings.accumulation
        own = list(islice(loader.batch_sampler, self.at * count, (self.at + 1) * count))
        self.passes = [WHOLE, *self.ledger.weights(self.at)]
        self.found: dict[str, float] = {}
        again: Any = own * len(self.passes)
        return DataLoader(loader.dataset, batch_sampler=again, collate_fn=loader.collate_fn)

    def get_batch_samples(self, *args: Any) -> tuple[list[dict[str, Any]], None]:
        """The clock stands at the step; after the whole only one term has a factor."""
        name, more = self.passes[len(self.found)], len(self.found) + 1 < len(self.passes)
        self.state.global_step, self.state.max_steps = self.at, self.at + 1 + more
        self.ledger.rows.clear()
        self._kept = {name: value.clone() for name, value in self.loss_module.named_buffers()}
        batches = super().get_batch_samples(*args)
        if name != WHOLE:
            self.ledger.factors = {name: self.ledger.factors[name]}
        return batches

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> float:
        """Gradient and account are written down, and taken from the optimizer."""
        norm = super()._get_grad_norm(model, grad_norm)
        name, rows = self.passes[len(self.found)], self.ledger.rows
        self.found[name] = sum(r["weighted"] for r in rows) if name == WHOLE else rows[0]["raw"]
        if is_first():
            learned = [p for p in self.loss_module.parameters() if p.requires_grad]
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
            gradient = torch.cat([part.flatten().float() for part in parts])
            save_file({name: gradient}, self.output_folder / f"{len(self.found)}.safetensors")
            write_json(self.output_folder / "raw.json", self.found)
        model.zero_grad()
        with torch.no_grad():  # a windowed term knows the step before, at every pass
            for name, value in self.loss_module.named_buffers():
                value.copy_(self._kept[name])
        return norm

    def log(self, *args: Any, **options: Any) -> None:
        """The Trainer's own account is of several passes; each is closed on its own above."""


def replayed(stage: DistillationStage, step: int) -> ReplayedStep:
    """One optimizer step as one batch, accumulated as the settings say (or by 4), and over two processes of this machine.

    Args:
        stage: As it was made and not run, such as `DistillationTrainer(...).stage`; it is left as it is.
        step: Counted from 1. The weights are those of the newest whole checkpoint before it; for step 1, the start's.

    Returns:
        Raw values and gradients of each term that has a weight at that step, and whether they are the same.
    """
    ran, steps, folder = stage.state.global_step, stage.settings.steps, stage.output_folder
    words = "must not have been run", f"{ran} steps", "Make it again from the same start."
    hold(ran == 0, SettingsError, "stage", words)
    known, place_of = checkpoints.steps_with_checkpoints(folder), checkpoints.checkpoint_folder
    there = [k for k in known if k < steps and checkpoints.fault(place_of(folder, k)) is None]
    can = f"1, or {there[0] + 1} to {steps}" if there else "1 alone, for no checkpoint is left"
    after = max((one for one in there if one < step), default=0)
    law = f"must be one that there are weights for: {can}", step, "Choose one of these."
    hold(step == 1 or (0 < after < step <= steps), SettingsError, "step", law)
    module = copy.deepcopy(stage.loss_module).to("cpu")
    if module.terms.second_model is not None:
        module.terms.second_model.to("cpu")
    if after:
        checkpoints.check_fits(place_of(folder, after), stage.identity)
        trained.load_tensors(place_of(folder, after), module)
    own = replace(stage.settings, clip=0.0, evaluate_every=0, checkpoint_every=0)
    own = replace(own, early_stopping=None, report_to=())
    data = replace(stage.data, held_out={}, optimizer_from=None)
    many = own.accumulation if own.accumulation > 1 else min(4, own.batch_rows)
    ways = {_ONE: (1, 1), "accumulated": (many, 1)}
    if own.batch_rows >= 2 * own.accumulation:  # no micro-batch may be empty
        ways["two processes"] = own.accumulation, 2
    how = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with TemporaryDirectory() as given:
        for way, (accumulation, processes) in ways.items():
            (place := Path(given) / way).mkdir()
            split = replace(own, accumulation=accumulation)
            told = module, data, split, stage.stage_seed, step - 1, place
            if processes == 1:
                _go(*told)
            else:
                start_processes(_joined, (processes, told), nprocs=processes, start_method=how)
        table = Table("replayed", REPLAYED, list(_rows(Path(given), [*ways])))
    del ways[_ONE]
    checks = [_check(way, *sizes, table, stage.noisy) for way, sizes in ways.items()]
    return ReplayedStep(step, after, table, tuple(checks))


def _go(
    module: LossModule, data: StageData, settings: Any, seed: int, at: int, place: Path
) -> None:
    """One way, on copies: processes are handed the same tensors."""
    own = copy.deepcopy(module)
    window = _Window(own.model, data, settings, output_folder=place, seed=seed, terms=own.terms)
    window.at = at
    window.run()


def _joined(rank: int, count: int, told: tuple[Any, ...]) -> None:
    """One of several processes, as a launcher would begin it."""
    told_by = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    os.environ |= {"ACCELERATE_USE_CPU": "true", **{k: str(v) for k, v in told_by.items()}}
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // count))
    meet = f"file://{told[-1]}/meet"
    distributed.init_process_group("gloo", meet, rank=rank, world_size=count)
    _go(*told)
    distributed.destroy_process_group()


def _rows(folder: Path, ways: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The table, a term at a time: gradients are large."""
    raws = {way: read_json(folder / way / "raw.json") for way in ways}
    for number, term in enumerate(raws[_ONE], start=1):
        found = {way: load_file(folder / way / f"{number}.safetensors")[term] for way in ways}
        one, norm = found[_ONE], float(found[_ONE].double().norm())
        for way, gradient in found.items():
            raw, own = raws[way][term], float(gradient.double().norm())
            row = {"way": way, "term": term, "raw": raw, "gradient": own}
            row["raw_ratio"] = _ratio(raw, raws[_ONE][term], 1e-8)
            row["gradient_ratio"] = _ratio(own, norm)
            apart = float((gradient.double() - one).norm())
            yield {**row, "apart": apart / norm if norm else apart}


def _ratio(value: float, first: float, least: float = 0.0) -> float:
    """Of what is as near as `least`, 1."""
    return 1.0 if abs(value - first) <= least else value / first if first else inf


def _check(way: str, accumulation: int, processes: int, table: Table, noisy: bool) -> Check:
    """Whether a way finds what one batch does; what it multiplies by is named."""
    name, rows = f"{way}: the same as one batch", table.where(way=way).rows()
    if noisy:
        return Check(name, "skipped", "dropout or bfloat16 is on: no two passes are the same")
    off = [row for row in rows if row["apart"] > _APART or abs(row["raw_ratio"] - 1) > SAME]
    if not off:
        most = f"{max(row['apart'] for row in rows):.0e}"
        return Check(name, "passed", f"{len(rows) - 1} terms, gradients within {most}")
    off = [row for row in off if row["term"] != WHOLE] or off
    factors = TrainingBooks(accumulation=accumulation, processes=processes).factors
    seen = ", ".join(
        f"{row['term']}: raw × {row['raw_ratio']:.4g}, gradient × {row['gradient_ratio']:.4g}"
        for row in off
    )
    causes = tuple(f"{row['term']}: {_named(row, factors)}" for row in off)
    return Check(name, "failed", seen, causes, "the term alone, a row a micro-batch", "stop")


def _named(row: Mapping[str, Any], factors: Mapping[str, float]) -> str:
    """What a term is multiplied by, or what else it can be."""
    what = "raw" if abs(row["raw_ratio"] - 1) > SAME else "gradient"
    ratio = row[f"{what}_ratio"]
    fits = [own for own, factor in factors.items() if abs(ratio / factor - 1) < _NEAR]
    told = f"{what} scaled by {' or '.join(fits)}"
    return told if fits else "it depends on which rows share a micro-batch"
