"""At the price that a point pays, a rival regains the most that its path affords; all of it is read anew without each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.stats import t as student
from tests.merging import scores

from crosstune.foundation.evaluation import RowScores
from crosstune.merging.findings.rivals import rivals_table
from crosstune.merging.findings.scored import ScoredPoints
from crosstune.merging.points import Point

ROLES: tuple[list[str], list[str]] = (["bn"], ["en"])
SHARES = [at / 20 for at in range(21)]
PAID, REGAINED = (
    3.0,
    4.0,
)  # by going back to before: the line pays 3 (1 − w)², and regains 4 (1 − w²)
ALL_OF_IT = torch.ones(1, 3, dtype=torch.float64)


def on_line(share: float) -> dict[str, float]:
    """The losses of one global coefficient."""
    return {"en": 5.0 - REGAINED * (1 - share**2), "bn": 2.0 + PAID * (1 - share) ** 2}


def share_at(price: float) -> float:
    return 1 - math.sqrt(price / PAID)


def line(low: float = 0.0) -> list[Point]:
    """The line's models with both ends, from before on."""
    inner = [share for share in [low, *SHARES] if share not in (0.0, 1.0)]
    drawn = [Point("global", "line", share=share) for share in dict.fromkeys(inner)]
    return [Point("global", "before"), *drawn, Point("global", "after")]


def losses_of(points: Sequence[Point]) -> list[dict[str, float]]:
    ends = {"before": 0.0, "after": 1.0}
    return [on_line(ends.get(point.kind, point.share)) for point in points]


def compared(
    *asked: tuple[Point, Mapping[str, float]], rival: str = "global"
) -> list[dict[str, Any]]:
    """The rows of points with known losses against the line."""
    points = [*line(), *(point for point, _ in asked)]
    means = [*losses_of(line()), *(losses for _, losses in asked)]
    return rivals_table(scores.exactly(points, means, *ROLES)).where(rival=rival).rows()


def point(label: float = 0.02, **given: Any) -> Point:
    return Point("component", "budget", budget=label, **given)


def at_price(price: float, regained: float) -> dict[str, float]:
    return {"en": 5.0 - regained, "bn": 2.0 + price}


@pytest.mark.parametrize("price", [0.0005, 0.004, 0.02, 0.3, 1.7])
def test_a_point_of_the_line_is_worth_what_the_line_is(price: float) -> None:
    """Near after, a chord between the line's models would sell the line far below its worth."""
    (row,) = compared((point(), on_line(share_at(price))))
    assert row["paid"] == pytest.approx(price, abs=1e-6)  # losses of float32
    assert abs(row["more_regained"]) < 0.005 * row["regained"]
    paid, regained = (
        np.array([abs(on_line(share)[task] - on_line(1.0)[task]) for share in SHARES[::-1]])
        for task in ("bn", "en")
    )
    chord = row["regained"] - np.interp(price, paid, regained)
    assert price > 0.01 or chord > 0.2 * row["regained"]


@pytest.mark.parametrize("price", [0.02, 0.5])
def test_an_advantage_is_what_is_regained_beyond_the_line_at_that_price(price: float) -> None:
    theirs = REGAINED * (1 - share_at(price) ** 2)
    better, worse = compared(
        (point(0.02), at_price(price, theirs + 0.5)), (point(0.1), at_price(price, theirs - 0.5))
    )
    assert better["more_regained"] == pytest.approx(0.5, abs=0.002)
    assert worse["more_regained"] == pytest.approx(-0.5, abs=0.002)
    assert better["regained"] == pytest.approx(theirs + 0.5)


def test_beyond_the_line_stand_its_cheapest_model_and_its_best() -> None:
    cheaper, dearer = compared(
        (point(0.02), at_price(-0.5, 0.7)), (point(0.1), at_price(PAID + 2, REGAINED + 0.7))
    )
    assert cheaper["more_regained"] == pytest.approx(0.7)  # after: nothing regained
    assert dearer["more_regained"] == pytest.approx(0.7)  # before: all of it


def test_one_global_coefficient_is_no_better_than_itself_to_the_bit() -> None:
    kept = torch.full((1, 3), 0.63 + 1e-13, dtype=torch.float64)
    other = kept + torch.tensor([0.0, 0.0, 1e-6], dtype=torch.float64)
    soup = torch.stack([0.4 * ALL_OF_IT[0], 0.63 * ALL_OF_IT[0]])
    own, on_the_line, beside, of_two = compared(
        (point(0.01, coefficients=kept), at_price(0.3, 2.0)),
        (point(0.02, coefficients=torch.stack([0 * kept[0], kept[0]])), at_price(0.3, 2.0)),
        (point(0.03, coefficients=other), at_price(0.3, 2.0)),
        (point(0.04, coefficients=soup), at_price(0.3, 2.0)),
    )
    for row in (own, on_the_line):
        assert row["same_model"]
        assert [row[f"more_regained{end}"] for end in ("", "_low", "_high")] == [0.0] * 3
    for row in (beside, of_two):
        assert not row["same_model"]
        assert row["more_regained"] < -0.1


STOPS = {  # learning rate → paid and regained at the stops of one run
    1e-4: [(0.0, 0.0), (0.1, 1.0), (0.3, 2.0)],
    1e-3: [(0.0, 0.0), (-0.2, 0.4), (0.4, 3.0)],
}


@pytest.mark.parametrize(
    ("price", "theirs"),
    [
        (-0.5, 0.4),  # cheaper than any stop: the cheapest
        (-0.1, 0.4 + 2.6 / 6),  # a sixth of the way between two stops of the second run
        (0.1, 0.4 + 2.6 / 2),
        (9.0, 3.0),
    ],
)
def test_a_replay_is_read_along_its_stops(price: float, theirs: float) -> None:
    stops = [
        (Point("replay", "replay", rate=rate, step=step), at_price(*stop))
        for rate, run in STOPS.items()
        for step, stop in enumerate(run)
    ]
    (row,) = compared((point(), at_price(price, 2.5)), *reversed(stops), rival="replay")
    assert row["more_regained"] == pytest.approx(2.5 - theirs)


def test_every_question_meets_every_rival_that_is_there() -> None:
    rate = Point("component", "rate", rate=1.0)
    asked = Point("component", "asked", limits={"bn": 0.2})
    own = Point("global", "rate", rate=1.0)
    stop = Point("replay", "replay", step=0)
    four = [(one, at_price(0.1, 0.1)) for one in (rate, asked, own, stop)]
    points = [*line(), *(one for one, _ in four)]
    table = rivals_table(
        scores.exactly(points, [*losses_of(line()), *(losses for _, losses in four)], *ROLES)
    )
    met = list(zip(*(table.column(name) for name in ("method", "question", "rival")), strict=True))
    both = [("component", "rate 1"), ("component", "asked: bn ≤ 0.2")]
    assert met == [
        *((*one, "global") for one in both),
        *((*one, "replay") for one in [*both, ("global", "rate 1")]),
    ]
    ends = [line()[0], rate, line()[-1]]
    alone = scores.exactly(ends, [on_line(0.0), at_price(0.1, 0.1), on_line(1.0)], *ROLES)
    assert len(rivals_table(alone)) == 0


def drawn_rows(
    generator: torch.Generator, rows: int, *, shared: bool = False
) -> Callable[..., dict[str, RowScores]]:
    """The scores of a share of rows whose own losses bend more or less along the line, with some noise of the point's own.

    Both tasks are quadratic with one Hessian, so nothing is better than the line.
    """
    tokens = torch.randint(5, 30, (rows,), generator=generator)
    bends = {
        task: 1 + 0.5 * torch.randn(rows, generator=generator, dtype=torch.float64)
        for task in ("en", "bn")
    }

    def of(share: float, noise: float = 0.0) -> dict[str, RowScores]:
        found = {}
        for task, after in on_line(1.0).items():
            change = on_line(share)[task] - after
            own = noise * torch.randn(rows, generator=generator, dtype=torch.float64)
            units = [f"{'' if shared else task}{at}" for at in range(rows)]
            nats = (after + change * bends[task] + own) * tokens
            found[task] = scores.row_scores(nats, tokens, units, "groups" if shared else "rows")
        return found

    return of


DRAWS = 200
# Five standard errors of a share of 200 draws: four for chance, one since t on 30 rows holds 94 to 95 %.
TOLERANCE = 5 * math.sqrt(0.95 * 0.05 / DRAWS)


@pytest.mark.parametrize("shared", [False, True], ids=["separate rows", "shared groups"])
def test_where_components_cannot_do_better_an_advantage_is_shown_as_seldom_as_claimed(
    shared: bool,
) -> None:
    """A method's point and the rival's answer lie on one line, at different prices: compared as they are, one seems better."""
    generator = torch.Generator().manual_seed(9)
    points = [*line(), point()]
    shares = [0.0, *SHARES[1:-1], 1.0]
    held = unequal = 0
    for _ in range(DRAWS):
        of = drawn_rows(generator, 30, shared=shared)
        made = [of(share) for share in shares]
        mine, answer = of(0.63, 0.3), of(0.78, 0.3)
        (row,) = rivals_table(ScoredPoints(points, [*made, mine], *ROLES)).rows()
        held += row["more_regained_low"] <= 0 <= row["more_regained_high"]
        both = ScoredPoints([*points, point(0.1)], [*made, mine, answer], *ROLES)
        apart = both.interval(lambda losses: losses[..., -1, 1] - losses[..., -2, 1], ["en"])
        unequal += apart.low.item() > 0
    assert held / DRAWS > 0.95 - TOLERANCE
    assert unequal > 0.9 * DRAWS


def test_the_place_on_the_line_moves_with_each_row_that_is_left_out() -> None:
    """Against plain numpy: the line of each replicate as one spline, and R as a maximum over a fine grid of it."""
    generator = torch.Generator().manual_seed(4)
    of = drawn_rows(generator, 12)
    made = [of(share) for share in (0.0, *SHARES[1:-1], 1.0)]
    mine = of(0.55, 0.3)
    (row,) = rivals_table(ScoredPoints([*line(), point()], [*made, mine], *ROLES)).rows()

    def loss(one: Mapping[str, Any], task: str, without: tuple[str, int] | None) -> float:
        stays = np.array([(task, at) != without for at in range(12)])
        return float(one[task].nats.numpy()[stays].sum() / one[task].tokens.numpy()[stays].sum())

    def more(without: tuple[str, int] | None) -> float:
        curves = [
            CubicSpline(SHARES, [loss(one, task, without) for one in made])(
                np.linspace(0, 1, 20001)
            )
            for task in ("en", "bn")
        ]
        price = max(loss(mine, "bn", without), curves[1].min())
        return float(curves[0][curves[1] <= price].min() - loss(mine, "en", without))

    left = np.array([[more((task, at)) for at in range(12)] for task in ("en", "bn")])
    variances = 11 / 12 * ((left - left.mean(1, keepdims=True)) ** 2).sum(1)
    freedom = variances.sum() ** 2 / (variances**2 / 11).sum()
    reach = student.ppf(0.975, freedom) * math.sqrt(variances.sum())
    assert row["more_regained"] == pytest.approx(more(None), abs=1e-3)
    assert row["more_regained_high"] - row["more_regained"] == pytest.approx(reach, rel=0.01)


def test_no_cell_is_a_negative_zero() -> None:
    rows = compared((point(coefficients=ALL_OF_IT), on_line(1.0)))
    assert not any(str(value) == "-0.0" for row in rows for value in row.values())
