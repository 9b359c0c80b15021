"""Rows one by one: known ones are queued no oftener than asked, new skills come out as bursts, and no row is lost."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from tests.experts.test_mixture import folder, fresh, texts  # noqa: F401
from torch import Tensor

from crosstune.experts.bursts import NoveltyQueue, row_p, token_surprise
from crosstune.experts.settings import NoveltySettings
from crosstune.foundation.data import UNSCORED, Encoded, Row, encode
from crosstune.foundation.errors import DataError

WIDTH = 8


def drawn(place: float, count: int, seed: int) -> Tensor:
    """Rows about a place on every axis, some of them far out."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, WIDTH, generator=draw)
    return place + rows * torch.where(torch.rand(count, 1, generator=draw) < 0.1, 3.0, 1.0)


def test_of_a_known_skill_no_more_rows_are_strange_than_the_level() -> None:
    """400 skills of 39 rows with far ones; at .05 and .2 a hit more than 2.6 deviations too often is one run in 200."""
    p = torch.cat([row_p(drawn(0.0, 1, 1000 + at), drawn(0.0, 39, at)) for at in range(400)])
    for level in (0.05, 0.2):
        share, deviation = float((p <= level).double().mean()), math.sqrt(level * (1 - level) / 400)
        assert abs(share - level) < 2.6 * deviation  # 39 rows reach both levels exactly


def test_p_is_the_rank_of_the_distance_from_all_others() -> None:
    known, row = drawn(0.0, 24, 5), drawn(0.6, 1, 6)
    joint = torch.cat([known, row]).double()
    spread = joint.std(0)
    far = [
        float(((one - torch.cat([joint[:at], joint[at + 1 :]]).mean(0)) / spread).norm())
        for at, one in enumerate(joint)
    ]
    assert row_p(row, known).item() == sum(one >= far[-1] - 1e-9 for one in far) / 25
    assert row_p(row + 50.0, known).item() == 1 / 25
    same = torch.ones(5, WIDTH)
    assert row_p(same[:1], same).item() == 1.0


def test_two_new_skills_among_known_rows_come_out_as_two_bursts_and_nothing_is_lost() -> None:
    library = {"a": drawn(0.0, 60, 1), "b": drawn(8.0, 60, 2)}
    places = {"a": 0.0, "b": 8.0, "new one": -12.0, "new two": 20.0}
    rows = {
        (skill, at): row
        for number, (skill, place) in enumerate(places.items())
        for at, row in enumerate(drawn(place, 40, 10 + number))
    }
    stream = list(rows)
    random.Random(0).shuffle(stream)
    queue = NoveltyQueue[tuple[str, int]](library, NoveltySettings(min_rows=30))
    known, bursts = [], []
    for start in range(0, len(stream), 10):
        some = stream[start : start + 10]
        known += queue.add(some, torch.stack([rows[one] for one in some]))
        if burst := queue.burst():
            bursts.append(burst)
            library[f"found {len(bursts)}"] = torch.stack([rows[one] for one in burst])
    assert sorted(min(burst)[0] for burst in bursts) == ["new one", "new two"]
    assert all(len({skill for skill, _ in burst}) == 1 for burst in bursts)
    assert min(map(len, bursts)) >= 30
    out = [one for one, _ in known] + [one for one, _ in queue.waiting] + list(chain(*bursts))
    assert sorted(out) == sorted(stream)
    # Known rows are said to be of their own skill; what came after a burst belongs to it.
    assert all(name == skill for (skill, _), name in known if skill in ("a", "b"))
    late = [name for (skill, _), name in known if skill.startswith("new")]
    assert late and set(late) <= {"found 1", "found 2"}


def test_unlike_rows_wait_and_without_a_known_skill_all_are_new() -> None:
    scattered = torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(0)) * 100.0
    queue = NoveltyQueue[int]({"a": drawn(0.0, 60, 1)}, NoveltySettings())
    assert queue.add(range(40), scattered) == []
    assert queue.burst() == [] and len(queue.waiting) == 40
    first = NoveltyQueue[int]({}, NoveltySettings())
    assert first.add(range(31), scattered[:31]) == [] == first.burst()
    first.add([31], scattered[31:32])
    assert first.burst() == list(range(32)) and first.waiting == []


def test_each_item_is_one_embedded_row() -> None:
    with pytest.raises(DataError, match="one for each embedded row"):
        NoveltyQueue[int]({}, NoveltySettings()).add([1, 2], drawn(0.0, 1, 0))


def test_token_surprise_is_that_of_states_after_the_norm(folder: Path) -> None:  # noqa: F811
    mixture = fresh(folder)
    model = mixture.get_base_model()
    rows = [Row(str(at), text) for at, text in enumerate(texts("animals", 25))]
    row, *known = encode(rows, mixture.tokenizer, 48)
    known.append(replace(row, labels=[UNSCORED] * len(row.labels)))  # has nothing to draw
    found = token_surprise(model, row, known)
    assert found.shape == (row.scored_tokens,)
    assert float(found.min()) >= 0.0 and float(found.max()) <= math.log(25) + 1e-9
    assert torch.equal(found, token_surprise(model, row, known))
    # By the model itself: known rows with one scored token leave nothing to draw.
    pairs = encode(rows[1:], mixture.tokenizer, 2)

    def states(item: Encoded) -> Tensor:
        with torch.no_grad():
            ids = torch.tensor([item.input_ids])
            found: Tensor = model(ids, output_hidden_states=True).hidden_states[-1]
        return found[0, 1:]

    expected = row_p(states(row), torch.cat([states(one) for one in pairs]))
    torch.testing.assert_close(token_surprise(model, row, pairs), -expected.log())
