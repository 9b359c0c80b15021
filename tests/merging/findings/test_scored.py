"""Losses, what came back and what it cost are ratios of sums; their intervals hold the truth as often as they claim."""

from __future__ import annotations

import math

import pytest
import torch
from tests.merging import scores

from crosstune.foundation.statistics.intervals import Interval
from crosstune.merging.findings.scored import (
    ScoredPoints,
    hypervolume_table,
    points_table,
    tasks_table,
)
from crosstune.merging.points import Point

ENDS = ({"en": 1.0, "bn": 5.0}, {"en": 3.0, "bn": 2.0})


def two_methods() -> ScoredPoints:
    """Two nats of en were forgotten, so a trade may cost two of bn: the area reaches from bn 2 to 4, not to 5."""
    means = [ENDS[0], {"en": 2.0, "bn": 3.5}, {"en": 1.5, "bn": 2.75}, ENDS[1]]
    which = scores.points("global", "component", each=1)
    return scores.exactly(which, means, ["bn"], ["en"])


def test_the_points_table_is_arithmetic_on_the_losses() -> None:
    table = points_table(two_methods())
    assert table.column("method") == ["global"] * 3 + ["component"] * 3
    assert table.column("kind") == ["before", "rate", "after"] * 2
    row = table.where(method="component", point=1).rows()[0]
    for name, truth in {"old": 1.5, "new": 2.75, "regained": 1.5, "paid": 0.75}.items():
        assert row[name] == pytest.approx(truth)
        assert row[f"{name}_low"] == pytest.approx(truth)
    assert (row["n"], row["n_unit"]) == (12, "rows")


def test_hypervolume_is_the_dominated_share_of_the_area() -> None:
    table = hypervolume_table(two_methods())
    by_method = {row["method"]: row for row in table.rows()}
    assert by_method["global"]["value"] == pytest.approx(0.5 * 0.25)
    assert by_method["component"]["value"] == pytest.approx(0.75 * 0.625)
    assert by_method["component"]["over_global"] == pytest.approx(0.75 * 0.625 - 0.125)
    assert by_method["global"]["over_global"] == 0.0
    assert math.isnan(by_method["global"]["over_replay"])


def losses(en: float, bn: float) -> dict[str, float]:
    return {"en": en, "bn": bn}


@pytest.mark.parametrize(
    ("means", "share"),
    [
        # One nat was forgotten: costs beyond one nat of the new do not count, however badly before knew it.
        *(
            ([(1.0, start), (1.5, 2.5), (0.9, 2.9 + start / 9), (2.0, 2.0)], 0.25)
            for start in (3.0, 5.0, 21.0, 1000.0)
        ),
        # Two nats were forgotten and half a nat learned: the area is the rectangle between both endpoints.
        ([(1.0, 2.5), (2.0, 2.1), (3.0, 2.0)], 0.5 * 0.8),
        # What lies beyond the best corner opens no more than the whole area.
        ([(1.0, 5.0), (0.5, 2.0), (1.0, 2.0), (3.0, 2.0)], 1.0),
        ([(1.0, 5.0), (1.0, 1.0), (1.0, 2.0), (3.0, 2.0)], 1.0),
        # Points at the endpoints, and points worse than both, dominate nothing.
        ([(1.0, 5.0), (3.0, 2.0), (3.5, 5.5), (3.0, 2.0)], 0.0),
    ],
)
def test_the_area_is_as_wide_as_what_was_forgotten_or_learned(
    means: list[tuple[float, float]], share: float
) -> None:
    which = scores.points("global", each=len(means) - 2)
    scored = scores.exactly(which, [losses(*one) for one in means], ["bn"], ["en"])
    row = hypervolume_table(scored).rows()[0]
    assert row["value"] == pytest.approx(share) and row["points"] == len(means)


def test_the_corners_move_in_every_replicate() -> None:
    """The oracle takes each replicate's losses as the only ones there are."""
    which = scores.points("global", "component", each=2)
    drawn = scores.drawn(MEANS, torch.Generator().manual_seed(8), rows=12, shared=True)
    scored = ScoredPoints(which, drawn, ["bn"], ["en"])
    found = scored.share("component")(scored.left_out)
    for at, losses in enumerate(scored.left_out):
        own = [dict(zip(scored.tasks, point, strict=True)) for point in losses.tolist()]
        alone = scores.exactly(which, own, ["bn"], ["en"])
        table = hypervolume_table(alone).where(method="component")
        assert table.column("value")[0] == pytest.approx(found[at].item())


def test_step_0_of_a_replay_is_after_and_no_point_more() -> None:
    means = [ENDS[0], ENDS[1], {"en": 2.0, "bn": 3.5}, ENDS[1]]
    steps = [Point("replay", "replay", step=step, rate=1e-3) for step in (0, 5)]
    which = [Point("component", "before"), *steps, Point("component", "after")]
    row = hypervolume_table(scores.exactly(which, means, ["bn"], ["en"])).rows()[0]
    assert (row["points"], row["value"]) == (3, pytest.approx(0.125))


def test_the_tasks_table_compares_each_task_with_after() -> None:
    table = tasks_table(two_methods())
    before = {row["task"]: row for row in table.where(method="global", point=0).rows()}
    assert before["en"]["change"] == pytest.approx(-2.0)
    assert before["bn"]["change"] == pytest.approx(3.0)
    assert (before["en"]["role"], before["bn"]["role"]) == ("forgotten", "learned")
    after = table.where(label="after").rows()
    assert all(row["change"] == row["change_low"] == row["change_high"] == 0.0 for row in after)
    assert all(row["n"] == 6 for row in after)


def test_validation_rows_alone_decide_what_is_on_the_front() -> None:
    """Test losses put rate 1 ahead; the validation rows did not, and a copy of after counts once."""
    chosen = [losses(*one) for one in ((1, 5), (2.6, 2.5), (2.0, 2.4), (3, 2), (3, 2))]
    plain = scores.points("global", each=3)
    which = [
        Point(point.method, point.kind, rate=point.rate, validation=own)
        for point, own in zip(plain, chosen, strict=True)
    ]
    means = [ENDS[0], {"en": 1.1, "bn": 2.1}, {"en": 2.5, "bn": 3.0}, ENDS[1], ENDS[1]]
    table = points_table(scores.exactly(which, means, ["bn"], ["en"]))
    assert table.column("on_front") == [True, False, True, False, True]
    assert table.column("selection_old") == [1.0, 2.6, 2.0, 3.0, 3.0]


def test_without_a_search_the_endpoints_stand_alone() -> None:
    table = points_table(scores.exactly(scores.points(), ENDS, ["bn"], ["en"]))
    assert table.column("method") == ["ends", "ends"]
    assert table.column("kind") == ["before", "after"]


def test_checkpoints_that_know_the_same_have_no_task_to_tell_of() -> None:
    scored = scores.exactly(scores.points(), [ENDS[0], ENDS[0]], [], [])
    assert all(math.isnan(value) for value in points_table(scored).column("regained"))
    assert points_table(scored).column("n") == [0, 0]
    assert len(tasks_table(scored)) == 0
    assert math.isnan(hypervolume_table(scored).rows()[0]["value"])


def test_what_was_asked_for_does_not_widen_the_front() -> None:
    """A method must not win a comparison by a point more."""
    means = [ENDS[0], {"en": 2.0, "bn": 3.5}, {"en": 1.2, "bn": 2.2}, ENDS[1]]
    which = scores.points("global", each=2)
    which[2] = Point("global", "asked", limits={"bn": 0.2})
    scored = scores.exactly(which, means, ["bn"], ["en"])
    row = hypervolume_table(scored).rows()[0]
    assert row["value"] == pytest.approx(0.125)
    assert row["points"] == 3
    assert len(points_table(scored)) == 4


def test_nothing_forgotten_leaves_the_old_axis_unmeasured() -> None:
    better = {"en": 0.5, "bn": 2.0}
    scored = scores.exactly(scores.points(), [ENDS[0], better], ["bn", "en"], [])
    row = points_table(scored).where(kind="before").rows()[0]
    assert all(math.isnan(row[name]) for name in ("old", "old_low", "regained", "selection_old"))
    assert row["paid"] == pytest.approx((3.0 + 0.5) / 2)
    assert math.isnan(hypervolume_table(scored).rows()[0]["value"])
    change = tasks_table(scored).where(point=0, task="en").column("change")[0]
    assert change == pytest.approx(0.5)


def test_one_row_has_no_interval() -> None:
    tokens = torch.tensor([10])
    one = [
        {task: scores.row_scores(loss * tokens, tokens, ["only"]) for task, loss in means.items()}
        for means in ENDS
    ]
    row = points_table(ScoredPoints(scores.points(), one, ["bn"], ["en"])).rows()[0]
    assert row["old"] == 1.0
    assert math.isnan(row["old_low"])


def test_a_single_task_has_the_interval_of_its_rows() -> None:
    """Other tasks add neither variance nor degrees of freedom: the same as the scores' own interval."""
    generator = torch.Generator().manual_seed(1)
    drawn = scores.drawn(ENDS, generator, rows=5)
    row = tasks_table(ScoredPoints(scores.points(), drawn, ["bn"], ["en"])).rows()[0]
    alone = drawn[0][row["task"]].nats_per_token
    found = [row[name] for name in ("loss", "loss_low", "loss_high")]
    assert found == pytest.approx([alone.value, alone.low, alone.high])


def test_each_replicate_is_what_the_other_rows_say() -> None:
    """The oracle deletes a group from every task and scores again; tasks overlap in part, one unit holds two rows."""
    generator = torch.Generator().manual_seed(4)
    units = {"bn": ["g0", "g1", "g1", "b0", "b1"], "en": ["g1", "g0", "e0", "g2", "g2"]}
    tokens = {task: torch.randint(5, 30, (5,), generator=generator) for task in units}
    nats = [
        {task: torch.rand(5, generator=generator) * 50 + 50 * at for task in units}
        for at in range(2)
    ]

    def without(left_out: str) -> ScoredPoints:
        kept = {
            task: [at for at, u in enumerate(of) if u != left_out] for task, of in units.items()
        }
        found = [
            {
                task: scores.row_scores(
                    one[task][at], tokens[task][at], [units[task][place] for place in at], "groups"
                )
                for task, at in kept.items()
            }
            for one in nats
        ]
        return ScoredPoints(scores.points(), found, ["bn"], ["en"])

    every = list(dict.fromkeys([*units["bn"], *units["en"]]))
    expected = torch.stack([without(unit).losses for unit in every])
    torch.testing.assert_close(without("").left_out, expected)
    # One sample of six units over both tasks; the four of each task leave three degrees of freedom.
    both = without("").mean_loss(["bn", "en"])
    found = without("").interval(lambda of: both(of)[..., 0], ["bn", "en"])
    mean = expected[:, 0].mean(-1)
    error = ((mean - mean.mean()).square().sum() * 5 / 6).sqrt()
    quantile = 3.182446305  # Student's t at 0.975 with 3 degrees of freedom, from a printed table
    assert (found.high - found.value).item() == pytest.approx(quantile * error.item())


def test_paired_differences_do_not_carry_the_rows_difficulty() -> None:
    drawn = scores.drawn(ENDS, torch.Generator().manual_seed(2), noise=0.01)
    row = points_table(ScoredPoints(scores.points(), drawn, ["bn"], ["en"])).rows()[0]
    assert row["regained_high"] - row["regained_low"] < 0.1 * (row["old_high"] - row["old_low"])


DRAWS = 200
# Five standard errors of a share of 200 draws: four for chance, one since t on 30 rows holds 94 to 95 %.
TOLERANCE = 5 * math.sqrt(0.95 * 0.05 / DRAWS)
MEANS = [
    ENDS[0],
    {"en": 1.8, "bn": 4.1},
    {"en": 2.4, "bn": 2.9},
    {"en": 1.5, "bn": 3.5},
    {"en": 2.0, "bn": 2.4},
    ENDS[1],
]


@pytest.mark.parametrize("shared", [False, True], ids=["separate rows", "shared groups"])
def test_intervals_hold_the_truth_as_often_as_they_claim(shared: bool) -> None:
    """Seen for a point, for the mean over tasks whose groups are shared or not, and for a difference of fronts."""
    which = scores.points("global", "component", each=2)
    truth = _figures(scores.exactly(which, MEANS, ["bn"], ["en"]))
    held = dict.fromkeys(truth, 0)
    generator = torch.Generator().manual_seed(5)
    for _ in range(DRAWS):
        drawn = scores.drawn(MEANS, generator, rows=30, shared=shared)
        for name, found in _figures(ScoredPoints(which, drawn, ["bn"], ["en"])).items():
            held[name] += bool(found.low <= truth[name].value <= found.high)
    for name, count in held.items():
        # Of 200 intervals at 95 % one fails at least, but for a chance of 4e-5.
        assert 0.95 - TOLERANCE < count / DRAWS < 1, f"{name}: {count} of {DRAWS}"


def _figures(scored: ScoredPoints) -> dict[str, Interval]:
    old, new, every = map(scored.mean_loss, (["en"], ["bn"], ["bn", "en"]))
    return {
        "regained": scored.interval(lambda of: old(of)[..., -1] - old(of)[..., 4], ["en"]),
        "paid": scored.interval(lambda of: new(of)[..., 4] - new(of)[..., -1], ["bn"]),
        "mean over tasks": scored.interval(lambda of: every(of)[..., 4], ["bn", "en"]),
        "over_global": scored.interval(
            lambda of: scored.share("component")(of) - scored.share("global")(of), ["bn", "en"]
        ),
    }
