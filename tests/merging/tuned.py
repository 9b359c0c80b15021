"""A fine-tune that learned and forgot, made by plain torch in a second, and settings small enough for tests of a repair."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tests.interference import tiny
from tests.merging import pairs

from crosstune.foundation.data import Encoded, Row, Task, collate, encode
from crosstune.foundation.evaluation import token_nats
from crosstune.merging import Endpoints, RepairSettings, open_endpoints
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.result import Repair
from crosstune.merging.scoring import losses_at_ends
from crosstune.merging.session import Roles, Session, Watch, open_session

SMALL = RepairSettings(
    baselines=("global",),
    replay=False,
    exchange_rates=(0.5, 2.0),
    budgets=(0.1,),
    rows=8,
    reported_rows=8,
    length=16,
    folds=2,
    penalties=(0.0, 0.1),
    evaluations=3,
    batch_tokens=64,
    seed=3,
)
EVERY = (
    *("global", "ramp", "layer", "component", "expert", "tensor", "embedding_rows"),
    *("kv_head", "head", "singular"),
)


def encoded(language: str, count: int, start: int = 0) -> list[Encoded]:
    return encode(tiny.rows(language, count, start), tiny.tokenizer(), SMALL.length)


def keep(count: int = 24) -> dict[str, list[Row]]:
    """Rows of two languages in which the same group says the same."""
    return {"en": tiny.rows("en", count), "bn": tiny.rows("bn", count)}


def split() -> dict[str, Task]:
    """The same with a split of one's own: the first half chooses, the second reports."""
    return {name: Task(name, tuple(rows[:12]), tuple(rows[12:])) for name, rows in keep().items()}


def teach(
    model: Any,
    language: str,
    steps: int,
    *,
    rate: float = 1e-2,
    only: str = "",
    unlearn: bool = False,
) -> Any:
    """A copy of the model that has learned (or lost) a language, in the parameters with this word in their name."""
    learned = copy.deepcopy(model)
    chosen = [p for name, p in learned.named_parameters() if only in name and p.requires_grad]
    optimizer = torch.optim.Adam(chosen, lr=rate, maximize=unlearn)
    rows = encoded(language, 8 * steps, start=500)
    for step in range(steps):
        batch = collate([rows[8 * step + at] for at in range(8)], 0)
        token_nats(learned, batch).mean().backward()
        optimizer.step()
        learned.zero_grad()
    return learned.eval()


@functools.cache
def _pair() -> tuple[Any, Any]:
    before = teach(tiny.llama(seed=1), "en", 60)
    return before, teach(before, "bn", 40, rate=2e-2)


def pair() -> tuple[Any, Any]:
    """Copies of a model that knows the first language, and of the same after it learned the second."""
    before, after = _pair()
    return copy.deepcopy(before), copy.deepcopy(after)


@functools.cache
def _adapted() -> tuple[Any, Any]:
    base = _pair()[0]
    adapter = pairs.adapted(
        copy.deepcopy(base), seed=4, fresh=True, r=4, target_modules="all-linear"
    )
    return base, teach(adapter, "bn", 60, rate=2e-2)


def adapted() -> tuple[Any, Any]:
    """The base and a LoRA adapter on it that learned the second language."""
    base, adapter = _adapted()
    return copy.deepcopy(base), copy.deepcopy(adapter)


def opened(before: Any, after: Any, **options: Any) -> Endpoints:
    return open_endpoints(before, after, tokenizer=tiny.tokenizer(), **options)


def both_roles(names: tuple[str, ...] = ("en", "bn")) -> Roles:
    """The first task forgotten and the second learned, whatever their losses."""
    nothing = dict.fromkeys(names, 0.0)
    return Roles(names, names[1:], names[:1], nothing, dict.fromkeys(names, 1.0))


def session(
    ends: Endpoints, *, rows: Mapping[str, list[Encoded]] | None = None, **options: Any
) -> Session:
    """A session on validation rows, with the groups that its granularity needs."""
    settings = replace(SMALL, **options)
    ends = by_input(ends) if settings.by_head else ends
    rows = rows or {"en": encoded("en", 8), "bn": encoded("bn", 8)}
    before, after = losses_at_ends(ends, rows, settings)
    roles = Roles(tuple(rows), ("bn",), ("en",), before, after)
    return open_session(ends, rows, roles, settings, Watch())


def cells(
    repair: Repair, leave_out: Iterable[str] = ("seconds",)
) -> dict[str, list[dict[str, Any]]]:
    """Every cell of every table but what a clock told; NaN as text, so that equal is equal."""
    return {
        name: [
            {key: repr(value) for key, value in row.items() if key not in leave_out}
            for row in table.rows()
        ]
        for name, table in repair.tables.items()
    }
