"""Rollback, the causal instrument: put one component back to where it was and see whose loss comes back.

`nats` is positive where putting the component back lowers the loss (it had been forgotten there), negative
where it raises it (it had been learned there). The ledger says how a loss was lost along the path; a rollback
asks what one change at the end would do: the two may agree in rank, but not in sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from crosstune.foundation.data import Encoded, encode
from crosstune.foundation.errors import CheckpointError, ModelError
from crosstune.foundation.evaluation import RowScores, score_rows
from crosstune.foundation.gradients.blocks import make_blocks, pad_id, sides_of
from crosstune.foundation.gradients.gradients import evaluating
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings
from crosstune.foundation.models import Anatomy, Part, Site, load_model, load_tokenizer, weights_at
from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells
from crosstune.foundation.settings.options import one_of
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.foundation.statistics.reliability import rank_correlation
from crosstune.interference.ledger.tables import NATS

_TASK = (
    Column.axis("task", about="The task whose loss is read."),
    Column.axis("side", about="Train rows (retention) or test rows (capability)."),
)
ROLLBACK = (
    *_TASK,
    Column.label("by", about="What was put back at once."),
    *SITE_COLUMNS,
    Column.value("loss", unit=NATS, about="Loss with this put back."),
    *Column.interval(
        "nats",
        names=("low", "high"),
        unit=NATS,
        about="Regained: loss now minus loss with it put back.",
        bounds="Jackknife-t, paired by row.",
    ),
    Column.value("share", about="Share of what putting everything back regains."),
    Column.label("n", "int64", about="Rows or groups the interval stands on."),
)
AGREEMENT = (
    *_TASK,
    *Column.interval(
        "rank_correlation",
        names=("low", "high"),
        about="Spearman: ledger contributions, rollback.",
        bounds="Interval over sites.",
    ),
    Column.label("sites", "int64", about="Sites that both know."),
)

Weights = Mapping[str, Tensor]
Checkpoint = nn.Module | str | Path | Weights


def measure_rollback(
    before: Checkpoint,
    after: nn.Module | str | Path,
    tasks: Mapping[str, object],
    *,
    tokenizer: Any = None,
    by: str = "component",
    blocks: BlockSettings | None = None,
    length: int = 128,
) -> Table:
    """What each task regains when one component of `after` is put back to `before`.

    The row `all` puts everything back and so is the model before; the row `none` is the model after. A
    component that did not change regains exactly 0. `after` is left as it was. Intervals are jackknife-t
    over rows, or over groups where rows have one, paired: each row is compared with itself.

    Args:
        before: A model, a model folder, a `.safetensors` file, or tensors by parameter name. Tensors may
            leave out parameters that do not require gradients; those count as unchanged.
        after: A model or a model folder, of the same architecture.
        tasks: Name to rows (the side `train`), or to a `Task`, of which both sides are scored.
        tokenizer: Encodes the rows; by default the one in the folder of `after`.
        by: What is put back at once: `component` (of one layer), `head` (of attention; else a component), `layer`, or
            `site` (expert, LoRA factor).
        blocks: Score the rows that a ledger with these blocks measures; by default every row given.
        length: Tokens kept of a row, where `blocks` does not say.

    Returns:
        The table `rollback`: one row for each task, side and component.

    Raises:
        CheckpointError: The two do not have the same parameters; the difference is shown.
        ModelError: There is no tokenizer.
        SettingsError: `by` is unknown.
    """
    remedy = "Use 'component' to compare with the forgetting ledger."
    one_of("by", by, ("component", "head", "layer", "site"), remedy)
    if tokenizer is None:
        if isinstance(after, nn.Module):
            raise ModelError(
                "tokenizer",
                law="must be given where `after` is a model in memory",
                found="none",
                remedy="Pass tokenizer=..., or the folder of the model.",
            )
        tokenizer = load_tokenizer(after)
    model = after if isinstance(after, nn.Module) else load_model(after)
    earlier = _fitting(_weights(before), model, partial=isinstance(before, Mapping))
    scorers = _scorers(tasks, tokenizer, blocks, length)
    # Float32 throughout: a half-precision loss moves by more than a component does.
    with evaluating(model, GradientSettings()):
        rows = list(_rollbacks(model, earlier, scorers, by))
    return Table("rollback", ROLLBACK, rows)


@dataclass(frozen=True)
class _Scorer:
    """Scores the rows of one side of a task."""

    task: str
    side: str
    encoded: list[Encoded]
    pad_id: int

    def score(self, model: nn.Module) -> RowScores:
        return score_rows(model, self.encoded, pad_id=self.pad_id)


def _scorers(
    tasks: Mapping[str, object], tokenizer: Any, blocks: BlockSettings | None, length: int
) -> list[_Scorer]:
    found = []
    for name, value in tasks.items():
        for side, rows in sides_of(value, f"tasks[{name!r}]").items():
            if blocks is None:
                encoded = encode(rows, tokenizer, length)
            else:
                made = make_blocks(name, rows, tokenizer, blocks)
                encoded = [row for block in made for row in block.rows]
            found.append(_Scorer(name, side, encoded, pad_id(tokenizer)))
    return found


def _rollbacks(
    model: nn.Module, earlier: Weights, scorers: Sequence[_Scorer], by: str
) -> Iterator[dict[str, object]]:
    anatomy = Anatomy.of(model)
    groups = _groups(anatomy.by_head() if by == "head" else anatomy, by)
    for scorer in scorers:
        now = scorer.score(model)
        with weights_at(
            model, {name: earlier[name].to(value) for name, value in model.named_parameters()}
        ):
            everything = scorer.score(model)
        total = (now.nats.sum() - everything.nats.sum()).item()
        scored = [(Site(None, "none"), now), (Site(None, "all"), everything)]
        for site, parts in groups.items():
            values = _put_back(model, earlier, parts)
            if not values:  # did not change
                scored.append((site, now))
                continue
            with weights_at(model, values):
                scored.append((site, scorer.score(model)))
        for site, scores in scored:
            where = {
                "task": scorer.task,
                "side": scorer.side,
                "by": by,
                **site_cells(site),
                "where": f"L{site.layer}" if site.component == "" else str(site),
            }
            yield {**where, **_regained(now, scores, total)}


def _regained(now: RowScores, then: RowScores, total: float) -> dict[str, object]:
    sums = now.by_unit(now.nats - then.nats)
    regained = ratio_jackknife(sums, now.by_unit(now.tokens))
    return {
        "loss": then.loss,
        "nats": regained.value.item(),
        "low": regained.low.item(),
        "high": regained.high.item(),
        "share": sums.sum().item() / total if total else float("nan"),
        "n": len(sums),
    }


def _groups(anatomy: Anatomy, by: str) -> dict[Site, list[Part]]:
    """What is put back at once; a whole layer has an empty component."""
    groups: dict[Site, list[Part]] = {}
    for part in sorted(anatomy.parts, key=lambda part: part.site.depth_order):
        site = part.site
        if by != "site":
            component = "" if by == "layer" and site.layer is not None else site.component
            site = replace(site, component=component, expert=None, factor=None, adapter=None)
        groups.setdefault(site, []).append(part)
    return groups


def _put_back(model: nn.Module, earlier: Weights, parts: Sequence[Part]) -> dict[str, Tensor]:
    """The parameters with these parts as they were; empty where nothing of them has changed."""
    known = dict(model.named_parameters())
    values: dict[str, Tensor] = {}
    for part in parts:
        now = known[part.parameter].detach()
        old = part.take(earlier[part.parameter].to(now))
        if torch.equal(part.take(now), old):
            continue
        value = values.setdefault(part.parameter, now.clone())
        part.take(value).copy_(old)
    return values


def _weights(before: Checkpoint) -> dict[str, Tensor]:
    if isinstance(before, Mapping):
        return dict(before)
    if not isinstance(before, nn.Module) and Path(before).suffix == ".safetensors":
        if not Path(before).is_file():
            raise CheckpointError(
                "before",
                law="must be an existing file",
                found=str(before),
                remedy="Check the path.",
            )
        return load_file(before)
    model = before if isinstance(before, nn.Module) else load_model(before)
    return {name: value.detach() for name, value in model.named_parameters()}


def _fitting(earlier: dict[str, Tensor], model: nn.Module, *, partial: bool) -> dict[str, Tensor]:
    """The earlier weights, if they are the model's parameters by name and shape."""
    known = dict(model.named_parameters())
    allowed = set(model.state_dict()) | {
        name for name, _ in model.named_parameters(remove_duplicate=False)
    }
    differences = [
        f"{name} is missing"
        for name, value in known.items()
        if name not in earlier and (value.requires_grad or not partial)
    ]
    differences += [f"{name} is not in `after`" for name in earlier if name not in allowed]
    differences += [
        f"{name} is {tuple(earlier[name].shape)}, in `after` {tuple(value.shape)}"
        for name, value in known.items()
        if name in earlier and earlier[name].shape != value.shape
    ]
    if differences:
        more = f"; and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(
            "before",
            law="must have the parameters of `after`, by name and shape",
            found="; ".join(differences[:3]) + more,
            remedy="Give two checkpoints of one model; for an adapter, give PEFT models.",
        )
    return {name: earlier.get(name, value.detach()) for name, value in known.items()}


def compare_with_ledger(rollback: Table, sites: Table, level: float = 0.95) -> Table:
    """How well the ledger's contributions and the rollback agree in rank, for each task and side.

    Contributions are summed to what the rollback put back at once. All rows given take part: filter both
    tables to one stage first.

    Args:
        rollback: What `measure_rollback` returned.
        sites: The ledger's `forgetting_sites`, or `forgetting_heads` for a rollback by head.
        level: Level of the interval; it treats sites as independent and so is a guide.

    Returns:
        The table `ledger_rollback_agreement`.
    """
    entries: dict[tuple[object, ...], float] = {}
    by = set(rollback.column("by"))
    for row in sites.rows():
        for key in (_key(row, kind) for kind in by):
            entries[key] = entries.get(key, 0.0) + row["nats"]
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in rollback.rows():
        key = _key(row, row["by"])
        if key in entries:
            pairs.setdefault((row["task"], row["side"]), []).append((entries[key], row["nats"]))
    rows = []
    for (task, side), values in pairs.items():
        booked, regained = torch.tensor(values, dtype=torch.float64).unbind(dim=1)
        rho = rank_correlation(booked, regained, level)
        rows.append(
            {
                "task": task,
                "side": side,
                "rank_correlation": rho.value.item(),
                "low": rho.low.item(),
                "high": rho.high.item(),
                "sites": len(values),
            }
        )
    return Table("ledger_rollback_agreement", AGREEMENT, rows)


def _key(row: Mapping[str, Any], by: str) -> tuple[object, ...]:
    fine = (row["expert"], row["factor"], row.get("adapter", "")) if by == "site" else (-1, "", "")
    head = (row["head"], row["kv_head"]) if by == "head" else (-1, -1)
    component = "" if by == "layer" and row["layer"] >= 0 else row["component"]
    return (by, row["task"], row["side"], row["layer"], component, *head, *fine)
