"""What is compared: tasks with unique names, chosen layers and components, as many blocks as a pilot run says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.interference import known_sources, tiny

from crosstune.foundation.data import Row, Task
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.interference.conflict.comparison import choose_blocks, read_comparable
from crosstune.interference.conflict.settings import AgreementSettings


def test_pairs_are_all_pairs_in_order() -> None:
    tasks = {name: tiny.rows("en", 24, start=100 * i) for i, name in enumerate("cab")}
    compared = known_sources.comparison(tiny.llama(), tasks)
    assert compared.pairs == (("c", "a"), ("c", "b"), ("a", "b"))


def test_only_chosen_sites_and_their_parameters() -> None:
    settings = replace(known_sources.SMALL, layers=(1,), components=("attn.q", "mlp.up"))
    compared = known_sources.comparison(tiny.llama(), settings=settings)
    assert [str(site) for site in compared.sites] == ["L1 attn.q", "L1 mlp.up"]
    assert set(compared.parameters) == {
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    }
    model = tiny.llama()
    everywhere = known_sources.comparison(model)
    places = [everywhere.sites.index(site) for site in compared.sites]
    some, all_sites = (c.sums(model)["current"]["en", "bn"] for c in (compared, everywhere))
    assert some.across_a.tolist() == all_sites.across_a[:, places].tolist()


@pytest.mark.parametrize(
    ("choice", "known"),
    [({"layers": (7,)}, "0, 1"), ({"components": ("attn.queries",)}, "attn.q, attn.k")],
)
def test_an_unknown_place_is_refused_with_the_known_ones(choice: dict, known: str) -> None:
    settings = replace(known_sources.SMALL, **choice)
    with pytest.raises(SettingsError, match=known):
        known_sources.comparison(tiny.llama(), settings=settings)


def test_a_choice_that_leaves_nothing_is_refused() -> None:
    settings = replace(known_sources.SMALL, layers=(0,), components=("head",))
    with pytest.raises(SettingsError, match="at least one site"):
        known_sources.comparison(tiny.llama(), settings=settings)


def test_names_are_unique() -> None:
    row, other = Row("1", "the cat"), Row("2", "the dog")
    with pytest.raises(DataError, match="'en' 2 times"):
        read_comparable([Task("en", (row,), (other,)), Task("en", (other,), (row,))])


def test_of_a_task_the_train_rows_are_read() -> None:
    row, other = Row("1", "the cat"), Row("2", "the dog")
    read = read_comparable([Task("en", (row,), (other,)), Task("bn", (other,), (row,))])
    assert read == {"en": (row,), "bn": (other,)}


AUTO = AgreementSettings(blocks="auto", rows_per_block=2, length=16)


def chosen(settings: AgreementSettings, rows: int = 120) -> int:
    tasks = {"en": tiny.rows("en", rows), "bn": tiny.rows("bn", rows, start=500)}
    return choose_blocks(tiny.sure(), tiny.tokenizer(), tasks, settings)


def test_a_given_number_is_kept() -> None:
    assert chosen(replace(AUTO, blocks=5)) == 5


def test_narrower_intervals_take_more_blocks() -> None:
    numbers = [chosen(replace(AUTO, interval_width=width)) for width in (100.0, 0.7, 0.001)]
    assert numbers[0] == 8
    assert numbers == sorted(numbers)
    assert numbers[-1] == 60  # 120 rows of a task fill 60 blocks of two


@pytest.mark.parametrize(("limit", "rows", "expected"), [(12, 120, 12), (64, 40, 20)])
def test_the_budget_and_the_rows_bound_it(limit: int, rows: int, expected: int) -> None:
    assert chosen(replace(AUTO, interval_width=1e-3, max_blocks=limit), rows) == expected
