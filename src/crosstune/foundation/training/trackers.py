"""Sends a callback's own scalars to the trackers a trainer reports to, once each, at their step.

A trainer hands its `report_to` integrations no way to be reached from a user's callback: they run before it, and no event
carries the trainer. So this door makes its own instance of each named integration and lets it join the run that is open.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks

from crosstune.foundation import ranks


class Trackers:
    """The open tracker runs of one trainer; a scalar sent here arrives once in each, and in ``log_history``.

    Nothing is opened before the first scalar, so that the trainer's own integrations have opened their runs.
    """

    def __init__(self) -> None:
        self._integrations: list[TrainerCallback] | None = None

    def send(
        self,
        scalars: Mapping[str, float],
        step: int,
        args: TrainingArguments,
        state: TrainerState,
        model: object = None,
    ) -> None:
        """Every tracker named in ``args.report_to``, and ``state.log_history``, hold these scalars at this step.

        Some integrations describe the model when they start.
        """
        if not scalars:
            return
        state.log_history.append({**scalars, "step": step, "epoch": state.epoch})
        if not ranks.is_first():
            return
        if self._integrations is None:
            self._integrations = [
                _joined(kind, args) for kind in get_reporting_integration_callbacks(args.report_to)
            ]
        at_step = dataclasses.replace(state, global_step=step)
        for integration in self._integrations:
            integration.on_log(args, at_step, TrainerControl(), logs=dict(scalars), model=model)


def _joined(kind: type[TrainerCallback], args: TrainingArguments) -> TrainerCallback:
    integration = kind()
    join = _JOIN.get(kind.__name__)
    if join is not None:
        join(integration, args)
    return integration


def _join_wandb(integration: Any, args: TrainingArguments) -> None:
    # Its setup would watch the model and write the configuration a second time.
    integration._initialized = integration._wandb is None or integration._wandb.run is not None


def _join_trackio(integration: Any, args: TrainingArguments) -> None:
    # Its setup calls `trackio.init`, which opens another run wherever `run_name` is not given.
    integration._initialized = integration._trackio.context_vars.current_run.get() is not None


def _join_tensorboard(integration: Any, args: TrainingArguments) -> None:
    # Its default folder carries the second of its creation: the newest one below `output_dir` is the open run.
    if integration.logging_dir is not None or args.output_dir is None:
        return
    event_files = list(Path(args.output_dir, "runs").glob("*/events.out.tfevents*"))
    if event_files:
        newest = max(event_files, key=os.path.getmtime)
        integration.logging_dir = str(newest.parent)


_JOIN: dict[str, Callable[[Any, TrainingArguments], None]] = {
    "WandbCallback": _join_wandb,
    "TrackioCallback": _join_trackio,
    "TensorBoardCallback": _join_tensorboard,
}
