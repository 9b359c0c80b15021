"""The tables of a cell: what each skill costs after each arrival, what was born, who answers, and what it took."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.experts.accounts import LearnedSkill, SkillRows
from crosstune.experts.health import POSITIONS, SkillHealth
from crosstune.experts.mixture import ExpertMixture
from crosstune.experts.routing.passes import batches
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.records import Column, Table
from crosstune.foundation.statistics.intervals import Interval

NATS = "nats/token"
ARM = Column.axis("arm", about="How skills were learned.")
STAGE = Column.axis("stage", "int64", about="Which arrival of a skill this is after, from 0.")
SKILL = Column.axis("skill", about="Whose held-out rows.")
_ROWS = "Jackknife over rows."
TOKENS_SHOWN = 32
PARTS = ("whole", "experts", "router")
LOSSES = (
    *(ARM, STAGE, Column.label("arrived", about="The skill that arrived last."), SKILL),
    *Column.interval("loss", unit=NATS, about="Under today's gates.", bounds=_ROWS),
    *Column.interval("known", unit=NATS, about="With the skill's expert alone.", bounds=_ROWS),
    *Column.interval("cost", unit=NATS, about="What the router costs: loss − known.", bounds=_ROWS),
    *(
        column
        for part in PARTS
        for column in Column.interval(
            part,
            unit=NATS,
            about="Lost since the skill was learned last: whole = experts + router.",
            bounds="Jackknife over rows, paired.",
        )
    ),
    Column.value(
        "bits", unit="bits/byte", about="Per byte of the scored text, under today's gates."
    ),
)
BIRTHS = (
    *(ARM, STAGE, Column.label("arrived", about="The skill.")),
    Column.label(
        "is_new", "bool", about="Whether it had not come before, and the model does not know it."
    ),
    Column.label("verdict", about="What was said of its rows."),
    Column.value("p", about="The largest p of its rows against those of each known skill."),
    Column.value("similarity", about="Cosine with the nearest known skill."),
    Column.label("nearest", about="The known skill it is most like."),
    Column.label("born", "bool", about="Whether an expert was born for it."),
    Column.label("expert", about="Who learned it."),
    *Column.interval("gain", unit=NATS, about="What it won against the model alone.", bounds=_ROWS),
    Column.label("why"),
)
USAGE = (
    *(
        ARM,
        SKILL,
        Column.axis("answers", about="Whose gate: an expert's, or `base`, the model itself."),
    ),
    Column.value("gate", unit="share", about="Mean over real tokens of held-out rows, at the end."),
)
PLACES = (
    *(
        ARM,
        SKILL,
        Column.axis("position", "int64", about="From this token of a row up to the next."),
    ),
    Column.value("cost", unit=NATS, about="What the router costs there, at the end."),
)
TOKENS = (
    *(ARM, SKILL, Column.axis("token", about="Place and text of a token of one held-out row.")),
    USAGE[2],
    Column.value("gate", unit="share", about="At this token, mean over blocks."),
)
COST = (ARM, STAGE, Column.axis("what"), Column.value("value"))


def of_arm(arm: str, learned: Sequence[LearnedSkill], known: str | None) -> list[Table]:
    """The tables of one arm; that of experts routed by prefix brings the losses with the skill known."""
    last = learned[-1].held_out
    gates = (
        (arm, name, who, gate) for name, one in last.items() for who, gate in one.usage.items()
    )
    places = (
        (arm, name, position, cost)
        for name, one in last.items()
        for position, cost in zip(POSITIONS, one.by_position, strict=True)
    )
    costs = (
        (arm, stage, what, value)
        for stage, one in enumerate(learned)
        for what, value in one.figures.items()
    )
    return [
        Table("losses", LOSSES, _losses(arm, learned)),
        Table("births", BIRTHS, _births(arm, learned, known)),
        Table.of_tuples("usage", USAGE, gates),
        Table.of_tuples("positions", PLACES, places),
        Table.of_tuples("costs", COST, costs),
    ]


def of_tokens(arm: str, mixture: ExpertMixture, skills: Mapping[str, SkillRows]) -> Table:
    """The table `tokens`: who answers the beginning of one held-out row of each skill."""
    rows: list[tuple[Any, ...]] = []
    for name, own in skills.items():
        _, batch = next(batches(mixture, own.test[:1]))
        token_nats(mixture, batch)
        gates = mixture.routing.mean_gates[0, :TOKENS_SHOWN].tolist()
        names = () if mixture.router is None else mixture.router.names
        for at, (token, shares) in enumerate(zip(own.test[0].input_ids, gates, strict=False)):
            text = f"{at:02d} {mixture.tokenizer.decode([token])!r}"
            rows += [(arm, name, text, *one) for one in zip(names, shares, strict=True)]
    return Table.of_tuples("tokens", TOKENS, rows)


def _losses(arm: str, learned: Sequence[LearnedSkill]) -> Iterator[dict[str, Any]]:
    then: dict[str, SkillHealth] = {}
    for stage, one in enumerate(learned):
        then[one.skill] = one.held_out[one.skill]
        for name, found in one.held_out.items():
            lost = found.forgotten_since(then[name])
            yield {
                "arm": arm,
                "stage": stage,
                "arrived": one.skill,
                "skill": name,
                **cells("loss", found.loss),
                **cells("known", found.known_loss),
                **cells("cost", found.router_forgetting),
                **{key: value for part in PARTS for key, value in cells(part, lost[part]).items()},
                "bits": found.bits_per_byte,
            }


def _births(
    arm: str, learned: Sequence[LearnedSkill], known: str | None
) -> Iterator[dict[str, Any]]:
    seen = {known}
    for stage, one in enumerate(learned):
        yield {
            "arm": arm,
            "stage": stage,
            "arrived": one.skill,
            "is_new": one.skill not in seen,
            **{name: getattr(one, name) for name in ("verdict", "p", "similarity", "nearest")},
            **{name: getattr(one, name) for name in ("born", "expert", "why")},
            **dict(zip(_names("gain"), one.gain, strict=True)),
        }
        seen.add(one.skill)


def as_known(row: Mapping[str, Any], arm: str) -> dict[str, Any]:
    """A row of `losses` with the skill known: the loss of its expert alone, to which no router adds."""
    nothing = {key: 0.0 for part in ("cost", "router") for key in _names(part)}
    whole = dict(zip(_names("whole"), (row[key] for key in _names("experts")), strict=True))
    loss = dict(zip(_names("loss"), (row[key] for key in _names("known")), strict=True))
    return {**row, **nothing, **whole, **loss, "arm": arm, "bits": math.nan}


def cells(name: str, found: Interval) -> dict[str, float]:
    """A value and its bounds as cells of a row."""
    ends = (float(found.value), float(found.low), float(found.high))
    return dict(zip(_names(name), ends, strict=True))


def _names(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"
