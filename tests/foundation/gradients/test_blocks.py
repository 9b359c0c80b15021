"""Blocks: placed by content and seed, never by order; groups stay whole; parallel tasks line up."""

from __future__ import annotations

import random

import pytest
import torch
from tests.interference import tiny

from crosstune.foundation.data import Row, Task
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.gradients.blocks import Block, make_blocks, pad_id, shared_pairs, sides_of
from crosstune.foundation.gradients.settings import BlockSettings

SETTINGS = BlockSettings(blocks=4, rows_per_block=3, length=16)


def ids(blocks: tuple[Block, ...]) -> list[list[str]]:
    return [[row.row_id for row in block.rows] for block in blocks]


def test_blocks_do_not_depend_on_the_order_of_rows() -> None:
    rows = tiny.rows("en", 40)
    expected = make_blocks("en", rows, tiny.tokenizer(), SETTINGS)
    random.Random(1).shuffle(rows)
    assert make_blocks("en", rows, tiny.tokenizer(), SETTINGS) == expected
    assert [block.index for block in expected] == [0, 1, 2, 3]
    assert all(len(block.rows) == 3 for block in expected)


def test_another_seed_chooses_other_rows() -> None:
    rows = tiny.rows("en", 40)
    one = make_blocks("en", rows, tiny.tokenizer(), SETTINGS)
    other = make_blocks("en", rows, tiny.tokenizer(), BlockSettings(4, 3, 16, seed=1))
    assert ids(one) != ids(other)


def test_every_block_is_divided_by_one_constant() -> None:
    blocks = make_blocks("en", tiny.rows("en", 40), tiny.tokenizer(), SETTINGS)
    tokens = [block.tokens for block in blocks]
    assert len(set(tokens)) > 1, "the rows must differ in length for this test to say anything"
    assert {block.expected_tokens for block in blocks} == {sum(tokens) / 4}


def test_a_group_never_spans_two_blocks() -> None:
    rows = [
        Row(f"{document}-{line}", f"the cat {document} sees {line}", group=f"d{document}")
        for document in range(12)
        for line in range(2)
    ]
    blocks = make_blocks("en", rows, tiny.tokenizer(), SETTINGS)
    places: dict[str, set[int]] = {}
    for block in blocks:
        for row in block.rows:
            places.setdefault(row.row_id.split("-")[0], set()).add(block.index)
    assert all(len(found) == 1 for found in places.values())
    assert not shared_pairs(blocks, blocks).fill_diagonal_(False).any()


def test_copies_of_a_row_without_a_group_share_a_block() -> None:
    rows = [Row(str(n), f"the cat sees {n // 2}") for n in range(24)]
    blocks = make_blocks("en", rows, tiny.tokenizer(), SETTINGS)
    assert not shared_pairs(blocks, blocks).fill_diagonal_(False).any()


def test_parallel_tasks_put_translations_into_the_same_block() -> None:
    english = make_blocks("en", tiny.rows("en", 40), tiny.tokenizer(), SETTINGS)
    bengali = make_blocks("bn", tiny.rows("bn", 40), tiny.tokenizer(), SETTINGS)
    assert torch.equal(shared_pairs(english, bengali), torch.eye(4, dtype=torch.bool))


def test_blocks_of_unrelated_rows_share_nothing() -> None:
    english = make_blocks("en", tiny.rows("en", 20), tiny.tokenizer(), SETTINGS)
    bengali = make_blocks("bn", tiny.rows("bn", 20, start=100), tiny.tokenizer(), SETTINGS)
    assert not shared_pairs(english, bengali).any()


def test_the_same_text_is_shared_also_under_another_group() -> None:
    rows = tiny.rows("en", 12, grouped=False)
    renamed = [Row(f"copy-{row.id}", row.text, group=f"g{row.id}") for row in rows]
    one = make_blocks("en", rows, tiny.tokenizer(), SETTINGS)
    other = make_blocks("copy", renamed, tiny.tokenizer(), SETTINGS)
    shared = shared_pairs(one, other)
    for a in one:
        for b in other:
            meet = {row.row_id for row in a.rows} & {row.row_id[5:] for row in b.rows}
            assert bool(shared[a.index, b.index]) == bool(meet)


def test_too_few_rows_names_both_numbers() -> None:
    with pytest.raises(DataError, match=r"tasks\['en'\].*12 rows.*found 7 rows in 7 groups"):
        make_blocks("en", tiny.rows("en", 7), tiny.tokenizer(), SETTINGS)


def test_rows_of_one_group_fill_only_one_block() -> None:
    rows = [Row(str(n), f"the cat sees {n}", group="one document") for n in range(50)]
    with pytest.raises(DataError, match=r"found 50 rows in 1 groups, of which 3 can be placed"):
        make_blocks("en", rows, tiny.tokenizer(), SETTINGS)


def test_a_block_without_anything_to_score_is_refused() -> None:
    rows = [Row(str(n), "cat" if n else "dog") for n in range(2)]  # one token: nothing predicts it
    with pytest.raises(DataError, match="block 0 with 0 scored tokens"):
        make_blocks("en", rows, tiny.tokenizer(), BlockSettings(2, 1, 16))


@pytest.mark.parametrize(
    ("argument", "value"), [("blocks", 1), ("rows_per_block", 0), ("length", 1)]
)
def test_impossible_settings_are_refused(argument: str, value: int) -> None:
    with pytest.raises(SettingsError, match=rf"`{argument}` must be at least .* found {value}"):
        BlockSettings(**{argument: value})


def test_a_task_has_two_sides_and_rows_have_one() -> None:
    rows = tiny.rows("en", 6)
    task = Task("en", tuple(rows[:4]), tuple(rows[4:]))
    assert {side: len(found) for side, found in sides_of(task, "t").items()} == {
        "train": 4,
        "test": 2,
    }
    assert list(sides_of(["a cat", "a dog"], "t")) == ["train"]


def test_padding_falls_back_to_the_end_of_text_and_then_to_zero() -> None:
    tokenizer = tiny.tokenizer()
    assert pad_id(tokenizer) == 0
    tokenizer.pad_token = None
    tokenizer.eos_token = "cat"
    assert pad_id(tokenizer) == tokenizer.convert_tokens_to_ids("cat")
