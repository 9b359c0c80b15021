"""A cell: students begin as they should, a kill costs one, and more seeds join."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.studies import small_study
from tests.studies.distill.conftest import small

from crosstune.foundation.records import Run
from crosstune.studies.distill.cell import DistillCell
from crosstune.studies.distill.study import Distill


def test_a_piece_is_the_same_for_all_seeds_and_random_weights_are_not(folder: Path) -> None:
    study = Distill(small(folder))
    study.prepare()
    piece, again = (study.student("piece", seed) for seed in (0, 7))
    anew, other, same = (study.student("anew", seed) for seed in (0, 7, 0))

    def equal(one: Any, two: Any) -> bool:
        return all(
            torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True)
        )

    assert equal(piece, again)
    assert equal(anew, same)
    assert not equal(anew, other)
    assert [p.shape for p in piece.parameters()] == [p.shape for p in anew.parameters()]
    assert piece.config.num_hidden_layers == 1
    owners = {id(p) for p in study.piece.model.parameters()}
    assert not owners & {id(p) for p in piece.parameters()}


def test_as_much_compute_is_counted_in_weights_that_multiply(folder: Path) -> None:
    study = Distill(small(folder))
    study.prepare()

    def weights(model: Any) -> int:
        linear = (m for m in model.modules() if isinstance(m, torch.nn.Linear))
        return sum(module.weight.numel() for module in linear)

    ratio = weights(study.start.load()) / weights(study.piece.model)
    assert study.compute == pytest.approx(
        1 + ratio / 3, rel=0.02
    )  # norms, which do not multiply, count too


def test_killed_it_goes_on_to_the_same_figures_and_a_seed_is_added(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, learn, learned = small(folder, "killed", seeds=(0,)), DistillCell._learn, []

    def dies(cell: DistillCell, begin: str, arm: Any) -> None:
        learned.append((begin, arm))
        learn(cell, begin, arm)
        if len(learned) == 2:  # its tables are written, but not that it is done
            raise KeyboardInterrupt

    monkeypatch.setattr(DistillCell, "_learn", dies)
    with pytest.raises(KeyboardInterrupt):
        small_study.undrawn(Distill(chosen))
    small_study.undrawn(Distill(chosen))
    assert learned == [*chosen.students[:2], *chosen.students[1:]]
    again = small_study.undrawn(Distill(replace(chosen, seeds=(0, 7))))

    def figures(found: Run) -> dict[str, str]:
        timed = {"costs", "took"}
        return {name: str(found.table(name).rows()) for name in found.tables() if name not in timed}

    assert figures(again) == figures(run)
