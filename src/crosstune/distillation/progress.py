"""What a distillation says while it runs: one step's ledger in words, and whether the student learns, in bits per byte since the start."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from math import log, nan
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import TrainerCallback

from crosstune.distillation.settings import DistillationSettings
from crosstune.distillation.stage import DistillationStage
from crosstune.foundation.errors import LedgerError, hold
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.ranks import is_first
from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife
from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training.ledger import TRAIN

_ROWS = "Jackknife over rows."
LEARNED = (
    Column.axis("step", "int64", about="Optimizer steps taken."),
    Column.axis("set", about="The held-out set."),
    *Column.interval("bits", unit="bits/byte", about="What its text costs.", bounds=_ROWS),
    *Column.interval(
        "more",
        unit="bits/byte",
        about="The same less that before the first step.",
        bounds="Jackknife over rows, paired.",
    ),
)


def ledger_lines(stage: DistillationStage, settings: DistillationSettings, step: int) -> str:
    """One optimizer step's account in words.

    Args:
        stage: Whose books they are.
        settings: What weights are expected.
        step: Counted from 1.

    Returns:
        A line a term: alpha, ramp, expected and actual weight, raw (and chance), weighted, share; then sum, total, residual, and how the terms last pulled.
    """
    course, steps = settings.course, settings.training.steps
    progress = (step - 1) / steps
    found = {r["term"]: r for r in stage.ledger.rows if (r["step"], r["side"]) == (step, TRAIN)}
    booked = sum(row["weighted"] for row in found.values())
    total, chances = stage.totals.get((step, TRAIN), nan), stage.chances
    lines = [
        f"step {step} of {steps} ({progress:.0%}), phase {course.phase(progress).name}",
        f"{'term':28}{'alpha':>8}{'ramp':>8}{'expected':>10}{'weight':>10}{'raw':>12}{'weighted':>12}{'share':>8}",
    ]
    for name in (entry.name for entry in stage.ledger.entries):
        alpha, ramp = course.alpha(name), course.ramp(name, step - 1, steps)
        row = found.get(name, {"weight": 0.0, "raw": nan, "weighted": 0.0})
        share = row["weighted"] / booked if booked else nan
        lines.append(
            f"{name:28}{alpha:8.3g}{ramp:8.3g}{alpha * ramp:10.4g}{row['weight']:10.4g}"
            f"{row['raw']:12.5g}{row['weighted']:12.5g}{share:8.1%}"
            + (f"  chance {chance:.4g}" if (chance := chances.get(name)) else "")
        )
    lines.append(f"sum {booked:.7g}, total {total:.7g}, residual {booked - total:.1e}")
    last = max((pull["step"] for pull in stage.pulls if pull["step"] < step), default=-1)
    pulls = [pull for pull in stage.pulls if pull["step"] == last]
    if norms := [f"{p['term']} {p['norm']:.3g}" for p in pulls if p["term"] == p["other"]]:
        apart = min(pulls, key=lambda pull: pull["cosine"])
        told = f"{apart['cosine']:.2f} ({apart['term']} and {apart['other']})"
        lines.append(f"gradients before step {last + 1}: {', '.join(norms)}; least cosine {told}")
    return "\n".join(lines)


class DistillationProgress(TrainerCallback):  # type: ignore[misc]
    """Scores held-out sets before the first step and at every evaluation, and says how far the student has come."""

    state_name = "distillation"

    def __init__(self, settings: DistillationSettings, stage: DistillationStage) -> None:
        self.settings, self.stage, self.data = settings, stage, stage.data
        self.rows: list[dict[str, Any]] = []
        """Of the table `learned`."""
        self._before: dict[str, list[float]] = {}
        debug = os.environ.get("CROSSTUNE_DEBUG", "0") not in ("", "0")
        self._every = settings.debug_every or 100 * debug
        self.quiet = False
        """Whether only ledgers are said, and these where CROSSTUNE_DEBUG asks for them: a study has a line of its own."""
        self._debug = debug
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What the student costs before it has learned anything."""
        if not self._before:
            self._score(state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """What it costs now."""
        self._score(state.global_step)
        for row in self.rows[-len(self.data.held_out) :]:
            more = Estimate.of(row, "more")
            told = f"{row['set']} {row['bits']:.3f} bits/byte, {more} since the start"
            self.say(f"step {state.global_step} · {told}")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Weights are the curriculum's; the whole account, where it was asked for."""
        course, steps, step = self.settings.course, self.settings.training.steps, state.global_step
        last = self.stage.ledger.rows[-len(self.stage.ledger.entries) :]
        own = [row for row in last if (row["step"], row["side"]) == (step, TRAIN)]
        off = [r["term"] for r in own if r["weight"] != course.weight(r["term"], step - 1, steps)]
        words = "must have the weights of the curriculum", ", ".join(off), "Find what sets them."
        hold(not off, LedgerError, "terms", words)
        if self._every and state.global_step % self._every == 0:
            self.say(ledger_lines(self.stage, self.settings, state.global_step), self._debug)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """One line."""
        if logs and "loss" in logs:
            self.say(" · ".join(self._parts(state, logs)))

    def _parts(self, state: Any, logs: Mapping[str, float]) -> Iterator[str]:
        step, steps = state.global_step, self.settings.training.steps
        yield f"step {step} of {steps}"
        yield f"phase {self.settings.course.phase((step - 1) / steps).name}"
        terms = [
            f"{name.removesuffix('_weighted')} {value:.4g}"
            for name, value in logs.items()
            if name.endswith("_weighted")
        ]
        yield f"ledger total {logs['loss']:.4g} ({', '.join(terms)})"
        yield f"LR {logs['learning_rate']:.3e}"

    def say(self, words: str, anyway: bool = False) -> None:
        """One line for who watches."""
        if is_first() and (anyway or not self.quiet):
            self._console.print(words, markup=False)

    def _score(self, step: int) -> None:
        for name, rows in self.data.held_out.items():
            scores = score_rows(self.stage.loss_module.model, rows, pad_id=self.data.pad_id)
            nats = scores.by_unit(scores.nats)
            before = self._before.setdefault(name, nats.tolist())
            gone = nats - torch.tensor(before, dtype=torch.float64)
            found = {"bits": _bits(scores, nats), "more": _bits(scores, gone)}
            ends = {
                f"{column}{end}": float(getattr(one, part))
                for column, one in found.items()
                for end, part in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
            self.rows.append({"step": step, "set": name, **ends})

    def table(self) -> Table:
        """What each held-out set cost at each evaluation."""
        return Table("learned", LEARNED, self.rows)

    def save_state(self, folder: Path) -> None:
        """Write what was scored."""
        totals = [[*key, total] for key, total in self.stage.totals.items()]
        state = {"rows": self.rows, "before": self._before, "totals": totals}
        write_json(folder / "scored.json", {**state, "pulls": self.stage.pulls})

    def load_state(self, folder: Path) -> None:
        """Go on from what was scored."""
        state = read_json(folder / "scored.json")
        self.rows, self._before = state["rows"], state["before"]
        self.stage.totals |= {(step, side): total for step, side, total in state["totals"]}
        self.stage.pulls += state["pulls"]


def _bits(scores: RowScores, nats: Tensor) -> Interval:
    return ratio_jackknife(nats / log(2.0), scores.by_unit(scores.bytes))
