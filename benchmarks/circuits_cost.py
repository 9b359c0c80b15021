"""What circuits cost: `python benchmarks/circuits_cost.py [--gpu]`; with `--whole` it writes docs/circuits_cost.md.

Capture and tiles with the three default scores are held against an ordinary training pass over the same rows, and against
other ways to the same numbers, in turns in one process, all on one thread. Each way's answers are compared with
ours first. Peak memory is that of fresh processes. Growth is measured on random models and rows.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
import transformers
from peers.answers import differences
from peers.command import CHECKOUT, SHARED, command, markdown, publish, spread
from peers.figure import draw
from peers.race import CONTENDERS, Times, measure_peak, peak_gib, race
from peers.scene import SceneSettings, build
from tqdm import tqdm

from crosstune.foundation.storage import write_text

SAID = {
    "plain": "ordinary training pass, all parameters",
    "ours": "**ours, end to end**",
    "capture": "ours: capture alone",
    "tiles": "ours: tiles alone",
    "opacus": "Opacus' per-sample gradients + the same scores",
    "vmap": "`vmap(grad)`, eager attention + the same scores",
    "kronfluence": "kronfluence, diagonal: signed, whole modules",
    "loop": "per-sample backward, loop over pairs and heads",
}
GROWING = ["plain", "ours", "tiles", "opacus", "loop gradients", "loop pairs"]
PROGRESS = "{desc}{percentage:.0f} % done after {elapsed}, about {remaining} left"
TOLERANCE = 1e-3  # of the largest score of a head; float32 differs by 1e-5
QUICK = (SceneSettings("stories3M", 16, 16, 64),)
WHOLE = (SceneSettings("stories3M", 64, 64), SceneSettings("gpt2-small", 8, 8))
CUDA = tuple(
    SceneSettings(model, 16, 16, 512, device="cuda", dtype=dtype, budget_gib=8.0)
    for model in ("gpt2-small", "llama-1B")
    for dtype in ("float32", "bfloat16")
)
WEIGHED = ("plain", "ours", "opacus")  # whose memory the quick run measures


@dataclass(frozen=True)
class Found:
    """What one scene brought: its part of the page, that in a sentence, and what is wrong with it."""

    lines: list[str]
    said: str
    wrong: list[str]


def side_by_side(settings: SceneSettings, *, rounds: int, whole: bool) -> Found:
    """The table of one scene."""
    # Memory first: what follows takes most of it in this process.
    peaks = {name: peak_gib(settings, name) for name in (SAID if whole else WEIGHED)}
    budgets = ["", _budget_words(settings, peaks)] if whole else []
    scene = build(settings)
    times, found = race(scene, list(CONTENDERS), rounds)
    apart = differences(scene, found)
    heads = (
        *("way", "CPU, s", "wall, s", "CPU, plain passes", "wall, plain passes", "peak, GiB"),
        "difference from ours",
    )
    rows = [_row(name, times, peaks, apart) for name in SAID]
    lines = [f"### {settings.title}", "", markdown(heads, rows), *budgets]
    wrong = [
        f"{name} differs by {value:.1e}"
        for name, value in apart.items()
        if settings.exact and not value < TOLERANCE
    ]
    if peaks.get("tiles", 0) > settings.budget_gib:
        wrong.append(f"tiles take {peaks['tiles']:.2f} GiB, the budget is {settings.budget_gib:g}")
    return Found(
        lines, _in_words(settings, times), [f"{settings.title}: {words}" for words in wrong]
    )


def _in_words(settings: SceneSettings, times: Times) -> str:
    passes = {name: f"{median(times.ratios(name)):.2f}" for name in SAID}
    return (
        f"* {settings.title}: all scores of all heads cost {passes['ours']} of the CPU time of a training pass over the same rows, of which the\n"
        f"  tiles are {passes['tiles']}; with Opacus {passes['opacus']}, with `vmap(grad)` {passes['vmap']}, by the loop {passes['loop']}."
    )


def _row(name: str, times: Times, peaks: dict[str, float], apart: dict[str, float]) -> list[str]:
    return [
        SAID[name],
        f"{times.median(name):.2f}",
        f"{times.median(name, 'wall'):.2f}",
        spread(times.ratios(name)),
        f"{median(times.ratios(name, 'wall')):.2f}",
        f"{peaks[name]:.2f}" if name in peaks else "",
        f"{apart[name]:.0e}" if name in apart else "",
    ]


def _budget_words(settings: SceneSettings, peaks: dict[str, float]) -> str:
    """What a budget of half of what was taken does."""
    tight = replace(settings, budget_gib=round(peaks["tiles"] / 2, 2))
    small = {name: peak_gib(tight, name) for name in ("ours", "tiles")}
    return (
        f"Factors and tiles together peak at {peaks['tiles']:.2f} GiB under the budget of {settings.budget_gib:g} GiB, and at "
        f"{small['tiles']:.2f} GiB under one of {tight.budget_gib:g} GiB, the passes that capture included: {peaks['ours']:.2f} and "
        f"{small['ours']:.2f} GiB, where the plain pass takes {peaks['plain']:.2f} GiB."
    )


def growing(*, whole: bool) -> list[tuple[str, int, SceneSettings]]:
    """What grows, to which size, and the scene in which all else stays; sizes go up."""
    if not whole:
        small = SceneSettings("llama-3M", 8, 8, 64)
        return [
            *(("layers", depth, replace(small, layers=depth)) for depth in (2, 4)),
            *(
                ("rows of A and of B", n, replace(small, rows_a=n, rows_b=n, layers=2))
                for n in (8, 16)
            ),
        ]
    base, depths = SceneSettings("llama-3M", 32, 32), (2, 4, 8, 12)
    sizes = [
        (int(base.rows_a * factor), int(base.length * factor)) for factor in (0.25, 0.5, 1, 2, 4)
    ]
    return [
        *(("layers", depth, replace(base, layers=depth)) for depth in depths),
        *(("rows of A and of B", n, replace(base, rows_a=n, rows_b=n)) for n, _ in sizes),
        *(("rows of B alone", n, replace(base, rows_b=n)) for n, _ in sizes),
        *(("tokens of a row", length, replace(base, length=length)) for _, length in sizes),
    ]


def growth_lines(points: list[dict[str, Any]]) -> str:
    """The points as a table."""
    rows = []
    for point in points:
        times: Times = point["times"]
        seconds = [f"{times.median(n):.3f}" for n in ("plain", "ours", "tiles")]
        ratios = [f"{median(times.ratios(n)):.2f}" for n in ("ours", "opacus", "loop")]
        rows.append([point["grows"], str(point["size"]), *seconds, *ratios])
    heads = ("grows", "to", "plain, s", "ours, s", "tiles alone, s")
    return markdown((*heads, "ours, plain passes", "Opacus", "loop"), rows)


def page(options: argparse.Namespace) -> tuple[str, list[str]]:
    """The whole page, and what is wrong with the answers."""
    whole = options.whole
    scenes = (WHOLE if whole else QUICK) + (CUDA if options.gpu else ())
    cases = growing(whole=whole)
    # About so many plain passes: every way in every round, and in processes of their own for the peaks.
    table = len(SAID) * (options.rounds + 1) + 2 * len(SAID)
    total = sum(scene.operations for scene in scenes) * table
    total += sum(case.operations for *_, case in cases) * 2 * len(GROWING)
    found, points = [], []
    with tqdm(total=total, bar_format=PROGRESS) as progress:
        for scene in scenes:
            progress.set_description(scene.title)
            found.append(side_by_side(scene, rounds=options.rounds, whole=whole))
            progress.update(scene.operations * table)
        for grows, size, case in cases:
            progress.set_description(f"{grows}: {size}")
            times, _ = race(build(case), GROWING, rounds=1)
            points.append({"grows": grows, "size": size, "times": times})
            progress.update(case.operations * 2 * len(GROWING))
    if whole:
        write_text(CHECKOUT / "docs/figures/circuits_cost.svg", draw(points))
    parts = [
        "# What circuits cost",
        INTRODUCTION.format(rounds=options.rounds),
        "\n".join(scene.said for scene in found),
        "## Side by side",
        *("\n".join(scene.lines) for scene in found),
        READING,
        "## Growth",
        GROWTH,
        *(["![Seconds of each way as sizes grow](figures/circuits_cost.svg)"] if whole else []),
        growth_lines(points),
        *([] if options.gpu else ["## On a GPU", NO_GPU]),
    ]
    return "\n\n".join(parts) + "\n", [words for scene in found for words in scene.wrong]


INTRODUCTION = """Written by `benchmarks/circuits_cost.py --whole`: one thread, all ways in turns in one process, median of {rounds} rounds
after one that warms up; ratios are taken round by round against the plain pass of the same round. CPU time is this process's own, so a
neighbour's load does not count in it; wall time stands beside it."""
READING = """* **Plain pass**: forward and backward of the mean loss over the rows of both tasks, batched as the capture is, every parameter
  wanting a gradient; no optimizer step, no dropout. It is the denominator.
* **Capture** passes once more over one batch a task, to see that no row leaks into another; with few batches that shows.
* **Ours, end to end** ends with finished scores: directional, signed and symmetric for every pair, block, head and layer, and also all
  averages under the pooled Fisher, gradient sizes and Fisher diagnostics. The other ways make the scores of pairs alone.
* **Opacus** and **vmap** make per-sample gradients of the attention projections alone (all else is frozen), keep them all, and are scored by the same
  formulas with one matrix product for each block and score. GPT-2's Conv1D is given to Opacus and kronfluence as equal Linear modules.
* **kronfluence** fits its diagonal strategy on A's rows (empirical Fisher) and scores A against B: Σ g_i g_j / (F_A + c) over a whole
  module, c a tenth of the mean entry. It answers less: one of the three scores, no heads. Its difference is that from this formula.
* **The loop** goes over the pairs of the first 4 × 4 rows; the time of the pairs is extrapolated by their number, that of the gradients is measured whole.
* **Peak** is the highest memory of a fresh process beyond the loaded model; for the tiles it counts the factors too.
* **Difference from ours** is the largest difference of a score from ours, in parts of the largest score of that head."""
GROWTH = """A random model of stories3M's shape and random rows. Capture grows as the plain pass does; the products of the tiles grow with
nA · nB, so they show only where there are many more rows than tokens in a row. Opacus and loop in plain passes."""
NO_GPU = """Not measured: there was no CUDA device. `--gpu` adds GPT-2 small's shape and a 1B Llama's with 16 + 16 rows of 512 tokens, in TF32 and in bfloat16."""


def _allow_tf32() -> None:
    """All ways may round the factors of float32 products, as ours does by default."""
    place: Any = torch.backends.cuda.matmul
    if hasattr(place, "fp32_precision"):
        place.fp32_precision = "tf32"
    else:
        place.allow_tf32 = True


def main() -> None:
    """Measure, and print or write the page."""
    parser = command(__doc__)
    parser.add_argument("--gpu", action="store_true", help="add larger models on CUDA")
    parser.add_argument("--rounds", type=int, default=2, help="of each table, after one to warm up")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that measure memory
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if torch.cuda.is_available():
        _allow_tf32()
    if options.peak:
        print(measure_peak(options.peak))
        return
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a CUDA device, and torch sees none")
    if options.whole and not SHARED.is_dir():
        parser.error("--whole needs the real model and rows in ../shared")
    text, wrong = page(options)
    publish(text, "circuits_cost.md", whole=options.whole)
    if wrong:
        sys.exit("The ways do not agree:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
