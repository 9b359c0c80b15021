"""`repair`: from two checkpoints and some rows to a front, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_mapping
from crosstune.merging.checkpoints.endpoints import open_endpoints
from crosstune.merging.checkpoints.opening import Checkpoint
from crosstune.merging.result import Repair
from crosstune.merging.search import repair_endpoints
from crosstune.merging.selection import as_tasks
from crosstune.merging.settings import RepairSettings


def repair(
    before: Checkpoint,
    after: Checkpoint,
    tokenizer: Any = None,
    keep: Mapping[str, object] | None = None,
    *,
    between: Sequence[Checkpoint] = (),
    settings: RepairSettings | None = None,
    **options: Any,
) -> Repair:
    """Give back what a fine-tune forgot: search the models between two checkpoints for the best trade-offs.

    The models given are left as they are. Rows are split by group into those that choose (validation) and those that report (test);
    a `Task` brings its own split.

    Args:
        before: The model before: a model, a PEFT model, a folder or a hub id.
        after: The model after.
        tokenizer: Their tokenizer; by default the one in the folder of `after`.
        keep: Name → rows (or a `Task`) of every task that matters, the learned one among them.
        between: Checkpoints of the same training, in order; each gets coefficients of its own.
        settings: How to search; by default `RepairSettings()`.
        options: Single fields of the settings, such as ``granularity="component"``.

    Returns:
        The repair, with `.front`, `.pick(max_loss={"bn": 0.02})` and `.save(path)`.

    Raises:
        SettingsError: A field of `options` is unknown or impossible.
        DataError: There are fewer than two tasks, or too few or overlapping rows.
        CheckpointError: The models do not belong together.
    """
    chosen = _with_options(settings or RepairSettings(), options)
    if keep is None:
        raise SettingsError(
            "keep",
            law="must hold the rows of every task that matters",
            found="none",
            remedy='Pass keep={"en": rows, "bn": rows}.',
        )
    tasks = as_tasks(keep, chosen)
    ends = open_endpoints(
        before,
        after,
        between=between,
        tokenizer=tokenizer,
        device=chosen.device,
        precision=chosen.precision,
    )
    return repair_endpoints(ends, tasks, chosen)


def _with_options(settings: RepairSettings, options: Mapping[str, Any]) -> RepairSettings:
    given = dict(options)
    for name in ("granularity", "baselines", "learned"):
        if isinstance(given.get(name), str):
            given[name] = [given[name]]
    if not given:
        return settings
    from_mapping(RepairSettings, given)  # checks names and types as for a settings file
    frozen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return replace(settings, **frozen)
