"""Every sentence follows from its statistic: nothing is shown whose interval holds 0, nor denied that excludes it."""

from __future__ import annotations

import math
import re
from typing import Any, get_args, get_type_hints

import pytest
import torch
from tests.merging import scores

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement
from crosstune.merging.findings import sentences as words
from crosstune.merging.findings.scored import ScoredPoints, hypervolume_table, tasks_table
from crosstune.merging.findings.sentences import Criterion
from crosstune.merging.points import Point
from crosstune.merging.settings import RepairSettings
from crosstune.merging.tables import HYPERVOLUME_COLUMNS, RIVALS_COLUMNS, TASKS_COLUMNS

PICKED = Point(
    "global", "rate", rate=1.0, coefficients=torch.full((1, 9), 0.62, dtype=torch.float64)
)
Span = tuple[float, float, float]


def tasks(en: Span, bn: Span, rise: Span = (1.04, 1.0, 1.08), fall: Span = (3, 2.9, 3.1)) -> Table:
    """Point 1 regained `en` and paid `bn`; from before to after en rose and bn fell."""
    changes = {
        (0, "before"): {"en": _minus(rise), "bn": fall},
        (1, "rate 1"): {"en": _minus(en), "bn": bn},
        (2, "after"): {"en": (0.0,) * 3, "bn": (0.0,) * 3},
    }
    return Table(
        "repair_tasks",
        TASKS_COLUMNS,
        [
            {
                **dict.fromkeys(("selection", "loss", "loss_low", "loss_high"), 1.0),
                "method": "global",
                "point": place,
                "label": label,
                "task": task,
                "role": {"en": "forgotten", "bn": "learned"}[task],
                **dict(zip(("change", "change_low", "change_high"), span, strict=True)),
                "n": 214,
                "n_unit": "rows",
            }
            for (place, label), spans in changes.items()
            for task, span in spans.items()
        ],
    )


def _minus(span: Span) -> Span:
    value, low, high = span
    return -value, -high, -low


NOTHING = (math.nan,) * 2


def test_the_trade_is_one_sentence() -> None:
    found = words.trade_off(PICKED, tasks((0.74, 0.70, 0.78), (0.01, -0.01, 0.03)), 1)
    assert found.text == (
        "Keeping 0.62 of every change gave back 0.74 [0.70, 0.78] of the 1.04 nats of en that were forgotten and is not "
        "shown to cost any bn (0.01 [−0.01, 0.03] nats); 214 test rows a task."
    )
    assert found.tone == "shown"


@pytest.mark.parametrize(
    ("en", "tone", "says"),
    [
        ((0.3, 0.1, 0.5), "shown", "gave back 0.30 [0.10, 0.50] of"),
        ((0.3, -0.1, 0.7), "not_shown", "is not shown to give back any of en (0.30"),
        ((-0.3, -0.5, -0.1), "warning", "raised the loss of en by a further 0.30 [0.10, 0.50]"),
        ((0.3, *NOTHING), "too_noisy", "is not shown to give back any of en (0.3 [no interval]"),
    ],
)
def test_a_gain_is_shown_only_where_its_interval_excludes_zero(
    en: Span, tone: str, says: str
) -> None:
    found = words.trade_off(PICKED, tasks(en, (0.2, 0.1, 0.3)), 1)
    assert found.tone == tone
    assert says in found.text
    assert "cost 0.20 [0.10, 0.30] nats of bn" in found.text


def test_a_cost_below_zero_is_a_further_win() -> None:
    found = words.trade_off(PICKED, tasks((0.3, 0.1, 0.5), (-0.2, -0.3, -0.1)), 1)
    assert "won a further 0.20 [0.10, 0.30] nats of bn" in found.text


def test_what_was_done_is_said_of_every_kind_of_point() -> None:
    table = tasks((0.3, 0.1, 0.5), (0.2, 0.1, 0.3))
    mixed = torch.tensor([[0.21, 1.0]], dtype=torch.float64)
    for point, opening in (
        (
            Point("component", "rate", rate=1.0, coefficients=mixed),
            "The repair with one coefficient per component (rate 1) gave",
        ),
        (
            Point("layer", "budget", budget=0.02, coefficients=mixed[:, :1]),
            "Keeping 0.21 of every change, with one coefficient per layer, gave",
        ),
        (Point("replay", "replay", step=30), "A replay fine-tune of 30 steps gave"),
        (Point("component", "before"), "Going back to the model before gave"),
    ):
        assert words.trade_off(point, table, 1).text.startswith(opening)
    assert words.trade_off(Point("component", "after"), table, 2).tone == "info"


def test_both_changes_from_before_to_after_are_told() -> None:
    table = tasks((0, 0, 0), (0, 0, 0))
    lost, won = words.ends(table)
    assert "the loss of en rose by 1.04 [1.00, 1.08] nats" in lost.text
    assert "the loss of bn fell by 3.00 [2.90, 3.10] nats" in won.text
    assert (lost.tone, won.tone) == ("shown", "shown")
    unsure, _ = words.ends(tasks((0, 0, 0), (0, 0, 0), rise=(0.1, -0.1, 0.3)))
    assert "that the loss of en rose is not shown (0.10 [−0.10, 0.30]" in unsure.text
    assert unsure.tone == "not_shown"
    against, _ = words.ends(tasks((0, 0, 0), (0, 0, 0), rise=(-0.2, -0.3, -0.1)))
    assert "fell by 0.20 [0.10, 0.30]" in against.text
    assert against.tone == "warning"


def all_learned(rise: Span) -> list[Statement]:
    rows = tasks((0, 0, 0), (0, 0, 0), rise=rise).rows()
    return words.ends(Table("t", TASKS_COLUMNS, [{**row, "role": "learned"} for row in rows]))


def test_nothing_forgotten_is_a_result_with_its_interval() -> None:
    none, _ = all_learned((-0.2, -0.3, -0.1))
    assert none.text.startswith("Nothing to repair: no task's loss rose (en −0.20 [−0.30, −0.10]")
    assert none.tone == "shown"
    unsure, _ = all_learned((-0.1, -0.3, 0.1))
    assert "that any task's loss rose is not shown" in unsure.text
    assert unsure.tone == "not_shown"
    missed, _ = all_learned((0.2, 0.1, 0.3))
    assert "on test rows it did: en by 0.20 [0.10, 0.30]" in missed.text
    assert missed.tone == "warning"


def test_nothing_learned_is_a_result() -> None:
    rows = tasks((0, 0, 0), (0, 0, 0), fall=(-0.2, -0.3, -0.1)).rows()
    table = Table("t", TASKS_COLUMNS, [{**row, "role": "forgotten"} for row in rows])
    assert words.ends(table)[1].text.startswith("Nothing to keep: no task's loss fell")


def test_identical_checkpoints_have_nothing_to_repair() -> None:
    assert words.identical().text.startswith("Nothing to repair")
    (same,) = words.ends(Table("t", TASKS_COLUMNS))
    assert same.text.startswith("Nothing to repair: no task's loss changed")


@pytest.mark.parametrize(
    ("over", "tone", "says"),
    [
        ((0.08, 0.05, 0.11), "shown", "beats one global coefficient"),
        ((-0.08, -0.11, -0.05), "shown", "does not beat one global coefficient"),
        ((0.01, -0.02, 0.04), "not_shown", "differs from that of one global coefficient is not"),
        ((0.01, *NOTHING), "too_noisy", "too noisy to say"),
    ],
)
def test_fronts_are_told_apart_only_by_their_paired_difference(
    over: Span, tone: str, says: str
) -> None:
    row = {column.name: math.nan for column in HYPERVOLUME_COLUMNS}
    row |= {"value": 0.71, "value_low": 0.6, "value_high": 0.8, "points": 7, "n": 40}
    row |= dict(zip(("over_global", "over_global_low", "over_global_high"), over, strict=True))
    named = [{**row, "method": name, "n_unit": "rows"} for name in ("component", "global")]
    found = words.comparison(Table("t", HYPERVOLUME_COLUMNS, named), "component", "global")
    assert found.tone == tone
    assert says in found.text
    assert "7 points against 7" in found.detail
    assert "more nats of the new than all that was forgotten do not count" in found.detail
    assert "with 7 points" not in found.text


def test_more_points_than_the_rival_are_not_kept_quiet() -> None:
    """Taking the best of more noisy points is no merit of the method."""
    ends = ({"en": 1.0, "bn": 5.0}, {"en": 3.0, "bn": 2.0})
    means = [ends[0], {"en": 2.0, "bn": 3.5}, *[{"en": 1.4, "bn": 2.2}] * 2, ends[1]]
    which = [*scores.points("global", each=1)[:-1], *scores.points("component")[1:]]
    fronts = hypervolume_table(scores.exactly(which, means, ["bn"], ["en"]))
    found = words.comparison(fronts, "component", "global")
    assert "more, with 4 points against 3." in found.text


@pytest.mark.parametrize(
    ("bn", "tone", "says"),
    [
        ((0.01, 0.0, 0.02), "shown", "confirmed on test rows (+0.01 [0.00, 0.02])"),
        ((-0.01, -0.03, 0.01), "shown", "confirmed on test rows (−0.01 [−0.03, 0.01])"),
        ((0.04, 0.03, 0.05), "warning", "exceeded on test rows (+0.04 [0.03, 0.05])"),
        ((0.02, -0.02, 0.07), "not_shown", "not confirmed on test rows (+0.02 [−0.02, 0.07])"),
        ((0.02, *NOTHING), "too_noisy", "too noisy to confirm on test rows (+0.02 [no interval])"),
    ],
)
def test_a_limit_is_confirmed_where_the_whole_interval_keeps_it(
    bn: Span, tone: str, says: str
) -> None:
    """The trade-off says the same of it, and never that nothing is shown to be lost."""
    table = tasks((0.3, 0.1, 0.5), bn)
    (found,) = words.constraints(PICKED, table, 1, {"bn": 0.02})
    assert found.tone == tone
    assert found.text == f"Limit of 0.02 nats of bn: met on validation rows, {says}."
    held = f"(limit 0.02: {says.split(' on test')[0]})"
    for point in (
        Point("component", "asked", limits={"bn": 0.02}),
        Point("component", "budget", budget=0.02),
    ):
        trade_off = words.trade_off(point, table, 1)
        text = trade_off.text
        assert trade_off.tone == (tone if tone in ("shown", "warning") else "info")
        assert held in text
        assert "not shown to cost" not in text
        of_divergence = words.trade_off(point, table, 1, "checkpoints").text
        assert "limit 0.02:" not in of_divergence


def test_sentences_are_right_on_real_tables() -> None:
    """A method that copies global is not told apart from it; a better one is."""
    ends = ({"en": 1.0, "bn": 5.0}, {"en": 3.0, "bn": 2.0})
    better = {"en": 1.4, "bn": 2.2}
    means = [ends[0], {"en": 2.0, "bn": 3.5}, {"en": 2.0, "bn": 3.5}, better, ends[1]]
    which = scores.points("global", "layer", "component", each=1)
    drawn = scores.drawn(means, torch.Generator().manual_seed(11))
    drawn[2] = drawn[1]
    reported = ScoredPoints(which, drawn, ["bn"], ["en"])
    fronts = hypervolume_table(reported)
    assert words.comparison(fronts, "component", "global").tone == "shown"
    assert words.comparison(fronts, "layer", "global").tone == "not_shown"
    assert words.comparison(fronts, "component", "replay").tone == "too_noisy"
    said = re.search(
        r"gave back ([\d.]+) \[", words.trade_off(which[3], tasks_table(reported), 1).text
    )
    assert said is not None
    assert float(said[1]) == pytest.approx(1.6, abs=0.25)  # five errors of 0.2 * sqrt(2 / 40)


def test_the_claim_that_opens_a_sentence_gives_it_its_tone() -> None:
    """Of two forgotten tasks the second is shown, so it stands first; the costs stand behind the gains."""
    rows = tasks(en=(0.3, -0.1, 0.7), bn=(0.2, 0.1, 0.3), rise=(0.1, -0.1, 0.3)).rows()
    shown = tasks(en=(0.4, 0.3, 0.5), bn=(0.2, 0.1, 0.3)).rows()
    rows += [{**row, "task": "ar"} for row in shown if row["task"] == "en"]
    two = Table("t", TASKS_COLUMNS, rows)
    found = words.trade_off(PICKED, two, 1)
    places = [found.text.index(text) for text in ("gave back 0.40", "give back any of en", "cost")]
    assert places == sorted(places)
    assert found.tone == "shown"
    lost, _ = words.ends(two)
    assert lost.text.startswith("From before to after: the loss of ar rose")
    assert lost.text.endswith(
        "that the loss of en rose is not shown (0.10 [−0.10, 0.30] nats per token)."
    )
    assert lost.tone == "shown"


def test_a_task_that_is_lost_further_opens_the_trade() -> None:
    rows = tasks(en=(0.4, 0.3, 0.5), bn=(0.2, 0.1, 0.3)).rows()
    worse = tasks(en=(-0.3, -0.5, -0.1), bn=(0.2, 0.1, 0.3)).rows()
    rows += [{**row, "task": "ar"} for row in worse if row["task"] == "en"]
    found = words.trade_off(PICKED, Table("t", TASKS_COLUMNS, rows), 1)
    assert found.text.startswith("Keeping 0.62 of every change raised the loss of ar by a further")
    assert found.tone == "warning"


@pytest.mark.parametrize(
    ("bn", "says"),
    [
        ((0.04, 0.03, 0.05), "rose by 0.04 [0.03, 0.05] nats"),
        ((-0.04, -0.05, -0.03), "fell by 0.04 [0.03, 0.05] nats"),
        ((0.0, -0.1, 0.1), "is not shown to have changed (0.00 [−0.10, 0.10] nats)"),
        ((0.02, *NOTHING), "is not shown to have changed (0.02 [no interval] nats)"),
    ],
)
def test_no_loss_keeps_or_exceeds_a_limit_to_a_divergence(bn: Span, says: str) -> None:
    table = tasks((0.3, 0.1, 0.5), bn)
    (found,) = words.constraints(PICKED, table, 1, {"bn": 0.02}, "checkpoints")
    assert found.text == (
        "Asked that bn diverge at most 0.02 nats further than the model after from the checkpoint that knows the task; its "
        f"loss on test rows {says}."
    )
    assert found.tone == "info"
    assert "A divergence is what chose, a loss is what is reported" in found.detail


def test_a_trade_that_a_divergence_chose_says_so() -> None:
    mixed = torch.tensor([[0.2, 1.0]], dtype=torch.float64)
    point = Point("component", "budget", budget=0.05, coefficients=mixed)
    table = tasks((0.3, 0.1, 0.5), (0.2, 0.1, 0.3))
    found = words.trade_off(point, table, 1, "checkpoints")
    assert "(lose ≤ 0.05, in divergence) gave back" in found.text
    assert "by divergence from the checkpoint that knows the task." in found.detail
    plain = words.trade_off(point, table, 1)
    assert "divergence" not in f"{plain.text} {plain.detail}"


def test_roles_that_a_user_named_were_not_read_off_rows() -> None:
    read, _ = words.ends(tasks((0, 0, 0), (0, 0, 0)))
    named, _ = words.ends(tasks((0, 0, 0), (0, 0, 0)), named=True)
    assert "read off the validation rows" in read.detail
    assert "Which tasks were learned was named" in named.detail


def test_every_target_of_the_settings_has_words() -> None:
    targets = get_args(get_type_hints(RepairSettings)["target"])
    assert set(words.CHOSEN_BY) == set(targets) == set(get_args(words.Criterion))


SURE, OPEN, UNKNOWN = (0.5, 0.4, 0.6), (0.01, -0.1, 0.12), (0.5, math.nan, math.nan)


def rival(name: str = "global", *, budget: float = math.nan, **given: Any) -> dict[str, Any]:
    """A row at rate 1, or at a budget; spans that are not given are those of a shown gain without cost."""
    is_rate = math.isnan(budget)
    row: dict[str, Any] = {
        "method": "component",
        "question": "rate 1" if is_rate else f"lose ≤ {budget:g}",
        "rival": name,
        "kind": "rate" if is_rate else "budget",
        "rate": 1.0 if is_rate else math.nan,
        "budget": budget,
        "same_model": given.pop("same_model", False),
        "n": 40,
        "n_unit": "rows",
    }
    spans = {"regained": (3.59, 3.5, 3.68), "paid": OPEN, "more_regained": OPEN}
    for column, span in {**spans, **given}.items():
        row |= dict(zip((column, f"{column}_low", f"{column}_high"), span, strict=True))
    return row


def said(*rows: dict[str, Any], criterion: Criterion = "text") -> Any:
    table = Table("repair_rivals", RIVALS_COLUMNS, rows)
    return words.answer(table, "component", rows[0]["question"], criterion)


def test_a_budget_names_what_was_regained_and_both_rivals_at_its_price() -> None:
    found = said(
        rival(budget=0.02, paid=(0.03, 0.01, 0.05), more_regained=(0.9, 0.8, 1.0)),
        rival("replay", budget=0.02, more_regained=(-0.7, -0.8, -0.6)),
    )
    assert found.text == (
        "At a cost of at most 0.02 nats a learned task (on validation rows), one coefficient per component regains 0.90 "
        "[0.80, 1.00] nats more of the old than one global coefficient at the same price; regains 0.70 [0.60, 0.80] nats less of "
        "the old than a replay fine-tune at the same price; by itself it regains 3.59 [3.50, 3.68] nats of the old and pays "
        "0.03 [0.01, 0.05] of the new."
    )
    assert found.tone == "shown"
    assert "where even its cheapest model costs more" in found.detail


@pytest.mark.parametrize(
    ("span", "tone", "says", "pays"),
    [
        (SURE, "shown", "regains 0.50 [0.40, 0.60] nats more of the old than", "0.50 [0.40, 0.60] nats more than one global"),
        (_minus(SURE), "shown", "regains 0.50 [0.40, 0.60] nats less", "one global coefficient gives back 0.50 [0.40, 0.60] nats more"),
        (OPEN, "not_shown", "is not shown to regain more or less", "one global coefficient does as well (0.01 [−0.10, 0.12]"),
        (UNKNOWN, "too_noisy", "at the same price (0.5 [no", "one global coefficient does as well (0.5 [no"),
    ],
)  # fmt: skip
def test_the_difference_at_the_same_price_decides_the_tone(
    span: Span, tone: str, says: str, pays: str
) -> None:
    for row in (rival(more_regained=span), rival(budget=0.1, more_regained=span)):
        found = said(row)
        assert found.tone == tone
        assert says in found.text
        table = Table("repair_rivals", RIVALS_COLUMNS, [row])
        point = Point("component", row["kind"], rate=row["rate"], budget=row["budget"])
        spent = words.trade_off(point, tasks((0.3, 0.1, 0.5), (0.2, 0.1, 0.3)), 1, rivals=table)
        assert pays in spent.text


def test_what_is_not_shown_is_not_claimed_of_the_method_itself() -> None:
    text = said(rival(regained=OPEN, paid=SURE)).text
    assert "is not shown to regain any of the old (0.01 [−0.10, 0.12] nats) and pays 0.50" in text
    assert "loses a further 0.50" in said(rival(regained=_minus(SURE))).text
    assert "wins a further 0.50 [0.40, 0.60] of the new" in said(rival(paid=_minus(SURE))).text


def test_the_smallest_budget_and_the_rate_nearest_to_1_are_told() -> None:
    rows = [rival(budget=0.1), rival(budget=0.02), *(rival() for _ in range(3))]
    for row, rate in zip(rows[2:], (0.125, 1.5, 8.0), strict=True):
        row |= {"rate": rate, "question": f"rate {rate:g}"}
    table = Table("repair_rivals", RIVALS_COLUMNS, rows)
    budget, rate = words.answers(table, "component")
    assert budget.text.startswith("At a cost of at most 0.02 nats")
    assert rate.text.startswith("Where one nat of the old is worth 1.5 of the new,")
    assert words.answers(table, "layer") == []


def test_what_was_asked_is_told_first() -> None:
    asked = rival() | {"kind": "asked", "question": "asked: bn ≤ 0.2"}
    table = Table("repair_rivals", RIVALS_COLUMNS, [rival(), asked])
    first, rate = words.answers(table, "component")
    assert first.text.startswith("Asked for bn ≤ 0.2 (on validation rows), one coefficient per")
    assert rate.text.startswith("Where one nat of the old")


@pytest.mark.parametrize("budget", [math.nan, 0.02], ids=["rate", "budget"])
def test_what_is_shown_opens_the_sentence_and_gives_it_its_tone(budget: float) -> None:
    """The rivals are given the other way round, and by itself the method is not shown to regain anything."""
    shown = rival("replay", budget=budget, regained=OPEN, more_regained=SURE)
    for weaker in (OPEN, UNKNOWN):
        found = said(rival(budget=budget, regained=OPEN, more_regained=weaker), shown)
        opening, second, itself = found.text.split("; ")
        assert found.tone == "shown"
        assert "0.50 [0.40, 0.60] nats" in opening
        assert second.startswith("is not shown to regain more or less")
        assert itself.startswith("by itself it is not shown to regain any of the old")


@pytest.mark.parametrize("budget", [math.nan, 0.02], ids=["rate", "budget"])
def test_one_global_coefficient_is_said_to_be_one(budget: float) -> None:
    row = rival(budget=budget, same_model=True, more_regained=(0.0, 0.0, 0.0))
    found = said(row)
    assert "one coefficient per component is itself one global coefficient;" in found.text
    assert "0.00 [0.00, 0.00]" not in found.text
    assert found.tone == "shown"


def test_a_divergence_is_said_to_be_what_chose_and_no_loss() -> None:
    budget = said(rival(budget=0.05), criterion="checkpoints")
    rate = said(rival(), criterion="checkpoints")
    asked = said(
        rival() | {"kind": "asked", "question": "asked: bn ≤ 0.2"}, criterion="checkpoints"
    )
    assert budget.text.startswith(
        "At a divergence from the checkpoint that knows the task of at most 0.05 nats a learned task (on valid"
    )
    assert "worth 1 of the new, in divergence from the checkpoint that knows" in rate.text
    assert asked.text.startswith("Asked for bn ≤ 0.2 in divergence from the checkpoint that knows")
    for found in (budget, rate, asked):
        assert "At a cost" not in found.text
        assert "the two are different things" in found.detail
    for found in (said(rival(budget=0.05)), said(rival())):
        assert "divergence" not in f"{found.text} {found.detail}"
