"""How the agreement of two tasks oscillates: `python benchmarks/trials/oscillation.py OUT [--write]` measures every optimizer step.

The real tiny model learns English news, then Bengali; the gradients of both are compared at each of consecutive
states in the middle of the Bengali stage. What a verdict at one state would have been worth, the periods, and how far means of bursts of
several lengths lie from the mean of the whole stretch are summed up; `--write` writes docs/oscillation.md. A run that is there is only read.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import torch
from torch import Tensor

from crosstune.foundation.data import TaskSettings, encode, read_tasks
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.statistics.series import detrended
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.interference import ConflictProbe, ProbeSettings
from crosstune.interference.conflict.cosine import Agreement, agrees, conflicts
from crosstune.interference.conflict.history import ProbeHistory
from crosstune.interference.conflict.windows import window_of

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
MODEL = SHARED / "models" / "stories260K"
LANGUAGES = ("en", "bn")
RATES = (2e-4, 1e-3)
SEEDS = (0, 42)
STEPS, BATCH, LENGTH = 100, 16, 128
STRETCH = range(18, 82)
BURSTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
PLACEMENTS = (  # every, burst, scattered
    (1, 1, False),
    *((every, 1, scattered) for every in (4, 8, 10, 11) for scattered in (False, True)),
    *((every, every // 4, scattered) for every in (8, 16) for scattered in (False, True)),
    *((len(STRETCH), burst, False) for burst in (4, 8, 16)),
)
PROBE = ProbeSettings(
    every=1, burst=1, blocks=16, rows_per_block=2, length=LENGTH, window_rows=True
)


@dataclass(frozen=True)
class Case:
    """One run: its learning rate and seed."""

    rate: float
    seed: int

    @property
    def name(self) -> str:
        """A name that may be a folder."""
        return f"{self.rate:g}-{self.seed}"


def run(case: Case, out: Path) -> ProbeHistory:
    """The states of one run's Bengali stage, read where they are there."""
    history, folder = ProbeHistory(PROBE), out / case.name
    if not folder.exists():
        began = time.perf_counter()
        probe = _learn(case)
        partial = folder.with_suffix(".partial")
        partial.mkdir(parents=True)
        probe.history.save(partial, case.name)
        partial.rename(folder)
        print(f"{case.name}: {time.perf_counter() - began:.0f} s", flush=True)
    history.load(folder)
    return history


def _learn(case: Case) -> ConflictProbe:
    """Train both stages, the second one watched at every step."""
    model, tokenizer = load_model(MODEL), load_tokenizer(MODEL)
    files = {name: SHARED / "data" / "languages" / f"{name}.jsonl" for name in LANGUAGES}
    sources = [
        TaskSettings(name=name, source=str(file), group="doc") for name, file in files.items()
    ]
    tasks = {task.name: task for task in read_tasks(sources, test_share=0.2, samples=None, seed=0)}
    settings = TrainingSettings(
        learning_rate=case.rate, steps=STEPS, batch_rows=BATCH, length=LENGTH
    )
    probe = ConflictProbe(list(tasks.values()), PROBE, tokenizer=tokenizer)
    for name in LANGUAGES:
        rows = encode(tasks[name].train, tokenizer, LENGTH, window=True)
        data = StageData(rows, pad_id=tokenizer.pad_token_id)
        watching = [probe] if name == LANGUAGES[-1] else []
        with tempfile.TemporaryDirectory() as scratch:
            train_stage(
                model,
                data,
                settings,
                output_folder=Path(scratch),
                callbacks=watching,
                seed=case.seed,
            )
    return probe


@dataclass(frozen=True)
class Stretch:
    """What was measured at every state of a stretch, T states and S sites."""

    states: list[Agreement]
    inner: Tensor  # U_AB, [T, S]

    @classmethod
    def of(cls, history: ProbeHistory) -> Stretch:
        """The stretch of a run."""
        states = [
            state.agreement("current", LANGUAGES, PROBE.level)
            for state in history.states
            if state.step in STRETCH
        ]
        return cls(states, torch.stack([state.inner.value for state in states]))

    @property
    def mean(self) -> Tensor:
        """The mean of U_AB over the stretch, [S]."""
        return self.inner.mean(0)

    def verdict_at_one_state(self) -> tuple[Tensor, Tensor]:
        """Where one state alone would say conflict or agreement, and where with the opposite sign of the stretch's mean, [T, S]."""
        said = torch.stack(
            [(conflicts(s.inner)[0] | agrees(s.inner)) & s.resolved for s in self.states]
        )
        return said, said & (self.inner.sign() != self.mean.sign())

    def periods(self) -> Tensor:
        """The period of the largest peak of each site's periodogram, without its line in time, [S]."""
        power = torch.fft.rfft(detrended(self.inner), dim=0).abs().square()
        return len(self.inner) / (power[1:].argmax(0) + 1).double()

    def apart(self, steps: Sequence[int]) -> tuple[float, float]:
        """Of the mean over some states: mean square of its distance from the stretch's, in standard deviations between states; share of opposite signs."""
        mean = self.inner[list(steps)].mean(0)
        distance = (mean - self.mean) / self.inner.std(0)
        opposite = mean.sign() != self.mean.sign()
        return float(distance.square().mean()), float(opposite.double().mean())

    def verdicts(self, steps: Sequence[int], burst: int) -> tuple[float, float]:
        """Share of sites with a verdict from a window of some states, and share whose verdict has the opposite sign of the stretch's mean."""
        found = window_of(
            [self.states[s] for s in steps], torch.Generator().manual_seed(0), burst=burst
        )
        said = (found.conflict | found.agree) & found.resolved
        wrong = said & (found.inner.value.sign() != self.mean.sign())
        return float(said.double().mean()), float(wrong.double().mean())


def one_state_rows(runs: Mapping[Case, Stretch]) -> Iterator[list[str]]:
    """What a verdict at one state would have been worth, run by run and together."""
    told, missed, places = 0.0, 0.0, 0.0
    for case, stretch in runs.items():
        said, wrong = stretch.verdict_at_one_state()
        resolved = torch.stack([state.resolved for state in stretch.states]).double().mean()
        told, missed, places = told + said.sum(), missed + wrong.sum(), places + said.numel()
        shares = (resolved, said.double().mean(), wrong.sum() / said.sum())
        yield [f"{case.rate:g}", str(case.seed), *(f"{float(share):.0%}" for share in shares)]
    yield ["all", "", "", f"{float(told / places):.0%}", f"{float(missed / told):.0%}"]


def period_rows(runs: Mapping[Case, Stretch]) -> Iterator[list[str]]:
    """Shares of the sites by dominant period."""
    edges = (2.0, 2.5, 3.5, 6.0, 9.0, 12.0, 16.0, 65.0)
    for case, stretch in runs.items():
        periods = stretch.periods()
        shares = [
            float(((periods >= low) & (periods < high)).double().mean())
            for low, high in pairwise(edges)
        ]
        yield [f"{case.rate:g}", str(case.seed), *(f"{share:.0%}" for share in shares)]


def burst_rows(runs: Mapping[Case, Stretch]) -> Iterator[list[str]]:
    """How far means over consecutive states lie from the stretch's, over every place of the burst, by learning rate."""
    for burst in BURSTS:
        cells = [str(burst), f"{burst**-0.5:.2f}"]
        for rate in RATES:
            found = torch.tensor(
                [
                    stretch.apart(range(first, first + burst))
                    for case, stretch in runs.items()
                    for first in range(len(STRETCH) - burst + 1)
                    if case.rate == rate
                ]
            ).mean(0)
            cells += [f"{float(found[0].sqrt()):.2f}", f"{float(found[1]):.0%}"]
        yield cells


def placed(every: int, burst: int, scattered: bool, draw: random.Random) -> list[int]:
    """The states of probes in a stretch: evenly spaced from a random start, or each somewhere in its part of the stretch."""
    room = every - burst + 1
    start = draw.randrange(room)
    starts = [draw.randrange(room) if scattered else start for _ in range(len(STRETCH) // every)]
    return [probe * every + at + k for probe, at in enumerate(starts) for k in range(burst)]


def placement_rows(runs: Mapping[Case, Stretch], draws: int) -> Iterator[list[str]]:
    """Windows of the same stretch: means and verdicts by where their states lie."""
    for every, burst, scattered in PLACEMENTS:
        cells = [str(every), str(burst), "scattered" if scattered else "evenly", ""]
        for rate in RATES:
            draw, found = random.Random(0), []
            for stretch in (stretch for case, stretch in runs.items() if case.rate == rate):
                for _ in range(draws):
                    steps = placed(every, burst, scattered, draw)
                    if every >= len(STRETCH):  # one run of consecutive states: an own burst each
                        verdicts = stretch.verdicts(steps, 1)
                    else:
                        verdicts = stretch.verdicts(steps, burst)
                    found.append((*stretch.apart(steps), *verdicts))
            square, opposite, said, wrong = torch.tensor(found).mean(0).tolist()
            cells[3] = str(len(steps))
            cells += [f"{square**0.5:.2f}", f"{opposite:.0%}", f"{said:.0%}"]
            cells.append(f"{wrong / said:.0%}" if said else "–")
        yield cells


PAGE = """# How agreement oscillates, and what a verdict at one state is worth

Written by `python benchmarks/trials/oscillation.py OUT --write`; do not edit. {model} learns English news and then Bengali ({steps} steps a stage of {batch}
windows of {length} tokens, AdamW, linear schedule). The gradients of both tasks are compared at each of the states {first} to {last} of the Bengali stage
({blocks} blocks of {rows} rows a task, {sites} sites). A *place* is a site at a state; the *mean* is that of U_AB over the stretch of {states} states.

## At one state
A verdict is what would be said of one state alone: above the noise floor, and U_AB on one side of 0 after Holm's correction over the sites. It knows
the error of the rows and nothing of the states around.

{one_state}

## Periods
Share of the sites by the period, in optimizer steps, at which the periodogram of U_AB (without its straight line) is largest.

{periods}

## Means over consecutive states
Distance of the mean over a burst from the mean over the stretch, root mean square in standard deviations between states, and how often their
signs are opposite; over all bursts and sites. Independent states would be 1/√n apart (a little less, since bursts are part of the stretch).

{bursts}

## Where a window's states should lie
Windows over the whole stretch: every so many steps a burst of so many states, evenly spaced from a random start, or each burst scattered
(at random in its part of the stretch); the first row is the stretch itself, the last are single runs of consecutive states. Verdicts are those of the
library's windows, a share of the sites; *opposite of them* is the share of the verdicts whose sign is not that of the stretch's mean.

{placements}

## What follows
* **A verdict at one state is nearly a coin toss**, however well its rows determine it. `measure_conflict` gives none there.
* **The sign does not flip at every step.** It goes up and down once in 9 to 13 steps at the low learning rate and once in 4 to 7 at the high one, nearly
  alike at all sites of a run, and never in 2. So an even burst cancels no better than an odd one, and one of 2 to 4 states is at the low rate hardly
  better than a single state.
* **Single states apart tell most at the low rate and no less at the high one**: compare the scattered rows of 16 states. The probe therefore measures single states.
* **Evenly spaced states are best or worst**: worst where their distance is near the period (every 11 steps at the low rate). Nobody knows the period
  beforehand, so the probe scatters its states over the stretches.
* **Four states in a row have an interval and should not**: it cannot see an oscillation that is longer. A window of fewer than 16 steps
  says so in each of its verdicts.
* **Verdicts are rare.** The oscillation is several times as large as its mean, and even 64 states of one run tell few sites from 0. More states and seeds
  help there, more blocks do not.
"""


def markdown(heads: Sequence[str], rows: Iterator[list[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def page(runs: Mapping[Case, Stretch], draws: int) -> str:
    """All tables."""
    run, rates = ["learning rate", "seed"], [f"at {rate:g}" for rate in RATES]
    first = next(iter(runs.values()))
    bands = ["2", "2.5 to 3.5", "3.5 to 6", "6 to 9", "9 to 12", "12 to 16", "longer"]
    apart = [f"{name} {rate}" for rate in rates for name in ("apart", "opposite")]
    window = [
        f"{name} {rate}"
        for rate in rates
        for name in ("apart", "opposite", "verdicts", "opposite of them")
    ]
    return PAGE.format(
        model=MODEL.name,
        steps=STEPS,
        batch=BATCH,
        length=LENGTH,
        first=STRETCH[0],
        last=STRETCH[-1],
        blocks=PROBE.blocks,
        rows=PROBE.rows_per_block,
        sites=first.inner.shape[1],
        states=len(STRETCH),
        one_state=markdown(
            [*run, "resolved", "with a verdict", "opposite of them"], one_state_rows(runs)
        ),
        periods=markdown([*run, *bands], period_rows(runs)),
        bursts=markdown(["states n", "1/√n", *apart], burst_rows(runs)),
        placements=markdown(
            ["every", "burst", "placed", "states", *window], placement_rows(runs, draws)
        ),
    )


def main() -> None:
    """Run what is not there yet, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--draws", type=int, default=24, help="windows of each kind a run")
    parser.add_argument("--write", action="store_true", help="write docs/oscillation.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = [Case(*one) for one in product(RATES, SEEDS)]
    runs = {case: Stretch.of(run(case, arguments.out)) for case in cases}
    text = page(runs, arguments.draws)
    if arguments.write:
        (CHECKOUT / "docs" / "oscillation.md").write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
