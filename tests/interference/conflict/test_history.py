"""A probe's history: grouped into probes and windows, and the same after writing and reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.storage import read_json, write_json
from crosstune.interference.conflict.cosine import PairSums
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.settings import ProbeSettings

SETTINGS = ProbeSettings(every=10, burst=2, window=2, blocks=8)


def sums(seed: int) -> PairSums:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(16, 50, 3, generator=generator, dtype=torch.float64) + 0.5
    gram = torch.einsum("ips,jps->ijs", gradients, gradients)
    return PairSums.from_gram(gram, 8, torch.tensor([[0, 0], [3, 1]]))


def history(steps: tuple[int, ...] = (0, 1, 10, 11, 20)) -> ProbeHistory:
    made = ProbeHistory(SETTINGS)
    for step in steps:
        pairs = {("en", "bn"): sums(step), ("en", "ar"): sums(step + 100)}
        made.states.append(State(step, {"current": pairs, "frozen": pairs}))
    return made


def steps(groups: list[list[State]]) -> list[list[int]]:
    return [[state.step for state in group] for group in groups]


def test_probes_and_windows() -> None:
    made = history()
    assert steps(made.probes()) == [[0, 1], [10, 11]]
    assert steps(made.windows()) == [[0, 1, 10, 11]]
    assert made.last_step == 20
    assert ProbeHistory(SETTINGS).last_step == -1


def test_a_burst_cut_short_is_kept_and_takes_no_part() -> None:
    """Training that ends at a multiple of `every` leaves a lone state, a resume may leave one in front."""
    made = history((1, 10, 11, 20, 21, 30))
    assert steps(made.bursts()) == [[1], [10, 11], [20, 21], [30]]
    assert steps(made.probes()) == [[10, 11], [20, 21]]
    assert steps(made.windows()) == [[10, 11], [20, 21]]
    assert [state.step for state in made.judged_states()] == [10, 11, 20, 21]
    assert [state.step for state in made.newest_window()] == [20, 21, 30]
    assert history((0,)).windows() == []


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    made, read = history(), ProbeHistory(SETTINGS)
    made.save(tmp_path, "abc")
    assert read.load(tmp_path) == "abc"
    assert list(read.series()) == list(made.series())
    for one, other in zip(made.states, read.states, strict=True):
        assert one.step == other.step
        for reference, pair in made.series():
            first, second = one.sums[reference][pair], other.sums[reference][pair]
            for name in ("own_a", "across_b", "masked_pairs", "masked"):
                assert torch.equal(getattr(first, name), getattr(second, name))


def test_an_empty_history_is_written_too(tmp_path: Path) -> None:
    ProbeHistory(SETTINGS).save(tmp_path, "abc")
    read = history()
    read.load(tmp_path)
    assert read.states == []


def test_another_version_is_refused(tmp_path: Path) -> None:
    history().save(tmp_path, "abc")
    about = read_json(tmp_path / "states.json")
    write_json(tmp_path / "states.json", about | {"schema": 99})
    with pytest.raises(CheckpointError, match="schema 99"):
        ProbeHistory(SETTINGS).load(tmp_path)
