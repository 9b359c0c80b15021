"""A stage's settings in the words of transformers' TrainingArguments, and its learning rate at every step."""

from __future__ import annotations

import math
from pathlib import Path

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from crosstune.foundation.ranks import world_size
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training.settings import TrainingSettings, check_trackers

_OPTIMIZERS = {"adamw": "adamw_torch", "sgd": "sgd", "adafactor": "adafactor"}


def training_arguments(
    settings: TrainingSettings, output_folder: Path, seed: int, *, evaluates: bool, on_cpu: bool
) -> TrainingArguments:
    """The arguments that make transformers' loop do what the settings say, with every filter off that would hide a number.

    A model on the CPU stays there also where there is a GPU.
    """
    check_trackers(settings.report_to, sorted(get_available_reporting_integrations()))
    evaluates = evaluates and settings.evaluate_every > 0
    arguments = TrainingArguments(
        output_dir=str(output_folder),
        max_steps=settings.steps,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        optim=_OPTIMIZERS[settings.optimizer],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=settings.evaluate_every or None,
        save_strategy="steps" if settings.checkpoint_every else "no",
        save_steps=settings.checkpoint_every or 500,
        seed=Seeds(seed).derive("training") % 2**32,  # numpy's global generator takes 32 bits
        use_cpu=on_cpu,  # without it transformers would not see several CPU processes either
        report_to=list(settings.report_to) or "none",
        remove_unused_columns=False,
        ddp_find_unused_parameters=True,  # a term that is absent at a step leaves its parameters unused
        disable_tqdm=True,
        full_determinism=settings.deterministic,
    )
    # The processes are known only now. transformers uses this number for its throughput lines alone:
    # which rows a micro-batch holds is StepBatches' affair.
    micro_rows = settings.batch_rows // (settings.accumulation * world_size())
    arguments.per_device_train_batch_size = max(1, micro_rows)
    arguments._n_gpu = min(1, arguments.n_gpu)  # never nn.DataParallel: one process per device
    return arguments


def learning_rate_factor(step: int, *, kind: str, steps: int, warmup: int) -> float:
    """The share of the peak learning rate that optimizer step ``step`` (counted from 0) is taken with.

    Warm-up rises as (step + 1) / warmup, so no step is wasted at 0; linear and cosine fall so that
    the step after the last would be 0.

    Args:
        step: Optimizer steps already taken.
        kind: ``constant``, ``linear`` or ``cosine``.
        steps: Optimizer steps of the whole stage.
        warmup: Steps of the rise.

    Returns:
        A number in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    left = max(0.0, (steps - step) / max(1, steps - warmup))
    return left if kind == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))
