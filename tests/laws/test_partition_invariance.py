"""Loss, gradient norm and held-out loss are the same for every split into batch × accumulation × processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.foundation.training import tiny

from crosstune.foundation.ranks import is_first
from crosstune.foundation.training import train_stage

# (rows per micro-batch, accumulation, processes), as in TRL's own invariance test
SPLITS = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)]
RELATIVE = 1e-5


def curves(folder: Path, accumulation: int) -> dict[str, Any]:
    """What a stage reports, for 8 rows of unequal length a step."""
    chosen = tiny.settings(
        accumulation=accumulation, evaluate_every=3, optimizer="sgd", learning_rate=0.1, clip=0.3
    )
    result = train_stage(tiny.model(), tiny.data(21), chosen, output_folder=folder)
    return {
        "losses": tiny.losses(result.history),
        "norms": [line["grad_norm"] for line in result.history if "grad_norm" in line],
        "looks": [line["eval_other_loss"] for line in result.history if "eval_other_loss" in line],
        "ledger": result.ledger.column("weighted"),
        "counts": result.ledger.column("count"),
        "rows": result.cost.rows,
        "tokens": result.cost.tokens,
    }


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[int, int, int], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("splits")
    alone = {split: curves(folder / str(split), split[1]) for split in SPLITS if split[2] == 1}
    return {**alone, **two_processes(folder)}


def two_processes(folder: Path) -> dict[tuple[int, int, int], dict[str, Any]]:
    """The splits over two processes, joined by gloo, in one launch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "PYTHONPATH": ".",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for child in children:
        _, errors = child.communicate(timeout=240)
        assert child.returncode == 0, errors
    return {
        split: json.loads((folder / f"{split}.json").read_text())
        for split in SPLITS
        if split[2] == 2
    }


@pytest.mark.parametrize("split", SPLITS[1:])
@pytest.mark.parametrize("figure", ["losses", "norms", "looks", "ledger"])
def test_figures_do_not_depend_on_the_split(measured, split, figure: str) -> None:
    reference = measured[SPLITS[0]][figure]
    assert len(reference) > 1
    assert measured[split][figure] == pytest.approx(reference, rel=RELATIVE)


@pytest.mark.parametrize("split", SPLITS[1:])
def test_every_split_reads_the_same_rows_and_tokens(measured, split) -> None:
    for count in ("counts", "rows", "tokens"):
        assert measured[split][count] == measured[SPLITS[0]][count]


def test_a_wrong_scale_would_be_seen(measured) -> None:
    """The tolerance is far below what dividing by the accumulation or the processes would do."""
    losses = measured[SPLITS[0]]["losses"]
    assert [loss / 2 for loss in losses] != pytest.approx(losses, rel=1e-2)
    assert max(losses) - min(losses) > 100 * RELATIVE * max(losses)  # the curve itself moves


def main(folder: Path) -> None:
    for split in SPLITS:
        if split[2] == 2:
            found = curves(folder / str(split), split[1])
            if is_first():
                (folder / f"{split}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
