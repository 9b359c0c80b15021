"""Novelty: what an embedding counts, the original's axis fault, error rates of every rule in simulated streams, real text."""

from __future__ import annotations

import json
import math
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models.decoders import decoder
from torch import Tensor

from crosstune.experts.novelty import Novelty, assess, embed_rows
from crosstune.experts.settings import NoveltySettings
from crosstune.foundation.data import Encoded, Row, encode
from crosstune.foundation.errors import DataError
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.worlds import random_model

RULES = {
    "calibrated": NoveltySettings(),
    "cosine max .75": NoveltySettings(rule="cosine"),
    "cosine max .85": NoveltySettings(rule="cosine", threshold=0.85),
    "cosine median .75": NoveltySettings(rule="cosine", over="median"),
    "cosine nearest 2 .75": NoveltySettings(rule="cosine", over="nearest"),
    "cosine max .85 - .1 log(1 + k)": NoveltySettings(rule="cosine", threshold=0.85, decay=0.1),
}
WIDTH = 32


def say(line: str) -> None:
    """Seen with `pytest -s`."""
    sys.stdout.write(line + "\n")


def judged(batch: Tensor, library: dict[str, Tensor], settings: NoveltySettings) -> Novelty:
    """Of rows with a hundred tokens each."""
    return assess(batch, 100 * len(batch), library, settings)


def skill(direction: int, rows: int, *names: str | int) -> Tensor:
    """Rows about one axis, at cosines of about .95 to it."""
    noise = torch.randn(rows, WIDTH, generator=Seeds(0).torch("rows", direction, *names))
    noise[:, direction] += 20
    return noise


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rows", [32, 45])
@pytest.mark.parametrize("known", [1, 2, 7, 31])
def test_any_number_of_known_skills_and_any_batch_leave_what_is_new_new(
    known: int, rows: int, name: str
) -> None:
    """The original compared along the wrong axis: with one skill known, nothing was ever new again."""
    library = {str(at): skill(at, 40 + at, "known") for at in range(known)}
    found = judged(skill(WIDTH - 1, rows, "new"), library, RULES[name])
    assert (found.verdict, found.is_new) == ("new", True), found.why
    assert name != "calibrated" or found.p == 1 / 200  # the smallest of 199 batches


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.over == "max"])
@pytest.mark.parametrize("known", [1, 2, 7])
def test_a_repeat_of_a_known_skill_is_known_and_named(known: int, name: str) -> None:
    library = {str(at): skill(at, 40, "known") for at in range(known)}
    for at in range(known):
        # The same rows, so that p is 1: fresh ones are strange once in twenty times, which the streams below count.
        found = judged(library[str(at)], library, RULES[name])
        assert (found.verdict, found.nearest, found.is_new) == ("known", str(at), False), found.why
        assert name != "calibrated" or found.p == 1
        assert float(found.similarity.value) == pytest.approx(1)  # type: ignore[union-attr]
        fresh = judged(skill(at, 32, "again"), library, RULES[name])
        assert fresh.nearest == str(at)
        assert fresh.verdict == "known" or name == "calibrated"


def test_p_is_its_share_of_all_the_ways_to_part_the_rows() -> None:
    """Every one of the 462, with the distance of the two means written out."""
    rows = torch.randn(11, 3, generator=Seeds(0).torch("few"), dtype=torch.float64).float()
    rows[:5, 0] += 1.2
    scaled = (rows.numpy().astype(float) - rows.numpy().mean(0)) / rows.numpy().std(0, ddof=1)
    lengths = np.sqrt((scaled**2).sum(1))
    drawn_in = scaled * np.minimum(1, np.median(lengths) / lengths)[:, None]

    def far(batch: tuple[int, ...]) -> float:
        others = [at for at in range(11) if at not in batch]
        return float(np.linalg.norm(drawn_in[list(batch)].mean(0) - drawn_in[others].mean(0)))

    least = far((0, 1, 2, 3, 4)) - 1e-6
    exact = sum(far(batch) >= least for batch in combinations(range(11), 5)) / 462
    settings = NoveltySettings(batches=4000, min_rows=4, min_tokens=1)
    found = assess(rows[:5], 500, {"a": rows[5:]}, settings).p
    assert abs(found - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000) + 1 / 4000


def test_the_similarity_is_the_cosine_of_means_with_an_interval_that_covers() -> None:
    """Of the true one, in 95 of 100 draws; binomial, to three standard deviations."""
    settings, covered = NoveltySettings(rule="cosine"), 0
    axes = torch.eye(WIDTH)[:2] * 3
    truth = 0.6  # of (3, 0) and (1.8, 2.4)
    for draw in range(200):
        noise = torch.randn(2, 48, WIDTH, generator=Seeds(0).torch("cover", draw)) * 0.4
        a, b = axes[0] + noise[0], axes[0] * 0.6 + axes[1] * 0.8 + noise[1]
        interval = judged(a, {"b": b}, settings).similarity
        assert interval is not None
        expected = torch.cosine_similarity(a.double().mean(0), b.double().mean(0), dim=0)
        assert float(interval.value) == pytest.approx(float(expected), abs=1e-6)
        covered += float(interval.low) <= truth <= float(interval.high)
    assert covered / 200 > 0.95 - 3 * math.sqrt(0.95 * 0.05 / 200)


@pytest.mark.parametrize(("over", "expected"), [("max", 0.8), ("median", 0.6), ("nearest", 0.7)])
def test_what_is_taken_over_skills(over: Any, expected: float) -> None:
    """Cosines .8, .6 and 0."""
    axes = torch.eye(3)
    batch = torch.tensor([0.8, 0.6, 0.0])
    library = {str(at): axes[at].expand(32, 3) for at in range(3)}
    settings = NoveltySettings(rule="cosine", over=over)
    found = judged(batch.expand(32, 3), library, settings)
    assert float(found.similarity.value) == pytest.approx(expected)  # type: ignore[union-attr]


def test_the_threshold_falls_with_the_known_skills() -> None:
    settings = NoveltySettings(rule="cosine", threshold=0.9, decay=0.1)
    batch = torch.tensor([0.75, math.sqrt(1 - 0.75**2), 0.0]).expand(32, 3)
    axes = torch.eye(3)
    few = {"x": axes[0].expand(32, 3)}  # .9 - .1 log 2 = .83
    many = few | {str(at): axes[2].expand(32, 3) for at in range(6)}  # .9 - .1 log 8 = .69
    found = [judged(batch, known, settings) for known in (few, many)]
    assert [(one.verdict, one.why[-5:]) for one in found] == [("new", "0.831"), ("known", "0.692")]


@pytest.mark.parametrize(
    ("why", "rows", "tokens", "settings"),
    [
        ("31 rows", skill(0, 31), 3100, NoveltySettings()),
        ("511 tokens", skill(0, 32), 511, NoveltySettings()),
        ("18 batches p is at least 0.0526", skill(0, 32), 512, NoveltySettings(batches=18)),
        (
            "on both sides of the threshold",
            torch.randn(32, WIDTH, generator=Seeds(0).torch("wide")) * 5,
            512,
            NoveltySettings(rule="cosine", threshold=0.0),
        ),
    ],
)
def test_what_cannot_be_decided_is_not_new(
    why: str, rows: Tensor, tokens: int, settings: NoveltySettings
) -> None:
    found = assess(rows, tokens, {"a": skill(1, 32)}, settings)
    assert (found.verdict, found.is_new) == ("undecided", False)
    assert why in found.why


def test_with_nothing_known_all_is_new() -> None:
    found = judged(skill(0, 32), {}, NoveltySettings())
    assert (found.is_new, found.nearest, found.why) == (True, None, "nothing is known yet")
    assert judged(skill(0, 31), {}, NoveltySettings()).verdict == "undecided"


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([-100], "`encoded` must have a scored token"),
        ([-100, 3], "`states` must be finite; found 1 of 1"),
    ],
)
def test_rows_that_lie_nowhere_are_refused(labels: list[int], words: str) -> None:
    model = decoder("llama")
    model.model.norm.weight.data[0] = math.nan
    with pytest.raises(DataError, match=words):
        embed_rows(model, [item("a", [3] * len(labels), labels)])


# ---------------------------------------------------------------------------------------------------------------------
# Reading a model


def item(unit: str, ids: list[int], labels: list[int]) -> Encoded:
    scored = sum(label != -100 for label in labels)
    return Encoded(unit, ids, labels, scored, scored, False, unit=unit)


def test_an_embedding_is_transformers_last_hidden_state_over_scored_tokens() -> None:
    """Padding (by a real token's id), prompts and batching do not count; rows of one unit are one."""
    model = decoder("llama")
    rows = [
        item("a", [5, 30, 9, 21, 4], [-100, -100, 9, 21, 4]),
        item("b", [8, 3], [-100, 3]),
        item("silent", [7], [-100]),
        item("a", [1, 2, 6], [-100, 2, 6]),
    ]
    expected = []
    for row in rows:
        with torch.no_grad():
            told = model(torch.tensor([row.input_ids]), output_hidden_states=True).hidden_states
        expected.append(told[-1][0][torch.tensor(row.labels) != -100])
    means = torch.stack([torch.cat([expected[0], expected[3]]).mean(0), expected[1].mean(0)])
    found = embed_rows(model, rows)
    torch.testing.assert_close(found, means, atol=1e-5, rtol=1e-5)
    assert not found.requires_grad


def test_an_embedding_in_half_precision_is_near(tmp_path: Path) -> None:
    folder = random_model("llama", tmp_path / "model")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    rows = encode([Row(str(at), "once upon a time " * (at + 1)) for at in range(3)], tokenizer, 64)
    exact = embed_rows(model, rows)
    half = embed_rows(model.bfloat16(), rows)
    assert half.dtype == torch.float32
    # bfloat16: 2 ** -8 each, of states of norm √H
    torch.testing.assert_close(half, exact, atol=0.1, rtol=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# Error rates

WORLDS = {
    "centred": (0.0, math.inf),
    "far from the origin": (1.5, math.inf),
    "heavy tails": (0.0, 2.5),
}
"""Offset shared by all skills, in spreads of a row; degrees of freedom of the rows."""
STREAMS = 300


def stream(world: str, seed: int) -> tuple[list[Tensor], Tensor]:
    """Four skills (means .3 of a row's spread apart a feature), and more rows of one of them."""
    offset, df = WORLDS[world]
    generator = Seeds(0).numpy("stream", world, seed)
    means = offset + 0.3 * generator.standard_normal((5, 1, WIDTH))
    noise = generator.standard_normal((5, 32, WIDTH))
    if df < math.inf:
        noise = noise / (generator.chisquare(df, (5, 32, 1)) / df) ** 0.5
    means[4] = means[generator.integers(4)]
    *skills, again = (torch.from_numpy(rows).float() for rows in means + noise)
    return skills, again


def rates(world: str, rule: Any) -> tuple[float, float, float]:
    """Shares of streams whose repeat spawned, of new skills that did not, of either that stayed undecided."""
    false = missed = undecided = 0
    for seed in range(STREAMS):
        skills, again = stream(world, seed)
        library: dict[str, Tensor] = {}
        for at, new in enumerate(skills):
            verdict = rule(new, library)
            missed += verdict != "new"
            undecided += verdict == "undecided"
            library[str(at)] = new
        verdict = rule(again, library)
        false += verdict == "new"
        undecided += verdict == "undecided"
    return false / STREAMS, missed / STREAMS / 3, undecided / STREAMS / 4


def split_conformal(batch: Tensor, library: dict[str, Tensor]) -> str:
    """The rule that the calibrated one replaces: half of a skill's rows is the reference, 1 - cosine of 19 batches redrawn from
    the other half calibrates."""
    values = [0.0]
    for known in library.values():
        reference, held = known.double().chunk(2)
        drawn = torch.randint(len(held), (19, 32), generator=Seeds(0).torch("drawn"))
        means = torch.cat([held[drawn].mean(1), batch.double().mean(0)[None]])
        far = 1 - torch.cosine_similarity(means, reference.mean(0)[None])
        values.append((int((far[:-1] >= far[-1]).sum()) + 1) / 20)
    return "new" if max(values) <= 0.05 else "known"


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_a_known_skill_seldom_spawns_and_a_new_one_is_seldom_missed(
    world: str, request: pytest.FixtureRequest
) -> None:
    """`pytest -s` prints the rates of every rule; else the default one alone is asked."""
    rules: dict[str, Any] = {
        name: lambda batch, library, at=settings: judged(batch, library, at).verdict
        for name, settings in RULES.items()
    }
    if request.config.getoption("capture") == "no":
        say(f"\n{world}: false spawn, missed spawn, undecided")
        for name, rule in (rules | {"split": split_conformal}).items():
            say(f"{name:32}" + "".join(f"{value:8.3f}" for value in rates(world, rule)))
    false, missed, undecided = rates(world, rules["calibrated"])
    assert false <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STREAMS)
    assert missed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STREAMS / 3)
    assert undecided == 0


# ---------------------------------------------------------------------------------------------------------------------
# Real text


def lines(path: Path, field: str) -> list[str]:
    return [json.loads(line)[field] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def texts(shared: Path) -> dict[str, Tensor]:
    """Two batches of 32 rows of each of four skills, as stories260K sees them."""
    data, folder = shared / "data", shared / "models" / "stories260K"
    wiki = (data / "english/wikitext-2/valid.txt").read_text(encoding="utf-8").splitlines()
    found = {
        "stories": lines(data / "english/tinystories_heldout.jsonl", "text"),
        "wiki": [line for line in wiki if len(line) > 200],
        "code": lines(data / "code/mbpp.jsonl", "code"),
        "bn": lines(data / "languages/bn.jsonl", "text"),
    }
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    batches = {}
    for name, all_rows in found.items():
        order = torch.randperm(len(all_rows), generator=Seeds(0).torch("real", name)).tolist()
        for batch in range(2):
            chosen = order[32 * batch : 32 * batch + 32]
            rows = [Row(str(at), all_rows[at]) for at in chosen]
            batches[f"{name} {batch + 1}"] = embed_rows(model, encode(rows, tokenizer, 128))
    return batches


def test_real_skills_are_new_once(texts: dict[str, Tensor]) -> None:
    """At the smallest p there is; a fixed threshold of .75 sees none of them: all cosines are larger."""
    library: dict[str, Tensor] = {}
    for name, batch in texts.items():
        found = judged(batch, library, NoveltySettings(level=0.005))
        near = (
            found.similarity
            and f"{float(found.similarity.value):.3f} ± {float(found.similarity.half_width):.3f}"
        )
        say(f"{name:10} {found.verdict:6} p {found.p:.3f}  {found.nearest} {near}")
        assert found.is_new == name.endswith("1"), (name, found)
        if not found.is_new:
            assert found.nearest == name.replace("2", "1")
            continue
        if library:
            assert judged(batch, library, NoveltySettings(rule="cosine")).verdict == "known"
        library[name] = batch
