"""All terms of a distillation, none exempt, cost and pull the same however a step is split over micro-batches and processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.distillation.pair import models, trainer
from tests.processes import launched

from crosstune.foundation.ranks import is_first, start

SPLITS = [(8, 1, 1), (4, 2, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2)]
"""Rows of a micro-batch, micro-batches, processes."""
Books = dict[str, Any]


def books(folder: Path, accumulation: int, name: str, **options: Any) -> Books:
    """Every ledger row of three steps, the gradient norms, and what was found."""
    made = trainer(folder, folder / name, training={"accumulation": accumulation}, **options)
    result = made.run()
    rows = {
        f"{row['step']} {row['side']} {row['term']}": [row["raw"], row["weighted"], row["count"]]
        for row in result.ledger.rows()
    }
    norms = [line["grad_norm"] for line in result.history if "grad_norm" in line]
    failed = [check.name for check in made.findings() if check.outcome == "failed"]
    return {"rows": rows, "norms": norms, "failed": failed}


def in_each(folder: Path) -> None:
    start()
    found = {str(split): books(folder, split[1], f"{split}") for split in SPLITS if split[2] == 2}
    if is_first():
        (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Books]:
    folder = tmp_path_factory.mktemp("distilled")
    models(folder)
    alone = {str(split): books(folder, split[1], f"{split}") for split in SPLITS if split[2] == 1}
    launched(2, in_each, folder)
    return {**alone, **json.loads((folder / "found.json").read_text(encoding="utf-8"))}


@pytest.mark.parametrize("split", SPLITS[1:])
def test_every_entry_and_gradient_norm_is_that_of_one_batch(
    found: dict[str, Books], split: tuple[int, int, int]
) -> None:
    whole, own = found[str(SPLITS[0])], found[str(split)]
    assert own["rows"].keys() == whole["rows"].keys()
    assert len({key.split()[2] for key in own["rows"]}) == 10
    for key, row in whole["rows"].items():
        # Sums of float32 in another order: what is a difference of nearly equal numbers keeps the last digits of these.
        least = 1e-7 if key.endswith(("attention", "alignment", "balancing")) else 0.0
        assert own["rows"][key] == pytest.approx(row, rel=1e-5, abs=least), key
    assert own["norms"] == pytest.approx(whole["norms"], rel=1e-5)
    assert own["failed"] == whole["failed"] == []


def test_neither_does_it_where_the_teacher_reads_tokens_of_its_own(tmp_path: Path) -> None:
    own = {"terms": ("ce", "spans", "hidden", "layerwise"), "teacher_tokenizer": True}
    whole, *others = (books(tmp_path, split[1], f"{split}", **own) for split in SPLITS[:3])
    assert len({key.split()[2] for key in whole["rows"]}) == 4
    for other in others:
        assert other["rows"].keys() == whole["rows"].keys()
        for key, row in whole["rows"].items():
            assert other["rows"][key] == pytest.approx(row, rel=1e-5), key
        assert other["norms"] == pytest.approx(whole["norms"], rel=1e-5)
        assert other["failed"] == whole["failed"] == []
