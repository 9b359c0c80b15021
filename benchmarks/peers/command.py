"""What the commands of all benchmarks share: quick by default, `--whole` for full sizes; ratios are told with their spread."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from crosstune.foundation.storage import write_text

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = CHECKOUT.parent / "shared"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def command(about: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; `about` is the script's docstring."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument(
        "--whole",
        action="store_true",
        help="full sizes, minutes to an hour, and the page in docs/; default: at most two minutes, only printed",
    )
    return parser


def timed_command(about: str | None) -> argparse.ArgumentParser:
    """Likewise, for what measures time."""
    parser = command(about)
    parser.add_argument("--rounds", type=int, help="repeats of each measurement")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock",
        choices=sorted(CLOCKS),
        default="cpu",
        help="cpu counts this process alone, so a neighbour's load does not count",
    )
    return parser


def publish(text: str, page: str, *, whole: bool) -> None:
    """Print the text; what a whole run found is kept as a page in docs/."""
    print(text)
    if whole:
        write_text(CHECKOUT / "docs" / page, text)


def spread(ratios: Sequence[float]) -> str:
    """The median of the repeats, with the lowest and the highest."""
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
