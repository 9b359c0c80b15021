"""The toy languages are what their dials say."""

from __future__ import annotations

import unicodedata

import pytest

from crosstune.foundation.data import MEANINGS, Language, parse_language
from crosstune.foundation.data.languages import _LEFT, ORDERS, SCRIPTS, Meaning
from crosstune.foundation.errors import DataError

BLOCKS = {"latin": "LATIN", "bengali": "BENGALI", "arabic": "ARABIC", "devanagari": "DEVANAGARI"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_letter_is_of_the_script(script):
    shared = 0.0
    text = " ".join(row.text for row in Language(script, "sov", shared).sentences(200))
    names = {unicodedata.name(letter).split()[0] for letter in text if letter not in " ."}
    assert names == {BLOCKS[script]}


@pytest.mark.parametrize("source", ["toy:latin-svo", "toy:bengali-sov-0.3", "toy:latin-vso-0.5"])
def test_twenty_thousand_sentences_are_all_different(source):
    assert len({row.text for row in parse_language(source).sentences(20_000)}) == 20_000


def test_meanings_are_one_to_one():
    assert MEANINGS == 2 * 24 * 9 * 16 * 8 * 9 * 4
    assert MEANINGS % _LEFT == 0  # else the two halves would not pair up to every meaning once
    some = range(0, MEANINGS, 67)
    assert len({Meaning.of(i) for i in some}) == len(some)


def test_a_language_is_the_same_every_time_and_another_seed_is_another():
    once, again = (Language("arabic", "vso", 0.2, seed=3).sentences(20) for _ in range(2))
    assert once == again
    assert once != Language("arabic", "vso", 0.2, seed=4).sentences(20)


def test_sentences_of_a_range_are_those_of_the_whole():
    language = parse_language("toy:latin-svo")
    assert language.sentences(10, start=5) == language.sentences(15)[5:]


@pytest.mark.parametrize("order", ORDERS)
def test_orders_permute_the_same_words(order):
    plain, other = (Language("bengali", o).sentences(50) for o in ("svo", order))
    for a, b in zip(plain, other, strict=True):
        assert sorted(a.text[:-1].split()) == sorted(b.text[:-1].split())
    moved = sum(a.text != b.text for a, b in zip(plain, other, strict=True))
    assert moved == (0 if order == "svo" else 50)


def test_all_shared_is_the_base_language_and_none_shared_has_no_word_of_it():
    base = parse_language("toy:latin-svo")
    assert [r.text for r in Language("bengali", "svo", 1.0).sentences(50)] == [
        r.text for r in base.sentences(50)
    ]
    words = {word for row in base.sentences(500) for word in row.text[:-1].split()}
    own = {w for row in Language("latin", "svo", 0.0).sentences(500) for w in row.text[:-1].split()}
    assert words.isdisjoint(own)


def test_more_sharing_keeps_what_less_sharing_had():
    shares = [Language("arabic", "svo", share) for share in (0.1, 0.5, 0.9)]
    assert shares[0].borrowed < shares[1].borrowed < shares[2].borrowed
    assert len(shares[1].borrowed) == 48  # half of 24 + 16 + 32 + 8 + 16 concepts


def test_agreement_and_collocation_hold():
    meanings = [Meaning.of(i) for i in range(20_000)]
    objects = {}
    for meaning in meanings:
        objects.setdefault(meaning.action, set()).add(meaning.object)
    assert {len(found) for found in objects.values()} == {8}
    many = next(m for m in meanings if m.many and m.agent_quality is None)
    words = parse_language("toy:latin-svo").say(many).split()
    ending = words[0][-2:]
    assert words[1].endswith(ending)


@pytest.mark.parametrize("source", ["toy:latin-svo", "toy:latin-svo-0", "toy:bengali-sov-0.3"])
def test_names_read_back(source):
    assert parse_language(source).name == source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("toy:latn-svo", "Did you mean 'latin'"),
        ("toy:latin-svv", "Did you mean"),
        ("toy:latin", "one of svo, sov, vso"),
        ("toy:latin-svo-much", "found 'toy:latin-svo-much'"),
        ("toy:latin-svo-1.5", "between 0 and 1"),
        ("toy:latin-svo-nan", "between 0 and 1"),
    ],
)
def test_a_name_that_means_nothing_is_refused(source, said):
    with pytest.raises(DataError, match=said):
        parse_language(source)


def test_more_sentences_than_meanings_are_refused():
    with pytest.raises(DataError, match="meanings"):
        parse_language("toy:latin-svo").sentences(2, start=MEANINGS - 1)
