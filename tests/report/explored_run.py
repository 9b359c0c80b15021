"""A run folder with an explorer: two blocks of a small model, matrices as arrays, pairs with hostile texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section
from crosstune.foundation.storage import write_json

EVIL = "</script><script>alert('pair')</script><img src=x onerror=alert(1)> & \u2028 end"
LAYERS, HEADS = 4, {"q": 6, "k": 2}
ROWS, COLUMNS = 80, 70  # more than a page holds
STRONGEST = ("q", 2, 3)

_PLACE = (
    Column.axis("block"),
    Column.axis("layer", "int64"),
    Column.axis("head", "int64"),
)
MAP = (
    *_PLACE,
    *Column.interval("mean", names=("low", "high"), about="Mean over all pairs."),
    Column.mask("shown", of="mean"),
    Column.value("reliability"),
    Column.label("n_a", "int64"),
)
MATRICES = (*_PLACE, Column.label("file"), Column.label("index"))
PAIRS = (
    *_PLACE,
    Column.label("rank", "int64"),
    Column.label("row_a"),
    Column.label("text_a"),
    Column.value("score"),
)
NAMES = (
    Column.axis("side"),
    Column.axis("place", "int64"),
    *(Column.label(name) for name in ("of", "id", "text")),
)


def section(**more: Any) -> Section:
    return Section(
        "heads", "Heads", "Open one.", "explorer", "heads", x="head", y="layer", value="mean",
        choose=("block",), matrices="matrices", pairs="pairs", names="names", **more,
    )  # fmt: skip


def places() -> list[dict[str, Any]]:
    return [
        {"block": block, "layer": layer, "head": head}
        for block, heads in HEADS.items()
        for layer in range(LAYERS)
        for head in range(heads)
    ]


def _mean(place: dict[str, Any], rng: np.random.Generator) -> float:
    is_strongest = tuple(place.values()) == STRONGEST
    return 0.9 if is_strongest else float(np.clip(0.3 * rng.normal(), -0.8, 0.8))


def tables() -> tuple[Table, ...]:
    rng = np.random.Generator(
        np.random.PCG64(3)
    )  # these very numbers: tests look at places of the drawing
    heads, matrices, pairs = [], [], []
    for at, place in enumerate(places()):
        mean = math.nan if at == 5 else _mean(place, rng)
        shown = at % 4 != 1
        ends = {"low": mean - 0.1, "high": mean + 0.1, "reliability": 0.7, "n_a": ROWS}
        heads.append({**place, "mean": mean, "shown": shown, **ends})
        index = f"{place['layer']},{place['head']}"
        matrices.append({**place, "file": f"arrays/{place['block']}.npy", "index": index})
        pairs += [
            {**place, "rank": rank, "row_a": f"a{rank}", "text_a": f"\x00{EVIL} {rank} " * 40, "score": 1.0 / rank}
            for rank in (1, 2)
        ]  # fmt: skip
    names = [
        {"side": side, "place": at, "of": of, "id": f"{of}-{at}", "text": f"{EVIL} {of} {at}"}
        for side, of, count in (("row", "en", ROWS), ("column", "bn", COLUMNS))
        for at in range(count)
    ]
    return (
        Table("heads", MAP, heads), Table("matrices", MATRICES, matrices),
        Table("pairs", PAIRS, pairs), Table("names", NAMES, names),
    )  # fmt: skip


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.PCG64(5))  # likewise
    found = {}
    for block, heads in HEADS.items():
        ramp = np.linspace(-1, 1, ROWS)[:, None, None, None] * np.ones((1, COLUMNS, LAYERS, heads))
        found[block] = (ramp + 0.1 * rng.normal(size=ramp.shape)).astype(np.float32)
    found["q"][7, 9] = math.nan
    return found


def make_run(folder: Path, **more: Any) -> Run:
    """A finished run with one explorer."""
    run = Run.create(folder, "a: 1\n", kind="test")
    for table in tables():
        run.write_table(table)
    (folder / "arrays").mkdir()
    for name, array in arrays().items():
        np.save(folder / "arrays" / f"{name}.npy", array)
    write_json(folder / PAGE_FILE, Page("Explorer", "Synthetic", (), (section(**more),)).to_json())
    run.finish()
    return run
