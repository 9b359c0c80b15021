"""Keys and values handed from one story model to another: `python benchmarks/trials/wire_kv.py OUT` writes OUT/wire_kv.md and .json.

400 stories to fit, 100 others to judge. The receiver has C tokens only through the sender, or as each rival gives them, and predicts
the next 48.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from crosstune.wiring import Wire

SHARED = Path(__file__).resolve().parents[3] / "shared"
TRIALS = (
    ("stories260K", "stories279K", 96),
    ("stories260K", "stories3M", 64),
    ("stories3M", "stories260K", 96),
)


def stories(side: str, count: int) -> list[str]:
    """The first stories of a side that are long enough for every trial."""
    path = SHARED / "data" / "english" / f"tinystories_{side}.jsonl"
    with path.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    return [text for text in texts if len(text.encode()) > 600][:count]


def main() -> None:
    """Fit and judge every pair, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--fit", type=int, default=400)
    parser.add_argument("--judge", type=int, default=100)
    given = parser.parse_args()
    fit, judge = stories("train", given.fit), stories("heldout", given.judge)
    for sender, receiver, depth in TRIALS:
        wire = Wire(SHARED / "models" / sender, SHARED / "models" / receiver)
        start = time.perf_counter()
        fitted = wire.fit(fit)
        middle = time.perf_counter()
        found = wire.judge(judge, depth=depth)
        seconds = f"fit {middle - start:.0f} s, judge {time.perf_counter() - middle:.0f} s"
        print(
            f"{sender} → {receiver}, {depth} ({seconds}; λ {fitted.penalties})\n{found}\n",
            flush=True,
        )


if __name__ == "__main__":
    main()
