"""Toy languages over one meaning space: script, word order and shared lexicon are dials, so their truth is known.

A meaning is five things and two choices: an agent (one or many) with perhaps a quality, an action, an object with perhaps
a quality, and a place. Actions choose their objects and agents their places (collocation); actions agree with the agent's
number, qualities with the class of their noun (agreement). Sentence i of every language says meaning i.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, islice, product
from math import prod

from crosstune.foundation.data.task import Row
from crosstune.foundation.errors import DataError
from crosstune.foundation.seeds import content_key

PREFIX = "toy:"
ORDERS = ("svo", "sov", "vso")

# Consonants and vowels of each script; a syllable is one of each. Bengali, Devanagari write the vowel as a sign.
SCRIPTS = {
    "latin": ("bdfgklmnprstvz", "aeiou"),
    "bengali": ("কখগঘচজটডতদনপবমরলসহ", "ািীুে"),
    "arabic": ("بتثجحدرسشصطعفقكلمن", "اوي"),
    "devanagari": ("कखगघचजटडतदनपबमरलसह", "ािीुे"),
}

_AGENTS, _ACTIONS, _OBJECTS, _QUALITIES, _PLACES = 24, 16, 32, 8, 16
_OBJECTS_PER_ACTION, _PLACES_PER_AGENT, _CLASSES = 8, 4, 3
# number, agent, its quality or none, action, object, its quality or none, place
_RADICES = (
    2,
    _AGENTS,
    _QUALITIES + 1,
    _ACTIONS,
    _OBJECTS_PER_ACTION,
    _QUALITIES + 1,
    _PLACES_PER_AGENT,
)
MEANINGS = prod(_RADICES)
_LEFT = 1536  # divides MEANINGS; the two halves that `_scatter` mixes

_STEMS = tuple(
    f"{kind}{number}"
    for kind, size in (
        ("agent", _AGENTS),
        ("action", _ACTIONS),
        ("object", _OBJECTS),
        ("quality", _QUALITIES),
        ("place", _PLACES),
    )
    for number in range(size)
)
_ENDINGS = ("many", "at", *(f"class{number}" for number in range(_CLASSES)))


@dataclass(frozen=True)
class Meaning:
    """What a sentence says, by the numbers of its concepts; a quality that is not spoken of is None."""

    many: bool
    agent: int
    agent_quality: int | None
    action: int
    object: int
    object_quality: int | None
    place: int

    @classmethod
    def of(cls, index: int) -> Meaning:
        """The meaning of a number in every language: one to one on 0 ≤ index < MEANINGS, neighbours unlike each other."""
        rest, digits = _scatter(index), []
        for radix in _RADICES:
            rest, digit = divmod(rest, radix)
            digits.append(digit)
        number, agent, agent_quality, action, choice, object_quality, place = digits
        return cls(
            many=bool(number),
            agent=agent,
            agent_quality=agent_quality - 1 if agent_quality else None,
            action=action,
            object=(action * 5 + choice) % _OBJECTS,
            object_quality=object_quality - 1 if object_quality else None,
            place=(agent * 3 + place) % _PLACES,
        )


@dataclass(frozen=True)
class Language:
    """A toy language.

    Attributes:
        script: latin, bengali, arabic or devanagari.
        order: svo, sov or vso; S, V, O are agent, action and object.
        shared: The share of concepts, 0 to 1, spelled exactly as in the base language (Latin script, same seed).
            The concepts shared at a smaller share are among those shared at a larger one.
        seed: Which words.
    """

    script: str
    order: str
    shared: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse dials that do not exist."""
        _one_of("script", self.script, tuple(SCRIPTS))
        _one_of("order", self.order, ORDERS)
        if not 0.0 <= self.shared <= 1.0:
            raise DataError(
                "shared",
                law="must be between 0 and 1",
                found=self.shared,
                remedy="It is the share of words spelled as in the base language.",
            )

    @property
    def name(self) -> str:
        """The source name that reads back as this language (of seed 0), such as ``toy:bengali-sov-0.3``."""
        usual = _usual_share(self.script)
        return f"{PREFIX}{self.script}-{self.order}" + (
            "" if self.shared == usual else f"-{self.shared:g}"
        )

    @cached_property
    def _own(self) -> dict[str, str]:
        return _spell(self.script, "own", self.seed)

    @cached_property
    def _base(self) -> dict[str, str]:
        return _spell("latin", "base", self.seed)

    @cached_property
    def borrowed(self) -> frozenset[str]:
        """The concepts spelled as in the base language."""
        by_key = sorted(_STEMS, key=lambda stem: content_key(stem, "shared", self.seed))
        return frozenset(by_key[: round(self.shared * len(by_key))])

    def _word(self, stem: str, *endings: str) -> str:
        # A borrowed word brings its endings along: all of it is spelled as in the base language.
        lexicon = self._base if stem in self.borrowed else self._own
        return "".join(lexicon[part] for part in (stem, *endings))

    def _noun_phrase(self, kind: str, index: int, quality: int | None, many: bool) -> str:
        noun = self._word(f"{kind}{index}", *(("many",) if many else ()))
        if quality is None:
            return noun
        return f"{self._word(f'quality{quality}', f'class{index % _CLASSES}')} {noun}"

    def say(self, meaning: Meaning) -> str:
        """The one sentence of this language for a meaning: words in its order, then the place and a full stop."""
        parts = {
            "s": self._noun_phrase("agent", meaning.agent, meaning.agent_quality, meaning.many),
            "v": self._word(f"action{meaning.action}", *(("many",) if meaning.many else ())),
            "o": self._noun_phrase("object", meaning.object, meaning.object_quality, False),
        }
        words = [*(parts[part] for part in self.order), self._word(f"place{meaning.place}", "at")]
        return " ".join(words) + "."

    def sentences(self, n: int, start: int = 0) -> list[Row]:
        """Sentences `start` to `start + n`; those of two languages translate each other and share a `group`."""
        if n < 1 or start < 0 or start + n > MEANINGS:
            raise DataError(
                "rows",
                law=f"must lie within the {MEANINGS:,} meanings of the toy languages",
                found=f"{n} sentences from number {start}",
                remedy="Ask for at least one and at most that many.",
            )
        return [
            Row(f"meaning-{i}", self.say(Meaning.of(i)), group=f"meaning-{i}")
            for i in range(start, start + n)
        ]


def parse_language(source: str, seed: int = 0) -> Language:
    """The language that a source name means.

    Args:
        source: ``toy:<script>-<order>``, with ``-<shared>`` if wanted. Without it the Latin script is the base
            language itself (1) and the others share nothing (0).
        seed: Which words.

    Returns:
        The language.

    Raises:
        DataError: The name has another form, or a dial has no such position.
    """
    script, _, rest = source.removeprefix(PREFIX).partition("-")
    order, _, share = rest.partition("-")
    try:
        shared = float(share) if share else _usual_share(script)
    except ValueError:
        raise DataError(
            "source",
            law="must be toy:<script>-<order> or toy:<script>-<order>-<shared>, shared from 0 to 1",
            found=repr(source),
            remedy="For example toy:latin-svo or toy:bengali-sov-0.3.",
        ) from None
    return replace(Language(script, order, seed=seed), shared=shared)


def _scatter(index: int) -> int:
    """A fixed shuffle of all meanings (a Feistel network: each round shifts one half by a hash of the other)."""
    left, right = divmod(index, MEANINGS // _LEFT)
    for turn in range(4):
        left = (left + content_key(str(right), "left", turn)) % _LEFT
        right = (right + content_key(str(left), "right", turn)) % (MEANINGS // _LEFT)
    return left * (MEANINGS // _LEFT) + right


def _usual_share(script: str) -> float:
    return 1.0 if script == "latin" else 0.0


def _one_of(dial: str, value: str, positions: tuple[str, ...]) -> None:
    if value in positions:
        return
    near = difflib.get_close_matches(value, positions, n=1)
    raise DataError(
        dial,
        law=f"must be one of {', '.join(positions)}",
        found=repr(value),
        remedy=f"Did you mean {near[0]!r}?" if near else "For example toy:latin-svo.",
    )


def _spell(script: str, purpose: str, seed: int) -> dict[str, str]:
    """Spellings of all concepts in one script: stems of two or three syllables, endings of one."""
    syllables = [consonant + vowel for consonant, vowel in product(*SCRIPTS[script])]
    syllables.sort(key=lambda syllable: content_key(syllable, "syllable", purpose, seed))
    # Endings keep syllables that no stem uses, so that a sentence can be taken apart in one way only.
    endings, rest = syllables[: len(_ENDINGS)], syllables[len(_ENDINGS) :]
    # A word of another language is never a word of the base language by chance.
    taken = set() if purpose == "base" else set(_spell("latin", "base", seed).values())
    stems = islice(_words(rest, taken, purpose, seed), len(_STEMS))
    return dict(zip((*_ENDINGS, *_STEMS), (*endings, *stems), strict=True))


def _words(syllables: list[str], taken: set[str], purpose: str, seed: int) -> Iterator[str]:
    for number in count():
        length = 2 + content_key(str(number), "length", purpose, seed) % 2
        picks = [content_key(f"{number}.{i}", "word", purpose, seed) for i in range(length)]
        word = "".join(syllables[pick % len(syllables)] for pick in picks)
        if word not in taken:
            taken.add(word)
            yield word
